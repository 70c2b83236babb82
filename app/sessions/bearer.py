"""Signed JWTs (RFC 7519), verified by PyJWT under algorithms that the configured keys pin."""

from collections.abc import Iterator
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm

from app.service import current_service
from app.sessions.refusals import MAX_TOKEN_BYTES, InvalidSessionError
from app.settings import Key, Settings

LEEWAY = 15  # seconds, for clocks that differ


class _HS256(HMACAlgorithm):
    """HS256 with secrets that settings.py has seen to be secrets, and no keys.

    PyJWT's own tries at each token whether the secret is a key, by parsing it as each kind: a third of a verification.
    """

    def prepare_key(self, key: str) -> bytes:  # type: ignore[override]  # ours are strings
        return key.encode()


REASONS_OF_PYJWT: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not yet valid",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.InvalidIssuerError: "wrong issuer",
}

jwt.unregister_algorithm("HS256")
jwt.register_algorithm("HS256", _HS256(HMACAlgorithm.SHA256))


class NoSecretError(Exception):
    """No shared secret is configured: tokens can be verified, but not signed."""


def verify(token: str, settings: Settings) -> str | int:
    """Return the user id claim of a signed token, whatever the text or the number is.

    Raises InvalidSessionError, or jwks.NotKnownError while it could only be judged with a key set that cannot be had.
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
                leeway=LEEWAY,
                options={
                    "require": ["exp", "iat", settings.auth_user_id_claim],
                    # The user id may be in another claim; whichever it is, its type is checked below.
                    "verify_sub": False,
                },
            )
        # Both mean another key.
        except jwt.InvalidAlgorithmError:
            continue
        except jwt.InvalidSignatureError:
            reason = "wrong signature"
            continue
        except jwt.MissingRequiredClaimError as error:
            raise InvalidSessionError("missing claim", error.claim) from None
        # Hostile tokens reach json and int(), which raise the last four.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidSessionError(REASONS_OF_PYJWT.get(type(error), "malformed")) from None
        # PyJWT passes over an empty `aud`.
        if "aud" in claims and settings.auth_jwt_audience is None:
            raise InvalidSessionError("wrong audience")
        return _user_id(claims, settings.auth_user_id_claim)
    raise InvalidSessionError(reason)


def sign(user_id: str, settings: Settings, issued_at: int, expires_at: int) -> str:
    """Sign a token that `verify` takes, with the first shared secret, for the first audience.

    The times are seconds since 1970.

    For those who run the service; it signs for nobody itself. Raises NoSecretError.
    """
    secret = next((key.material for key in settings.auth_jwt_keys if isinstance(key.material, str)), None)
    if secret is None:
        raise NoSecretError
    claims = {
        settings.auth_user_id_claim: user_id,
        "iat": issued_at,
        "exp": expires_at,
        "aud": settings.auth_jwt_audience and settings.auth_jwt_audience[0],
        "iss": settings.auth_jwt_issuer,
    }
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, "HS256")


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
    # Only to choose among the keys: each still verifies with its own algorithm alone. Others are no reason to ask.
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
