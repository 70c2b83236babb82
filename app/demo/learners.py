"""The learners of the demo, and the session cookies that Auth.js would give them."""

import json

from joserfc import jwe

from app.sessions import cookies
from app.settings import Settings

FULL = "00000000-0000-4000-8000-000000000001"
FREE = "00000000-0000-4000-8000-000000000002"
NONE = "00000000-0000-4000-8000-000000000003"
BUYER = "00000000-0000-4000-8000-000000000004"
LEARNERS = {"full": FULL, "free": FREE, "buyer": BUYER, "none": NONE}
HOURS = 12


def session_cookie(settings: Settings, user_id: str, issued_at: int) -> tuple[str, str]:
    """Return the name and the value of the cookie that Auth.js v5 would set for a session of the next HOURS."""
    name = settings.auth_cookie_name or "authjs.session-token"
    key, kid = cookies.derive(settings.auth_secrets[0], name, 64)
    header = {"alg": "dir", "enc": "A256CBC-HS512", "kid": kid}
    claims = {settings.auth_user_id_claim: user_id, "iat": issued_at, "exp": issued_at + HOURS * 3600}
    return name, jwe.encrypt_compact(header, json.dumps(claims).encode(), key, algorithms=["dir", "A256CBC-HS512"])
