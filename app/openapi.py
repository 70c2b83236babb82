"""The contract in writing, for callers and their tools: GET /openapi.yaml, without a session."""

from pathlib import Path

from flask import Blueprint, Response, send_file

blueprint = Blueprint("openapi", __name__)


@blueprint.get("/openapi.yaml")
def document() -> Response:
    """The OpenAPI document, cached by whom it may concern until it changes."""
    return send_file(Path(__file__).with_name("openapi.yaml"), mimetype="application/yaml", max_age=300)
