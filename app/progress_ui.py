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
    # A browser asks for each file again, and most answers are a 304. The files import each other by plain names. So
    # after a deploy, a browser must not load old files from its cache together with new ones.
    "Cache-Control": "public, no-cache",
    # A browser loads a module of another origin only with CORS. The files are the same for everyone, so every page may
    # have them.
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}


def _view(content: bytes, mimetype: str) -> Callable[[], Response]:
    # A function and not a partial: Flask-Limiter reads the __name__ of every view, and a partial has none.
    def file() -> Response:
        response = Response(content, mimetype=mimetype, headers=HEADERS)
        tag(response, content)
        return response

    return file


# Each file has a rule of its own, so the answer to an unknown file is the 404 of every unknown path.
for name, content in FILES.items():
    view = _view(content, MEDIA_TYPES[Path(name).suffix])
    blueprint.add_url_rule(f"/progress-ui/{name}", name.removesuffix(".js").replace(".", "-"), view)
