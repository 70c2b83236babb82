"""GET /openapi.yaml, which needs no session: the OpenAPI document, for callers and their tools."""

from pathlib import Path

from flask import Blueprint, Response

from app.answers import tag

blueprint = Blueprint("openapi", __name__)


DOCUMENT = Path(__file__).with_name("openapi.yaml").read_bytes()


@blueprint.get("/openapi.yaml")
def document() -> Response:
    """Answer with the OpenAPI document. Every cache may keep it."""
    response = Response(DOCUMENT, mimetype="application/yaml", headers={"Cache-Control": "public, max-age=300"})
    tag(response, DOCUMENT)
    return response
