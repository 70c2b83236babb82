"""Who is calling (contract §5). The user id comes from the session only, never from a path, a query or a body.

A request with a bearer token is decided by the token, any other request by its session cookie. The service never looks
at both.
"""

from flask import request

from app.call import current_call
from app.keys.jwks import NoKeySetError
from app.problems import RETRY_AFTER, Problem
from app.service import current_service
from app.sessions import bearer, cookies, origins, tags
from app.sessions.refusals import NO_SESSION, InvalidSessionError
from app.settings import Settings
from app.user_ids import learner_id


def authenticate() -> None:
    """Set the user_id and the learner_tag of the call from the request's session.

    Raises Problem unauthenticated, other_learner or cross_site_request.
    """
    settings = current_service().settings
    call = current_call()
    # Another scheme than Bearer is for a proxy (contract §5), and is ignored here.
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    by_cookie = scheme.lower() != "bearer"
    try:
        if by_cookie:
            cookie = cookies.find(request.headers.get("Cookie", ""), settings)
            if cookie is None:
                call.error = NO_SESSION
                raise Problem("unauthenticated", headers={"WWW-Authenticate": 'Bearer realm="progress"'})
            user_id = _from_cookie(*cookie, settings)
        else:
            user_id = bearer.verify(token.strip(" "), settings)
        learner = learner_id(user_id, settings.auth_user_id_namespace)
        if learner is None:
            raise InvalidSessionError("unusable user id" if settings.auth_user_id_namespace else "not a UUID")
    except InvalidSessionError as error:
        call.error = f"{'cookie' if by_cookie else 'token'}: {error}"
        raise Problem(
            "unauthenticated",
            error.detail,
            {"WWW-Authenticate": f'Bearer realm="progress", error="invalid_token", error_description="{error.detail}"'},
        ) from None
    except NoKeySetError:
        call.error = "no key set: no fetch of AUTH_JWKS_URL has succeeded in the last 24 hours"
        raise Problem(
            "unavailable",
            "The service cannot fetch the keys that verify tokens at the moment. Try again after Retry-After seconds.",
            {"Retry-After": RETRY_AFTER},
        ) from None
    call.user_id = learner
    tags.check(call.user_id)
    if by_cookie:
        origins.check()


def _from_cookie(name: str, value: str, settings: Settings) -> str | int:
    """Return the user id of a cookie: an encrypted token, a signed token, or the key of a database session."""
    parts = value.count(".") + 1
    if parts == 5 and settings.auth_secrets:
        return cookies.decrypt(name, value, settings)
    if parts == 3 and (settings.auth_jwt_keys or settings.auth_jwks_url):  # some sites override Auth.js' encoding
        return bearer.verify(value, settings)
    service = current_service()
    if service.session_statement is None:
        raise InvalidSessionError(
            {5: "no secret is set", 3: "no key is set", 1: "no session table is set"}.get(parts, "malformed")
        )
    # A site may make its own session tokens, also with dots. PostgreSQL's text cannot hold a null character.
    if "\0" not in value:
        row = service.pool.read(service.session_statement, session_token=value)
        if row:
            return str(row["user_id"])
    raise InvalidSessionError("no such database session")
