"""GET /progress-ui/…, which needs no session: the two web components, for pages of any site."""

from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, Response

from app.answers import tag

blueprint = Blueprint("progress_ui", __name__)

FILES = {path.name: path.read_bytes() for path in sorted(Path(__file__).with_name("static").glob("*.js"))}
HEADERS = {
    # A browser asks for each file again, and most answers are a 304. The files import each other by plain names. So
    # after a deploy, a browser must not load old files from its cache together with new ones.
    "Cache-Control": "public, no-cache",
    # A browser loads a module of another origin only with CORS. The files are the same for everyone, so every page may
    # have them.
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}


def _view(content: bytes) -> Callable[[], Response]:
    # A function and not a partial: Flask-Limiter reads the __name__ of every view, and a partial has none.
    def file() -> Response:
        response = Response(content, mimetype="text/javascript", headers=HEADERS)
        tag(response, content)
        return response

    return file


# Each file has a rule of its own, so the answer to an unknown file is the 404 of every unknown path.
for name, content in FILES.items():
    blueprint.add_url_rule(f"/progress-ui/{name}", name.removesuffix(".js"), _view(content))
