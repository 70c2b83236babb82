"""The session cookies of Auth.js v5 and NextAuth v4, as their libraries write them: encrypted JWTs (RFC 7516).

Both encrypt directly with a key made from the site's secret by HKDF; v5 names the secret's key by its thumbprint.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import unquote

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from app.sessions.bearer import LEEWAY, InvalidTokenError
from app.settings import Settings

V5 = ("__Secure-authjs.session-token", "authjs.session-token")
V4 = ("__Secure-next-auth.session-token", "next-auth.session-token")
# Bytes of v5's keys. A256GCM was @auth/core's way up to 0.20.
V5_LENGTHS = {"A256CBC-HS512": 64, "A256GCM": 32}
# The numbers of chunks, as the libraries write them.
CHUNKS = {str(number): number for number in range(100)}


def find(header: str, settings: Settings) -> tuple[str, str] | None:
    """Return the name and the value of the session cookie that decides, joined if it came in chunks; None without one.

    The order of the names is the contract's (§5). Cookies are read as Auth.js' SessionStore does: of equal names the
    first counts, an empty cookie is as if absent, chunks are joined in the order of their numbers.
    """
    names = (settings.auth_cookie_name,) if settings.auth_cookie_name else (*V5, *V4)
    whole: dict[str, str] = {}
    chunks: dict[str, dict[int, str]] = {}
    # One pass, and a few calls for each cookie: 64 KiB of them come before any session is known. Werkzeug's parser would
    # also trim and unescape values, and make a session of what is none.
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        name = name.strip()
        if name in names:
            whole.setdefault(name, _unquoted(value))
            continue
        start, _, number = name.rpartition(".")
        if start in names and number in CHUNKS:
            chunks.setdefault(start, {}).setdefault(CHUNKS[number], _unquoted(value))
    for name in names:
        found = whole.get(name) or "".join(value for _, value in sorted(chunks.get(name, {}).items()))
        if found:
            return name, found
    return None


def _unquoted(value: str) -> str:
    # Auth.js writes a value percent-encoded, which shows where the site makes its own session tokens, in base64 say.
    return unquote(value.rstrip().removeprefix('"').removesuffix('"'))


def decrypt(name: str, token: str, settings: Settings) -> str:
    """Return the user id claim of an encrypted session from the cookie `name`, or raise InvalidTokenError."""
    try:
        header = _header(token)
        for key in _keys(name, header, settings):
            try:
                # Pinned: no algorithm but that of the libraries, and the encryption that the key is for.
                plaintext = jwe.decrypt_compact(token, key, algorithms=["dir", header["enc"]]).plaintext
            except JoseError:
                continue  # another secret's
            claims = json.loads(plaintext or b"")
            return _user_id(claims, settings.auth_user_id_claim)
    # What hostile headers and claims make the parsers raise.
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidTokenError("The session is not valid.")


def _header(token: str) -> dict[str, Any]:
    header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    # Neither library writes any other; `zip` and `crit` in particular are nothing to obey before the key is known.
    if not isinstance(header, dict) or header.keys() - {"kid"} != {"alg", "enc"}:
        raise ValueError("not a session's header")
    return header


def _keys(name: str, header: dict[str, Any], settings: Settings) -> Iterator[OctKey]:
    """The keys that may have encrypted a session with this header in the cookie `name`."""
    renamed = settings.auth_cookie_name == name
    if (name in V5 or renamed) and header["enc"] in V5_LENGTHS:
        made = [derive(secret, name, V5_LENGTHS[header["enc"]]) for secret in settings.auth_secrets]
        if "kid" in header:
            yield from (key for key, thumbprint in made if thumbprint == header["kid"])
        else:  # as the library: without a key id it is the newest secret's
            yield from (key for key, _ in made[:1])
    if (name in V4 or renamed) and header["enc"] == "A256GCM":
        yield from (derive(secret, None, 32)[0] for secret in settings.auth_secrets)


@cache
def derive(secret: str, name: str | None, length: int) -> tuple[OctKey, str]:
    """Derive the key of `length` bytes that v5 (for the cookie `name`) or v4 (None) makes of a secret.

    Returns it with its thumbprint (RFC 7638, with the SHA-2 of its length). Once for each secret: it costs more than a
    decryption.
    """
    info = f"Auth.js Generated Encryption Key ({name})" if name else "NextAuth.js Generated Encryption Key"
    raw = HKDF(SHA256(), length, salt=(name or "").encode(), info=info.encode()).derive(secret.encode())
    jwk = f'{{"k":"{_base64url(raw)}","kty":"oct"}}'
    return OctKey.import_key(raw), _base64url(hashlib.new(f"sha{length * 8}", jwk.encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _user_id(claims: Any, name: str) -> str:
    if not isinstance(claims, dict) or not isinstance(claims.get("exp"), int | float):
        raise InvalidTokenError("The session is not valid.")
    times = {time: claims[time] for time in ("exp", "nbf", "iat") if time in claims}
    now = time.time()
    # NaN compares as false with everything, so that each must be on its right side.
    if any(type(value) not in (int, float) for value in times.values()):
        raise InvalidTokenError("The session is not valid.")
    if not times["exp"] > now - LEEWAY:
        raise InvalidTokenError("The session has expired.")
    if not all(times.get(time, now) <= now + LEEWAY for time in ("nbf", "iat")):
        raise InvalidTokenError("The session is not yet valid.")
    user_id = claims.get(name)
    if not isinstance(user_id, str):
        raise InvalidTokenError("The session is not valid.")
    return user_id
