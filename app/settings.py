"""The settings: the environment, read once into one frozen object. An error is one line that names the setting."""

import base64
import binascii
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from psycopg.conninfo import conninfo_to_dict

from app import cpus
from app.user_ids import UUID_TEXT

if TYPE_CHECKING:
    from limits import RateLimitItem

T = TypeVar("T")

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
Network = IPv4Network | IPv6Network

DEFAULT_GRACE = "1 hour"
DEFAULT_USER_ID_METADATA = "userId"
NEW_LEARNERS = ("refuse", "add", "add-free")
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
# Hosts that http may be sent to, because it does not leave this machine.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


# Parameters that Prisma and others put into a database URL, and what to write for this service.
URL_PARAMETER_ADVICE = {
    "schema": "instead of schema write options=-csearch_path%3D and the schema's name",
    "pgbouncer": "instead of pgbouncer set PREPARE_THRESHOLD=off",
    "statement_cache_size": "instead of statement_cache_size set PREPARE_THRESHOLD",
    "connection_limit": "instead of connection_limit set WEB_THREADS",
    "pool_timeout": "instead of pool_timeout set DATABASE_TIMEOUT",
    "socket_timeout": "instead of socket_timeout set DATABASE_TIMEOUT",
    "sslaccept": "instead of sslaccept write sslmode=verify-full or sslmode=require",
    "sslidentity": "instead of sslidentity write sslcert and sslkey",
}


# The id of a price that was created as a plan may be any word, such as `gold`.
STRIPE_ID = re.compile(r"[A-Za-z0-9_.:/@+-]{1,255}", re.ASCII)


class SettingsError(ValueError):
    """A setting is missing or wrong. The text is one line that begins with the name of the setting."""


@dataclass(frozen=True)
class Key:
    """A key that verifies signed tokens. It is used with one algorithm only, which the type of the key decides."""

    algorithm: str
    material: str | PublicKey


@dataclass(frozen=True)
class Settings:
    """Every setting of the service (contract §7). docs/operating.md explains each one."""

    database_url: str
    database_timeout: float  # seconds
    prepare_threshold: int | None
    auth_secrets: tuple[str, ...]
    auth_cookie_name: str | None
    auth_session_table: str | None
    auth_jwt_keys: tuple[Key, ...]
    auth_jwks_url: str | None
    auth_jwt_algorithms: tuple[str, ...]
    auth_jwt_audience: tuple[str, ...] | None
    auth_jwt_issuer: str | None
    auth_user_id_claim: str
    auth_user_id_namespace: UUID | None
    new_learners: str  # one of NEW_LEARNERS
    allowed_origins: frozenset[str]
    rate_limit_writes: "RateLimitItem | None"
    rate_limit_storage_uri: str | None
    stripe_webhook_secrets: tuple[str, ...]
    stripe_user_id_metadata: str
    stripe_prices: tuple[str, ...]
    subscription_grace: int  # seconds
    webhook_url: str | None  # None: writes add no events
    metrics: bool
    log_level: str
    host: str
    port: int
    web_concurrency: int
    web_threads: int
    forwarded_allow_ips: tuple[Network, ...]


@dataclass(frozen=True)
class DeliverySettings:
    """The settings of `make deliver` (contract §9). It has no way to verify a session, because it answers no calls."""

    database_url: str
    database_timeout: float  # seconds
    prepare_threshold: int | None
    webhook_url: str
    webhook_secrets: tuple[str, ...]
    webhook_metrics_port: int | None  # None: no metrics
    log_level: str
    host: str


class DatabaseSettings(Protocol):
    """The settings that a connection to the database is made with."""

    @property
    def database_url(self) -> str:
        """A libpq URL."""

    @property
    def database_timeout(self) -> float:
        """In seconds."""

    @property
    def prepare_threshold(self) -> int | None:
        """After how many runs a statement is prepared; None: never."""


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __call__(self, name: str, parse: Callable[[str], T], default: str = "") -> T:
        try:
            return parse(value_of(name, self._environ) or default)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None


def from_environ(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting. Raise SettingsError for the first one that is wrong. An empty value counts as unset."""
    read = _Reader(environ)
    algorithms = read("AUTH_JWT_ALGORITHMS", _algorithms)
    # The service does not send: only `make deliver` needs the secrets. But a wrong one stops this start too, so that no
    # events pile up unsent.
    webhook_url, _ = _webhook(read)
    settings = Settings(
        database_url=read("DATABASE_URL", database_url),
        database_timeout=read("DATABASE_TIMEOUT", _seconds, "5"),
        prepare_threshold=read("PREPARE_THRESHOLD", _prepare_threshold, "5"),
        auth_secrets=read("AUTH_SECRET", _comma_separated_secrets),
        auth_cookie_name=read("AUTH_COOKIE_NAME", _cookie_name),
        auth_session_table=read("AUTH_SESSION_TABLE", _table),
        auth_jwt_keys=_permitted(
            read("AUTH_JWT_SECRET", _secrets) + read("AUTH_JWT_PUBLIC_KEY", _public_keys), algorithms
        ),
        auth_jwks_url=read("AUTH_JWKS_URL", _jwks_url),
        auth_jwt_algorithms=algorithms,
        auth_jwt_audience=read("AUTH_JWT_AUDIENCE", _audiences),
        auth_jwt_issuer=read("AUTH_JWT_ISSUER", str) or None,
        auth_user_id_claim=read("AUTH_USER_ID_CLAIM", str, "sub"),
        auth_user_id_namespace=read("AUTH_USER_ID_NAMESPACE", user_id_namespace),
        new_learners=read("NEW_LEARNERS", new_learners, "refuse"),
        allowed_origins=read("ALLOWED_ORIGINS", _origins),
        # Here an empty value does not count as unset: it turns the limit off.
        rate_limit_writes=read("RATE_LIMIT_WRITES", _limit, "" if "RATE_LIMIT_WRITES" in environ else "10 per minute"),
        rate_limit_storage_uri=read("RATE_LIMIT_STORAGE_URI", _storage_uri),
        stripe_webhook_secrets=read("STRIPE_WEBHOOK_SECRET", _comma_separated_secrets),
        stripe_user_id_metadata=read("STRIPE_USER_ID_METADATA", str, DEFAULT_USER_ID_METADATA),
        stripe_prices=read("STRIPE_PRICES", stripe_ids),
        subscription_grace=read("SUBSCRIPTION_GRACE", duration, DEFAULT_GRACE),
        webhook_url=webhook_url,
        metrics=read("METRICS", _on_or_off, "off"),
        log_level=read("LOG_LEVEL", _log_level, "info"),
        host=read("HOST", _host, "127.0.0.1"),
        port=read("PORT", _whole_number(0, 65535), "8000"),
        web_concurrency=read("WEB_CONCURRENCY", _whole_number(1, 1000), str(cpus.usable())),
        web_threads=read("WEB_THREADS", _whole_number(1, 1000), "4"),
        forwarded_allow_ips=read("FORWARDED_ALLOW_IPS", _networks, "127.0.0.1"),
    )
    ways = (settings.auth_secrets, settings.auth_session_table, settings.auth_jwt_keys, settings.auth_jwks_url)
    if not any(ways):
        raise SettingsError(
            "AUTH_SECRET: is not set, and neither is AUTH_SESSION_TABLE, AUTH_JWT_SECRET, AUTH_JWT_PUBLIC_KEY or"
            " AUTH_JWKS_URL; set one of them, for without it no session can be verified"
        )
    return settings


def delivery_from_environ(environ: Mapping[str, str] = os.environ) -> DeliverySettings:
    """Read the settings of `make deliver`. Raise SettingsError for the first one that is wrong."""
    read = _Reader(environ)
    webhook_url, webhook_secrets = _webhook(read)
    if webhook_url is None:
        raise SettingsError("WEBHOOK_URL: is not set; it names the receiver, e.g. https://www.example.org/webhooks")
    return DeliverySettings(
        database_url=read("DATABASE_URL", database_url),
        database_timeout=read("DATABASE_TIMEOUT", _seconds, "5"),
        prepare_threshold=read("PREPARE_THRESHOLD", _prepare_threshold, "5"),
        webhook_url=webhook_url,
        webhook_secrets=webhook_secrets,
        webhook_metrics_port=read("WEBHOOK_METRICS_PORT", _metrics_port),
        log_level=read("LOG_LEVEL", _log_level, "info"),
        host=read("HOST", _host, "127.0.0.1"),
    )


def sends_events(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether writes add events. Raise SettingsError if a setting of the events is wrong."""
    return _webhook(_Reader(environ))[0] is not None


def _webhook(read: _Reader) -> tuple[str | None, tuple[str, ...]]:
    """Return where events are sent, and the secrets that sign them."""
    allow_http = read("WEBHOOK_ALLOW_HTTP", _on_or_off, "off")
    url = read("WEBHOOK_URL", lambda text: _webhook_url(text, allow_http))
    secrets = read("WEBHOOK_SECRET", _webhook_secrets)
    if url and not secrets:
        raise SettingsError(
            'WEBHOOK_SECRET: is not set; it signs the events; make one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return url, secrets


def value_of(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the text of a variable, empty if it is unset.

    Raises ValueError if the text has quotation marks around it or is not UTF-8.
    """
    text = environ.get(name, "").strip()
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # Python reads bytes that are not UTF-8 as lone surrogates
            raise ValueError("is not UTF-8 text") from None
    # In the name of a table, quotation marks have a meaning.
    return text if name == "AUTH_SESSION_TABLE" else _without_quotes(text)


def _without_quotes(text: str) -> str:
    # docker --env-file keeps quotation marks as part of the value. Without this check the service would start with a
    # wrong secret, and no session would decrypt.
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise ValueError("has quotation marks around it, which would be a part of the value; write it without them")
    return text


def database_url(text: str) -> str:
    """Return a libpq URL after checking its form, without a connection.

    Raises ValueError. Its text never repeats the URL, which may hold a password.
    """
    if not text:
        raise ValueError("is not set; it names the database, e.g. postgresql://user@host/progress")
    if not re.match(r"postgres(ql)?://", text):
        raise ValueError("is not a libpq URL, which begins with postgresql://")
    try:
        parts = conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        raise ValueError(
            _unknown_parameters(text) or "is not a libpq URL, such as postgresql://user:password@host:5432/progress"
        ) from None
    # An @ or / in a password ends the password early. libpq takes the rest for the host or the port, and its error
    # would show it.
    hosts = str(parts.get("host", "")).split(",")
    ports = filter(None, str(parts.get("port", "")).split(","))
    if any("@" in host[1:] and not host.startswith("/") for host in hosts) or not all(map(_is_port, ports)):
        raise ValueError("has no valid host and port; in a password, write @ as %40, / as %2F and : as %3A")
    return text


def _unknown_parameters(url: str) -> str:
    """Return what to write instead of the parameters of a URL that libpq does not know; empty if it knows all."""
    query = url.partition("?")[2]
    # With an @ after the ?, the text may be a part of the password. No message may repeat that.
    if "@" in query:
        return ""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    advice = []
    for place, (name, value) in enumerate((pair.partition("=")[::2] for pair in query.split("&")), 1):
        if name in URL_PARAMETER_ADVICE:
            advice.append(URL_PARAMETER_ADVICE[name])
        elif name == "ssl" and value != "true":
            advice.append("instead of ssl write sslmode=disable, sslmode=require or sslmode=verify-full")
        elif "=" in value and name in known:
            advice.append("write = as %3D in the value of a parameter")
        elif name not in known and name != "ssl" and value and re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,39}", name):
            # libpq's parameters are in lower case. Any other word may be a part of a password that has an & in it.
            named = re.fullmatch("[a-z_]+", name)
            advice.append(f"leave out {name!r}" if named else f"leave out number {place} after the ?")
    return f"has parameters that libpq does not know: {'; '.join(dict.fromkeys(advice))}" if advice else ""


def _limit(text: str) -> "RateLimitItem | None":
    # Flask-Limiter only logs a limit that it cannot read, and then allows every write.
    if not text:
        return None
    # Imported here, because almost no task of make needs it, and its import takes long.
    from limits import parse_many

    try:
        limits = parse_many(text)
    except ValueError:
        limits = []
    # Of two limits, the first would count writes that the second refuses. The library reads "per 0 minutes" as "per 1
    # minute".
    if len(limits) != 1 or re.search(r"\b0+\b", text):
        raise ValueError(f"{text!r} is not a limit such as '10 per minute' or '5 per 10 seconds'")
    return limits[0]


def _storage_uri(text: str) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
        # The other storages of the library limits count each worker alone, or not exactly.
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is not a URL like redis://host:6379/0; leave it empty to count in the database")
    return text


def user_id_namespace(text: str) -> UUID | None:
    """Return the namespace of the UUIDs that user ids become. Return None for an empty text: all ids are UUIDs."""
    if not text:
        return None
    if not UUID_TEXT.fullmatch(text):
        make = 'python3 -c "import uuid; print(uuid.uuid4())"'
        raise ValueError(f"{text!r} is not a UUID, as 8-4-4-4-12 hexadecimal digits; make one with: {make}")
    return UUID(text)


def new_learners(text: str) -> str:
    """Return what the service does with a person who is not enrolled. Raise ValueError for an unknown word."""
    if text not in NEW_LEARNERS:
        raise ValueError(f"{text!r} is none of {', '.join(NEW_LEARNERS)}")
    return text


def duration(text: str) -> int:
    """Return a duration such as `90 seconds`, `30 minutes`, `1 hour`, `2 days` or `0` in seconds."""
    if text == "0":
        return 0
    found = re.fullmatch(r"([0-9]{1,6}) (second|minute|hour|day)s?", text)
    if found:
        seconds = int(found[1]) * {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[found[2]]
        if seconds <= 366 * 86400:
            return seconds
    raise ValueError(f"{text!r} is not a duration such as '1 hour', '30 minutes', '2 days' or '0', of a year at most")


def stripe_ids(text: str) -> tuple[str, ...]:
    """Return the comma-separated ids of prices and products. Raise ValueError for a text that cannot be one."""
    ids = _list(text)
    for each in ids:
        if not STRIPE_ID.fullmatch(each):
            raise ValueError(f"{each!r} is not the id of a price or product at Stripe, such as price_1 or prod_1")
    return tuple(ids)


def _on_or_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"{text!r} is neither on nor off")
    return text == "on"


def _log_level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(f"{text!r} is none of debug, info, warning, error")
    return text.lower()


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def _host(text: str) -> str:
    # gunicorn would try a wrong address five times, and its error would not name the setting.
    try:
        socket.getaddrinfo(text, None)
    except (OSError, UnicodeError):
        raise ValueError(f"{text!r} is not the name or address of a host, e.g. 127.0.0.1 or 0.0.0.0") from None
    return text


def _networks(text: str) -> tuple[Network, ...]:
    networks: list[Network] = []
    for part in map(str.strip, text.split(",")):
        try:
            networks += map(ip_network, ("0.0.0.0/0", "::/0") if part == "*" else (part,))
        except ValueError:
            raise ValueError(f"{part!r} is not an address, a network or '*'; e.g. 127.0.0.1,10.0.0.0/8") from None
    # An IPv6 socket (HOST=::) accepts IPv4 too. There the peer 10.0.0.1 is ::ffff:10.0.0.1 (RFC 4291, 2.5.5.2).
    mapped = [
        ip_network(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
        for network in networks
        if network.version == 4
    ]
    return (*networks, *mapped)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not float(text):
        raise ValueError(f"{text!r} is not a number of seconds above 0, e.g. 5 or 0.5")
    return float(text)


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def _prepare_threshold(text: str) -> int | None:
    try:
        return None if text == "off" else _whole_number(0, 1_000_000)(text)
    except ValueError as error:
        raise ValueError(f"{error}, and not 'off'") from None


def _list(text: str) -> list[str]:
    return [_without_quotes(entry.strip()) for entry in text.split(",")] if text else []


def _comma_separated_secrets(text: str) -> tuple[str, ...]:
    secrets = _list(text)
    if not all(secrets):
        raise ValueError("has an empty secret between its commas")
    return tuple(secrets)


def _audiences(text: str) -> tuple[str, ...] | None:
    audiences = _list(text)
    if not all(audiences):
        raise ValueError("has an empty audience between its commas")
    return tuple(audiences) or None


def _cookie_name(text: str) -> str | None:
    if text and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):  # RFC 6265 §4.1.1: a token
        raise ValueError(f"{text!r} is not the name of a cookie")
    return text or None


def _table(text: str) -> str | None:
    """Return the name of a table or view, with or without a schema, in quotation marks: `"auth"."sessions"`."""
    if not text:
        return None
    part = r'"(?:[^"\x00]|"")+"|[A-Za-z_][A-Za-z0-9_$]*'
    if not re.fullmatch(rf"(?:{part})(?:\.(?:{part}))?", text):
        raise ValueError(f'{text!r} is not the name of a table, such as sessions, "Session" or auth.sessions')
    # PostgreSQL reads a name without quotation marks in lower case. The same change here allows quotation marks around
    # every name.
    return ".".join(name if name[0] == '"' else f'"{name.lower()}"' for name in re.findall(part, text))


def _jwks_url(text: str) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
        local = parts.hostname in LOCAL_HOSTS
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ValueError("is not an https URL (http is allowed for this machine only)")
    return text


def _webhook_url(text: str, allow_http: bool) -> str | None:
    # No message repeats the URL: its path or query may be a secret of the receiver's.
    if not text:
        return None
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        valid = bool(re.fullmatch(r"[0-9a-f:.]+|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", host)) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.scheme not in ("https", "http") or not re.fullmatch("[!-~]+", text):
        raise ValueError("is not a URL such as https://www.example.org/webhooks")
    if "@" in parts.netloc:
        raise ValueError("has a user name or a password; leave it out, because receivers verify the signature")
    if "#" in text:
        raise ValueError("has a fragment (#), which is never sent; leave it out")
    if parts.scheme == "http" and host not in LOCAL_HOSTS and not allow_http:
        raise ValueError(
            "is not an https URL (http is allowed for this machine only; with WEBHOOK_ALLOW_HTTP=on for every host)"
        )
    return text


def _webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = _comma_separated_secrets(text)
    for secret in secrets:
        try:
            # The libraries of Standard Webhooks would take other texts too, and sign with a key that nobody meant.
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
            raise ValueError(
                'is not whsec_ and the base64 of 24 to 64 bytes; make one with: echo "whsec_$(openssl rand -base64 32)"'
            )
    return secrets


def _metrics_port(text: str) -> int | None:
    return _whole_number(1, 65535)(text) if text else None


def _origins(text: str) -> frozenset[str]:
    origins = _list(text)
    for origin in origins:
        # Browsers send the scheme and the host in lower case, and the port only if it is not the default of the scheme.
        if not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[1-9][0-9]{0,4})?", origin):
            raise ValueError(f"{origin!r} is not an origin, such as https://www.example.org; `*` and null are refused")
        if origin.endswith(":443" if origin.startswith("https") else ":80"):
            raise ValueError(f"{origin!r} names the default port of its scheme, which browsers leave out")
    return frozenset(origins)


def _secrets(text: str) -> tuple[Key, ...]:
    secrets = _list(text)
    if any(len(secret.encode()) < 32 for secret in secrets):  # RFC 7518 §3.2: as long as the hash, or longer
        raise ValueError("has a secret under 32 bytes; make one with: openssl rand -base64 33")
    try:
        for secret in secrets:
            HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    # If a public key were the secret, anybody could sign tokens.
    except jwt.InvalidKeyError:
        raise ValueError(
            "has a key in PEM or SSH form, which is not a secret; a public key belongs in AUTH_JWT_PUBLIC_KEY"
        ) from None
    return tuple(Key("HS256", secret) for secret in secrets)


def _public_keys(text: str) -> tuple[Key, ...]:
    if not text:
        return ()
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("the file is not text") from None
    try:
        # In an environment that takes no line breaks, PEM has the two characters "\n" instead.
        key = load_pem_public_key(text.replace("\\n", "\n").encode())
    except Exception:  # noqa: BLE001 - cryptography raises errors of several kinds; all mean the same here
        raise ValueError("is not a public key in PEM; it begins with -----BEGIN PUBLIC KEY-----") from None
    return (public_key(key),)


def public_key(key: object) -> Key:
    """Return a public key with the algorithm of its type. Raise ValueError for a type that the service does not use."""
    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        return Key("RS256", key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key("ES256", key)
    if isinstance(key, Ed25519PublicKey):
        return Key("EdDSA", key)
    raise ValueError("must be an RSA key of 2048 bits or more (RS256), a P-256 key (ES256) or an Ed25519 key (EdDSA)")


def _algorithms(text: str) -> tuple[str, ...]:
    algorithms = tuple(_list(text)) or ALGORITHMS
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ValueError(f"{name!r} is none of {', '.join(ALGORITHMS)}")
    return algorithms


def _permitted(keys: tuple[Key, ...], algorithms: tuple[str, ...]) -> tuple[Key, ...]:
    permitted = tuple(key for key in keys if key.algorithm in algorithms)
    if len(permitted) < len(keys):
        useless = sorted({key.algorithm for key in keys} - set(algorithms))
        raise SettingsError(f"AUTH_JWT_ALGORITHMS: leaves out {', '.join(useless)}, which a configured key needs")
    return permitted
