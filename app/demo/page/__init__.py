"""The page of `make run` at /, its sign-in, and a receiver of events. In any other service all of these are 404."""

import base64
import hashlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from flask import Blueprint, Response, request
from standardwebhooks import Webhook, WebhookVerificationError

from app import answers
from app.demo.learners import HOURS, LEARNERS, session_cookie
from app.problems import Problem
from app.service import current_service
from app.sessions import cookies, origins
from app.sessions.refusals import InvalidSessionError
from app.settings import delivery_from_environ

blueprint = Blueprint("demo", __name__)

FOLDER = Path(__file__).parent
# The events that the receiver has got since the start of the demo, one a line. It is a file because gunicorn may have
# several workers.
RECEIVED = FOLDER.parent.parent.parent / ".local" / "events.jsonl"
STYLES = (FOLDER / "index.html").read_text().partition("<style>")[2].partition("</style>")[0]
HASH = base64.b64encode(hashlib.sha256(STYLES.encode()).digest()).decode()
# No inline script, no other style than the page's own, and no HTML made from text: the components must work on a site
# with this policy.
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'sha256-{HASH}'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
FILES = {
    "/": ("index.html", "text/html"),
    "/demo/page.js": ("page.js", "text/javascript"),
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


@blueprint.get("/demo/session")
def session() -> Response:
    """Answer which learner is signed in (`full`, `free`, `buyer`, `none` or null)."""
    settings = current_service().settings
    learner = None
    cookie = cookies.find(request.headers.get("Cookie", ""), settings)
    if cookie:
        try:
            user_id = cookies.decrypt(*cookie, settings)
            learner = next((name for name, known in LEARNERS.items() if known == user_id), None)
        except InvalidSessionError:
            pass  # the session has expired, or belongs to another site on this machine
    return answers.answer(json.dumps({"learner": learner}))


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
    response = answers.answer(json.dumps({"learner": learner}))
    # SameSite=Lax and HttpOnly, like the cookie of Auth.js.
    response.set_cookie(name, value, max_age=HOURS * 3600, httponly=True, samesite="Lax", secure=name.startswith("__"))
    return response


@blueprint.post("/demo/webhook")
def receive() -> Response:
    """Take an event from the deliverer, as a site's own receiver does: verify it, and take each `webhook-id` once."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        # The deliverer signs with each secret, so one is enough.
        event = Webhook(delivery_from_environ().webhook_secrets[0]).verify(request.get_data(), headers)
    except (WebhookVerificationError, ValueError) as error:
        raise Problem("invalid_signature", "This receiver takes signed events only (WEBHOOK_SECRET).") from error
    received = {"webhookId": headers["webhook-id"], "receivedAt": datetime.now(UTC).isoformat(), "event": event}
    if all(earlier["webhookId"] != received["webhookId"] for earlier in _received()):
        with RECEIVED.open("a") as file:
            file.write(json.dumps(received) + "\n")
    return Response(status=204)


@blueprint.get("/demo/events")
def events() -> Response:
    """Answer how many events the receiver has got, and those after the first `?after=`: none without it."""
    received = _received()
    after = request.args.get("after", type=int)
    return answers.answer(json.dumps({"count": len(received), "events": [] if after is None else received[after:]}))


def _received() -> list[dict[str, str]]:
    return [json.loads(line) for line in RECEIVED.read_text().splitlines()]
