"""The two web components, for pages of any site: GET /progress-ui/…, without a session."""

from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, Response

from app.answers import tag

blueprint = Blueprint("progress_ui", __name__)

FILES = {path.name: path.read_bytes() for path in sorted(Path(__file__).with_name("static").glob("*.js"))}
HEADERS = {
    # A browser asks for each file again, which is a 304 most times. The files import each other by plain names, so that
    # old ones that a browser still holds must not meet new ones after a deploy.
    "Cache-Control": "public, no-cache",
    # Modules of another origin only run with CORS; the files are nobody's own, so that any page may have them.
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}


def _view(content: bytes) -> Callable[[], Response]:
    # A function, and no partial: Flask-Limiter asks every view for its name.
    def file() -> Response:
        response = Response(content, mimetype="text/javascript", headers=HEADERS)
        tag(response, content)
        return response

    return file


# A rule each, so that an unknown file is an unknown path like any other.
for name, content in FILES.items():
    blueprint.add_url_rule(f"/progress-ui/{name}", name.removesuffix(".js"), _view(content))
