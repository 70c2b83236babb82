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
from joserfc.registry import JWE_HEADER_REGISTRY, HeaderParameter

from app.sessions.bearer import LEEWAY
from app.sessions.refusals import InvalidSessionError
from app.settings import Settings

V5 = ("__Secure-authjs.session-token", "authjs.session-token")
V4 = ("__Secure-next-auth.session-token", "next-auth.session-token")
# Bytes of v5's keys. A256GCM was @auth/core's way up to 0.20.
V5_LENGTHS = {"A256CBC-HS512": 64, "A256GCM": 32}
# jose, which Auth.js decrypts with, ignores every other member of the header, whatever its value: `typ` and `cty`, say.
_PASSED_OVER = HeaderParameter("passed over", lambda _: None)
_REGISTRIES = {
    enc: jwe.JWERegistry(
        {name: _PASSED_OVER for name in JWE_HEADER_REGISTRY if name not in ("alg", "enc")},
        # Pinned: no algorithm but that of the libraries.
        algorithms=["dir", enc],
        strict_check_header=False,
    )
    for enc in V5_LENGTHS
}
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
    # One pass, a few calls for each cookie: up to 64 KiB of them come before any session is known. Werkzeug's parser
    # would also trim and unescape values, and make a session of what is none.
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


def decrypt(name: str, token: str, settings: Settings) -> str | int:
    """Return the user id claim of an encrypted session from the cookie `name`, or raise InvalidSessionError."""
    try:
        header = _header(token)
        for key in _keys(name, header, settings):
            try:
                plaintext = jwe.decrypt_compact(token, key, registry=_REGISTRIES[header["enc"]]).plaintext
            except JoseError:
                continue  # another secret's
            return _user_id(json.loads(plaintext or b""), header, settings.auth_user_id_claim)
    # What hostile headers and claims make the parsers raise.
    except (ValueError, TypeError, RecursionError):
        raise InvalidSessionError("malformed") from None
    raise InvalidSessionError("wrong secret")


def _header(token: str) -> dict[str, Any]:
    header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    if not isinstance(header, dict):
        raise InvalidSessionError("malformed")
    # Neither library writes `zip` or `crit`, which are nothing to obey before the key is known.
    if header.get("alg") != "dir" or header.keys() & {"zip", "crit"}:
        raise InvalidSessionError("wrong encryption")
    return header


def _keys(name: str, header: dict[str, Any], settings: Settings) -> Iterator[OctKey]:
    """The keys that may have encrypted a session with this header in the cookie `name`."""
    renamed = settings.auth_cookie_name == name
    enc = header.get("enc", "")
    v5 = (name in V5 or renamed) and enc in V5_LENGTHS
    v4 = (name in V4 or renamed) and enc == "A256GCM"
    if not v5 and not v4:
        raise InvalidSessionError("wrong encryption")
    if v5:
        made = [derive(secret, name, V5_LENGTHS[enc]) for secret in settings.auth_secrets]
        if "kid" in header:
            yield from (key for key, thumbprint in made if thumbprint == header["kid"])
        else:  # as the library: without a key id it is the newest secret's
            yield from (key for key, _ in made[:1])
    if v4:
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


def _user_id(claims: Any, header: dict[str, Any], name: str) -> str | int:
    # What a header repeats of the claims must be the same (RFC 7519 §5.3).
    if not isinstance(claims, dict) or any(header[m] != claims.get(m) for m in ("iss", "sub", "aud") if m in header):
        raise InvalidSessionError("malformed")
    for required in ("exp", name):
        if claims.get(required) is None:
            raise InvalidSessionError("missing claim", required)
    for timed in ("exp", "nbf", "iat"):
        if timed in claims and type(claims[timed]) not in (int, float):
            raise InvalidSessionError("unusable claim", timed)
    now = time.time()
    # NaN compares as false with everything, so that each must be on its right side. `iat` is not compared, as the
    # libraries do not: a site whose clock is ahead signs its learners in.
    if not claims["exp"] > now - LEEWAY:
        raise InvalidSessionError("expired")
    if not claims.get("nbf", now) <= now + LEEWAY:
        raise InvalidSessionError("not yet valid")
    user_id: str | int = claims[name]
    # Not isinstance(): in Python, true and false are integers too.
    if type(user_id) not in (str, int):
        raise InvalidSessionError("unusable claim", name)
    return user_id
