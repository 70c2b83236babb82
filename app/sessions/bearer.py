"""Signed JWTs (RFC 7519), verified by PyJWT under algorithms that the configured keys pin."""

from collections.abc import Iterator
from typing import Any

import jwt
from flask import current_app
from jwt.algorithms import HMACAlgorithm

from app.sessions.jwks import KeySet
from app.settings import Key, Settings

LEEWAY = 15  # seconds, for clocks that differ
LONGEST = 8192  # bytes


class _HS256(HMACAlgorithm):
    """HS256 with secrets that settings.py has seen to be secrets, and no keys.

    PyJWT's own tries at each token whether the secret is a key, by parsing it as each kind: a third of a verification.
    """

    def prepare_key(self, key: str) -> bytes:  # type: ignore[override]  # ours are strings
        return key.encode()


jwt.unregister_algorithm("HS256")
jwt.register_algorithm("HS256", _HS256(HMACAlgorithm.SHA256))


class NoSecretError(Exception):
    """No shared secret is configured: tokens can be verified, but not signed."""


class InvalidTokenError(Exception):
    """A token that does not verify. Its text says as much as helps an honest caller."""


def verify(token: str, settings: Settings) -> str:
    """Return the user id claim of a signed token, a string of any form.

    Raises InvalidTokenError, or jwks.NotKnownError while it could only be judged with a key set that cannot be had.
    """
    if len(token) > LONGEST:
        raise InvalidTokenError("The token is too long.")
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
        except (jwt.InvalidAlgorithmError, jwt.InvalidSignatureError):
            continue  # another key's
        except jwt.ExpiredSignatureError:
            raise InvalidTokenError("The token has expired.") from None
        # Hostile tokens reach json and int(), which raise these.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            break
        # PyJWT passes over an empty `aud`.
        if "aud" in claims and settings.auth_jwt_audience is None:
            break
        return _user_id(claims, settings.auth_user_id_claim)
    raise InvalidTokenError("The token is not valid.")


def sign(user_id: str, settings: Settings, issued_at: int, expires_at: int) -> str:
    """Sign a token that `verify` takes, with the first shared secret; the times are seconds since 1970.

    For those who run the service; it signs for nobody itself. Raises NoSecretError.
    """
    secret = next((key.material for key in settings.auth_jwt_keys if isinstance(key.material, str)), None)
    if secret is None:
        raise NoSecretError
    claims = {
        settings.auth_user_id_claim: user_id,
        "iat": issued_at,
        "exp": expires_at,
        "aud": settings.auth_jwt_audience,
        "iss": settings.auth_jwt_issuer,
    }
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, "HS256")


def _keys(token: str, settings: Settings) -> Iterator[Key]:
    yield from settings.auth_jwt_keys
    key_set: KeySet | None = current_app.extensions.get("key_set")
    if key_set is None:
        return
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return
    # Only to choose among the keys: each still verifies with its own algorithm alone. Others are no reason to ask.
    if header.get("alg") in settings.auth_jwt_algorithms and header["alg"] != "HS256":
        yield from key_set.find(header.get("kid"))


def _user_id(claims: dict[str, Any], name: str) -> str:
    # PyJWT also takes a string of digits as a time; RFC 7519 §2 has only numbers.
    if any(type(claims[time]) not in (int, float) for time in ("exp", "iat", "nbf") if time in claims):
        raise InvalidTokenError("The token is not valid.")
    user_id = claims[name]
    if not isinstance(user_id, str):
        raise InvalidTokenError("The token is not valid.")
    return user_id
