"""Who is calling (contract §5). The user id comes from here alone, never from a path, a query or a body.

Today: bearer tokens. Auth.js cookies, database sessions and the cross-site check of writes by cookie belong here too.
"""

import re

from flask import current_app, g, request

from app.problems import Problem
from app.sessions import bearer
from app.settings import Settings

# uuid.UUID would also take braces, `urn:uuid:` and no hyphens.
USER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def authenticate() -> None:
    """Set g.user_id, lower-case, from the request's session, or raise Problem unauthenticated."""
    settings: Settings = current_app.extensions["settings"]
    # Another scheme is a proxy's affair (contract §5): it is as if it were not there.
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Problem("unauthenticated", headers={"WWW-Authenticate": 'Bearer realm="progress"'})
    try:
        user_id = bearer.verify(token.strip(" "), settings)
        if not USER_ID.fullmatch(user_id):
            raise bearer.InvalidTokenError(f"The token's {settings.auth_user_id_claim} is not a UUID.")
    except bearer.InvalidTokenError as error:
        raise Problem(
            "unauthenticated",
            f"{error} Sign in again.",
            {"WWW-Authenticate": f'Bearer realm="progress", error="invalid_token", error_description="{error}"'},
        ) from None
    g.user_id = user_id.lower()
