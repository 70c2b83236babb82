"""The contract in writing, for callers and their tools: GET /openapi.yaml, without a session."""

from pathlib import Path

from flask import Blueprint, Response

from app.answers import tag

blueprint = Blueprint("openapi", __name__)


DOCUMENT = Path(__file__).with_name("openapi.yaml").read_bytes()


@blueprint.get("/openapi.yaml")
def document() -> Response:
    """The OpenAPI document, to be cached by anyone."""
    response = Response(DOCUMENT, mimetype="application/yaml", headers={"Cache-Control": "public, max-age=300"})
    tag(response, DOCUMENT)
    return response
