"""Signed JWTs (RFC 7519), verified by PyJWT under algorithms that the configured keys pin."""

from collections.abc import Iterator
from typing import Any

import jwt

from app.service import current_service
from app.sessions.refusals import MAX_TOKEN_BYTES, InvalidSessionError
from app.settings import Key, Settings

LEEWAY_SECONDS = 15  # for clocks that differ

REASONS_OF_PYJWT: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not yet valid",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.InvalidIssuerError: "wrong issuer",
}


def verify(token: str, settings: Settings) -> str | int:
    """Return the user id claim of a signed token, whatever the text or the number is.

    Raises InvalidSessionError. Raises jwks.NoKeySetError if only a key of the provider's set could verify the token,
    and the service has no such set, because no fetch of it has succeeded lately.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidSessionError("too long")
    reason = "wrong algorithm"
    for key in _keys(token, settings):
        try:
            claims = jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                audience=settings.auth_jwt_audience,
                issuer=settings.auth_jwt_issuer,
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["exp", "iat", settings.auth_user_id_claim],
                    # PyJWT would refuse a `sub` that is not text. Below, _user_id checks the claim that has the user
                    # id, which may be another one than `sub`, and may be a number.
                    "verify_sub": False,
                },
            )
        # After these two errors the next key may still verify the token.
        except jwt.InvalidAlgorithmError:
            continue
        except jwt.InvalidSignatureError:
            reason = "wrong signature"
            continue
        except jwt.MissingRequiredClaimError as error:
            raise InvalidSessionError("missing claim", error.claim) from None
        # The last four come from json and int(), to which PyJWT passes the text of a hostile token.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidSessionError(REASONS_OF_PYJWT.get(type(error), "malformed")) from None
        # If no audience is set, PyJWT accepts a token whose `aud` is empty.
        if "aud" in claims and settings.auth_jwt_audience is None:
            raise InvalidSessionError("wrong audience")
        return _user_id(claims, settings.auth_user_id_claim)
    raise InvalidSessionError(reason)


def _keys(token: str, settings: Settings) -> Iterator[Key]:
    yield from settings.auth_jwt_keys
    key_set = current_service().key_set
    if key_set is None:
        if not settings.auth_jwt_keys:
            raise InvalidSessionError("no key is set")
        return
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidSessionError("malformed") from None
    # Nothing has verified the header yet. Its `alg` only decides whether to look in the key set at all: a key there has
    # an algorithm of its own, and verifies with that one alone. The set has no keys for HS256, which uses a secret.
    if header.get("alg") in settings.auth_jwt_algorithms and header["alg"] != "HS256":
        found = key_set.find(header.get("kid"))
        if not found:
            raise InvalidSessionError("unknown kid")
        yield from found


def _user_id(claims: dict[str, Any], name: str) -> str | int:
    for time in ("exp", "iat", "nbf"):
        # PyJWT also takes a string of digits as a time; RFC 7519 §2 has only numbers.
        if time in claims and type(claims[time]) not in (int, float):
            raise InvalidSessionError("unusable claim", time)
    user_id: str | int = claims[name]
    # Not isinstance(): in Python, true and false are integers too.
    if type(user_id) not in (str, int):
        raise InvalidSessionError("unusable claim", name)
    return user_id
