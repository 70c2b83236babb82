"""The session cookies of Auth.js v5 and NextAuth v4: encrypted JWTs (RFC 7516).

Both libraries derive the key from the site's secret by HKDF, and encrypt with that key directly. The header of v5 names
the key by its thumbprint.
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

from app.sessions.bearer import LEEWAY_SECONDS
from app.sessions.refusals import InvalidSessionError
from app.settings import Settings

V5 = ("__Secure-authjs.session-token", "authjs.session-token")
V4 = ("__Secure-next-auth.session-token", "next-auth.session-token")
# The length of v5's key for each encryption. @auth/core used A256GCM up to version 0.20.
V5_KEY_BYTES = {"A256CBC-HS512": 64, "A256GCM": 32}
# Auth.js decrypts with the library jose, which ignores every other member of the header, for instance `typ` and `cty`,
# whatever its value is.
_IGNORED = HeaderParameter("ignored", lambda _: None)
_REGISTRIES = {
    enc: jwe.JWERegistry(
        {name: _IGNORED for name in JWE_HEADER_REGISTRY if name not in ("alg", "enc")},
        # Only the algorithms that the libraries use.
        algorithms=["dir", enc],
        strict_check_header=False,
    )
    for enc in V5_KEY_BYTES
}
# The number of a chunk as the libraries write it, after a dot at the end of the cookie's name.
CHUNK_NUMBERS = {str(number): number for number in range(100)}


def find(header: str, settings: Settings) -> tuple[str, str] | None:
    """Return the name and the value of the session cookie, joined if it came in chunks. Return None without one.

    The contract (§5) has the order of the names. Cookies are read as Auth.js' SessionStore reads them: of two cookies
    with one name the first counts, an empty cookie counts as absent, and chunks are joined in the order of their
    numbers.
    """
    names = (settings.auth_cookie_name,) if settings.auth_cookie_name else (*V5, *V4)
    whole: dict[str, str] = {}
    chunks: dict[str, dict[int, str]] = {}
    # One pass with a few calls for each cookie, because a caller without a session may send up to 64 KiB of cookies.
    # Werkzeug's parser would also trim and unescape the values. It would accept values that Auth.js does not.
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        name = name.strip()
        if name in names:
            whole.setdefault(name, _unquoted(value))
            continue
        start, _, number = name.rpartition(".")
        if start in names and number in CHUNK_NUMBERS:
            chunks.setdefault(start, {}).setdefault(CHUNK_NUMBERS[number], _unquoted(value))
    for name in names:
        found = whole.get(name) or "".join(value for _, value in sorted(chunks.get(name, {}).items()))
        if found:
            return name, found
    return None


def _unquoted(value: str) -> str:
    # Auth.js percent-encodes the value. This matters if the site makes its own session tokens, for instance in base64.
    return unquote(value.rstrip().removeprefix('"').removesuffix('"'))


def decrypt(name: str, token: str, settings: Settings) -> str | int:
    """Return the user id claim of the encrypted session in the cookie `name`, or raise InvalidSessionError."""
    try:
        header = _header(token)
        for key in _keys(name, header, settings):
            try:
                plaintext = jwe.decrypt_compact(token, key, registry=_REGISTRIES[header["enc"]]).plaintext
            except JoseError:
                continue  # the session is encrypted with another secret
            return _user_id(json.loads(plaintext or b""), header, settings.auth_user_id_claim)
    # The parsers raise these for hostile headers and claims.
    except (ValueError, TypeError, RecursionError):
        raise InvalidSessionError("malformed") from None
    raise InvalidSessionError("wrong secret")


def _header(token: str) -> dict[str, Any]:
    header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    if not isinstance(header, dict):
        raise InvalidSessionError("malformed")
    # Neither library writes `zip` or `crit`. They must not be obeyed before the key has verified the header.
    if header.get("alg") != "dir" or header.keys() & {"zip", "crit"}:
        raise InvalidSessionError("wrong encryption")
    return header


def _keys(name: str, header: dict[str, Any], settings: Settings) -> Iterator[OctKey]:
    """Yield the keys that may have encrypted the session in the cookie `name`, which has this header."""
    renamed = settings.auth_cookie_name == name
    enc = header.get("enc", "")
    v5 = (name in V5 or renamed) and enc in V5_KEY_BYTES
    v4 = (name in V4 or renamed) and enc == "A256GCM"
    if not v5 and not v4:
        raise InvalidSessionError("wrong encryption")
    if v5:
        derived = [derive(secret, name, V5_KEY_BYTES[enc]) for secret in settings.auth_secrets]
        if "kid" in header:
            yield from (key for key, thumbprint in derived if thumbprint == header["kid"])
        else:  # as in Auth.js: a session without a key id is encrypted with the newest secret
            yield from (key for key, _ in derived[:1])
    if v4:
        yield from (derive(secret, None, 32)[0] for secret in settings.auth_secrets)


@cache
def derive(secret: str, name: str | None, length: int) -> tuple[OctKey, str]:
    """Return the key of `length` bytes that v5 (for the cookie `name`) or v4 (`name` is None) derives from a secret.

    Returns the key and its thumbprint (RFC 7638, with the SHA-2 of the same length). The result is cached, because
    deriving a key takes longer than a decryption.
    """
    info = f"Auth.js Generated Encryption Key ({name})" if name else "NextAuth.js Generated Encryption Key"
    raw = HKDF(SHA256(), length, salt=(name or "").encode(), info=info.encode()).derive(secret.encode())
    jwk = f'{{"k":"{_base64url(raw)}","kty":"oct"}}'
    return OctKey.import_key(raw), _base64url(hashlib.new(f"sha{length * 8}", jwk.encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _user_id(claims: Any, header: dict[str, Any], name: str) -> str | int:
    # A claim that the header repeats must have the same value there (RFC 7519 §5.3).
    if not isinstance(claims, dict) or any(header[m] != claims.get(m) for m in ("iss", "sub", "aud") if m in header):
        raise InvalidSessionError("malformed")
    for required in ("exp", name):
        if claims.get(required) is None:
            raise InvalidSessionError("missing claim", required)
    for timed in ("exp", "nbf", "iat"):
        if timed in claims and type(claims[timed]) not in (int, float):
            raise InvalidSessionError("unusable claim", timed)
    now = time.time()
    # A comparison with NaN is false, so the conditions say what is valid, and NaN is refused. `iat` is not compared,
    # because the libraries do not compare it either: a learner of a site whose clock is fast can still sign in.
    if not claims["exp"] > now - LEEWAY_SECONDS:
        raise InvalidSessionError("expired")
    if not claims.get("nbf", now) <= now + LEEWAY_SECONDS:
        raise InvalidSessionError("not yet valid")
    user_id: str | int = claims[name]
    # Not isinstance(): in Python, true and false are integers too.
    if type(user_id) not in (str, int):
        raise InvalidSessionError("unusable claim", name)
    return user_id
