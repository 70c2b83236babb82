"""The two web components and their types, for pages of any site: GET /progress-ui/…, without a session."""

from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, Response

from app.answers import tag

blueprint = Blueprint("progress_ui", __name__)

# Types are served as text, because browsers show text, and nothing runs it.
MEDIA_TYPES = {".js": "text/javascript", ".ts": "text/plain"}
FILES = {
    path.name: path.read_bytes()
    for path in sorted(Path(__file__).with_name("static").iterdir())
    if path.suffix in MEDIA_TYPES
}
HEADERS = {
    # A browser asks for each file again, and mostly gets a 304. The files import each other by plain names. Without the
    # question, a browser could mix files of two releases after a deploy.
    "Cache-Control": "public, no-cache",
    # A page of another origin can only run modules that are sent with CORS. The files are public, so every page may.
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}


def _view(content: bytes, mimetype: str) -> Callable[[], Response]:
    # A function and not a partial, because Flask-Limiter reads the name of every view.
    def file() -> Response:
        response = Response(content, mimetype=mimetype, headers=HEADERS)
        tag(response, content)
        return response

    return file


# Each file has a rule, so that the name of an unknown file is an unknown path. Flask allows no dots in a view's name.
for name, content in FILES.items():
    view = _view(content, MEDIA_TYPES[Path(name).suffix])
    blueprint.add_url_rule(f"/progress-ui/{name}", name.removesuffix(".js").replace(".", "-"), view)
