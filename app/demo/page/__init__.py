"""The page of `make run` at /, and its sign-in. Only the demo registers it. In any other service it is a 404."""

import json
import time
from pathlib import Path

from flask import Blueprint, Response, request

from app import answers
from app.demo.courses import COURSES
from app.demo.learners import HOURS, LEARNERS, session_cookie
from app.problems import Problem
from app.service import current_service
from app.sessions import cookies, origins
from app.sessions.refusals import InvalidSessionError

blueprint = Blueprint("demo", __name__)

FOLDER = Path(__file__).parent
# No inline script, no inline style, and no HTML made from text: the components must work on a site with this policy.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
FILES = {
    "/": ("index.html", "text/html"),
    "/demo/page.js": ("page.js", "text/javascript"),
    "/demo/page.css": ("page.css", "text/css"),
    "/demo/icon.svg": ("icon.svg", "image/svg+xml"),
}


def _file() -> Response:
    name, mimetype = FILES[str(request.url_rule)]
    response = Response((FOLDER / name).read_bytes(), mimetype=mimetype)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


for path, (name, _) in FILES.items():
    blueprint.add_url_rule(path, name.replace(".", "_"), _file)


def _session(learner: str | None) -> str:
    courses = [{"courseId": id, "title": title} for id, title, _ in COURSES]
    return json.dumps({"learner": learner, "courses": courses})


@blueprint.get("/demo/session")
def session() -> Response:
    """Answer which learner is signed in (`full`, `free`, `buyer`, `none` or null), and the courses to choose from."""
    settings = current_service().settings
    learner = None
    cookie = cookies.find(request.headers.get("Cookie", ""), settings)
    if cookie:
        try:
            user_id = cookies.decrypt(*cookie, settings)
            learner = next((name for name, known in LEARNERS.items() if known == user_id), None)
        except InvalidSessionError:
            pass  # the session has expired, or belongs to another site on this machine
    return answers.answer(_session(learner))


@blueprint.post("/demo/session")
def sign_in() -> Response:
    """Sign a learner in (`{"learner": "full"}`) with the cookie that Auth.js would set. Refuse pages of other sites."""
    origins.check()
    settings = current_service().settings
    body = request.get_json(silent=True)
    learner = body.get("learner") if isinstance(body, dict) else None
    if not isinstance(learner, str) or learner not in LEARNERS:
        raise Problem("invalid_body", f"Send one of these learners: {', '.join(LEARNERS)}.")
    name, value = session_cookie(settings, LEARNERS[learner], int(time.time()))
    response = answers.answer(_session(learner))
    # SameSite=Lax and HttpOnly, like the cookie of Auth.js.
    response.set_cookie(name, value, max_age=HOURS * 3600, httponly=True, samesite="Lax", secure=name.startswith("__"))
    return response
