"""Signs the tokens of make token and of make run. The service itself never signs one."""

import math
import time
from datetime import UTC, datetime

import jwt

from app.settings import Settings
from app.tasks import TaskError

MAX_TOKEN_HOURS = 8784  # a leap year


def token(user_id: str, hours: str, settings: Settings) -> tuple[str, datetime]:
    """Sign a token for a learner. Return the token and the time when it expires."""
    try:
        seconds = float(hours) * 3600
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TOKEN_HOURS * 3600:
        raise TaskError(f"HOURS={hours} is not a number of hours above 0, at most {MAX_TOKEN_HOURS}: a year")
    now = int(time.time())
    expires = now + math.ceil(seconds)
    return sign(user_id, settings, now, expires), datetime.fromtimestamp(expires, UTC)


def sign(user_id: str, settings: Settings, issued_at: int, expires_at: int) -> str:
    """Sign a token that the service accepts, with the first shared secret and for the first audience.

    The times are seconds since 1970. Raises TaskError if no shared secret is configured: without one, tokens can be
    verified, but not signed.
    """
    secret = next((key.material for key in settings.auth_jwt_keys if isinstance(key.material, str)), None)
    if secret is None:
        raise TaskError("AUTH_JWT_SECRET: is not set; a token can be signed with a shared secret only")
    claims = {
        settings.auth_user_id_claim: user_id,
        "iat": issued_at,
        "exp": expires_at,
        "aud": settings.auth_jwt_audience and settings.auth_jwt_audience[0],
        "iss": settings.auth_jwt_issuer,
    }
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, "HS256")
