"""The settings, contract §7: one that is missing or wrong stops the start with one line that names it."""

import dataclasses
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from app import cpus
from app.database import readiness
from app.database.readiness import NotReadyError
from app.settings import Key, SettingsError, delivery_from_environ, from_environ
from tests.world import LEARNER, SECRET

ROOT = Path(__file__).parent.parent
URL = "postgresql://user:pass-word@host/progress"
BASE = {"DATABASE_URL": URL, "AUTH_JWT_SECRET": SECRET}
WEBHOOK_SECRET = "whsec_" + "A" * 42 + "8="
OTHER_SECRET = "another secret of the tests that is as long"


def public_pem(key):
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form).decode()


def pem(key):
    return public_pem(key.public_key())


RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS256": pem(RSA),
    "ES256": pem(ec.generate_private_key(ec.SECP256R1())),
    "EdDSA": pem(ed25519.Ed25519PrivateKey.generate()),
}
PRIVATE_KEY = RSA.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


def verified_with(settings):
    return [key.algorithm for key in settings.auth_jwt_keys]


def networks(*names):
    return tuple(map(ip_network, names))


def test_what_is_not_set_has_the_contracts_default():
    settings = from_environ(BASE)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    assert values.pop("auth_jwt_keys") == (Key("HS256", SECRET),)
    assert str(values.pop("rate_limit_writes")) == "10 per 1 minute"
    assert values == {
        "database_url": URL,
        "database_timeout": 5.0,
        "prepare_threshold": 5,
        "auth_secrets": (),
        "auth_cookie_name": None,
        "auth_session_table": None,
        "auth_jwks_url": None,
        "auth_jwt_algorithms": ("HS256", "RS256", "ES256", "EdDSA"),
        "auth_jwt_audience": None,
        "auth_jwt_issuer": None,
        "auth_user_id_claim": "sub",
        "auth_user_id_namespace": None,
        "new_learners": "refuse",
        "allowed_origins": frozenset(),
        "rate_limit_storage_uri": None,
        "stripe_webhook_secrets": (),
        "stripe_user_id_metadata": "userId",
        "stripe_prices": (),
        "subscription_grace": 3600,
        "webhook_url": None,
        "metrics": False,
        "log_level": "info",
        "host": "127.0.0.1",
        "port": 8000,
        "web_concurrency": cpus.usable(),
        "web_threads": 4,
        "forwarded_allow_ips": networks("127.0.0.1", "::ffff:127.0.0.1"),
    }


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_value_is_as_none(empty):
    names = ["DATABASE_TIMEOUT", "PREPARE_THRESHOLD", "AUTH_JWT_PUBLIC_KEY", "AUTH_JWT_ALGORITHMS", "AUTH_JWT_AUDIENCE"]
    names += ["AUTH_JWT_ISSUER", "AUTH_USER_ID_CLAIM", "HOST", "PORT", "WEB_CONCURRENCY", "WEB_THREADS"]
    assert from_environ(BASE | dict.fromkeys([*names, "FORWARDED_ALLOW_IPS"], empty)) == from_environ(BASE)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DATABASE_URL", "postgres://host/progress", "postgres://host/progress"),
        ("DATABASE_URL", "postgresql:///progress?host=%2Ftmp%2Fa%40b&port=5433", None),
        ("DATABASE_URL", "postgresql://u:p%40ss%2F@one:1,two:65535/progress", None),
        ("DATABASE_URL", "postgresql://[::1]:5432/progress", None),
        ("DATABASE_URL", "postgresql:///progress?host=@abstract,/tmp/a@b,@another", None),
        ("DATABASE_TIMEOUT", "0.5", 0.5),
        ("DATABASE_TIMEOUT", "30", 30.0),
        ("DATABASE_TIMEOUT", " 2.25 ", 2.25),
        ("PREPARE_THRESHOLD", "off", None),
        ("PREPARE_THRESHOLD", "0", 0),
        ("PREPARE_THRESHOLD", "12", 12),
        ("PREPARE_THRESHOLD", "1000000", 1000000),
        ("AUTH_COOKIE_NAME", "__Host-session.token", "__Host-session.token"),
        ("AUTH_SESSION_TABLE", "Auth.Sessions$2", '"auth"."sessions$2"'),
        ("AUTH_SESSION_TABLE", 'auth."Session ""x"""', '"auth"."Session ""x"""'),
        ("AUTH_JWKS_URL", "https://issuer.example:8443/keys?a=b", "https://issuer.example:8443/keys?a=b"),
        ("AUTH_JWT_ALGORITHMS", " HS256, ES256", ("HS256", "ES256")),
        ("AUTH_JWT_AUDIENCE", "progress", ("progress",)),
        ("AUTH_JWT_AUDIENCE", "progress, https://api.example.org", ("progress", "https://api.example.org")),
        ("DATABASE_URL", "postgresql://u:p?a=b@host/progress?ssl=true&application_name=a@b", None),
        ("AUTH_SESSION_TABLE", '"Session"', '"Session"'),
        ("AUTH_JWT_ISSUER", "https://example.org", "https://example.org"),
        ("AUTH_USER_ID_CLAIM", "https://example.org/id", "https://example.org/id"),
        ("AUTH_USER_ID_NAMESPACE", LEARNER.upper(), UUID(LEARNER)),
        ("NEW_LEARNERS", "refuse", "refuse"),
        ("NEW_LEARNERS", "add", "add"),
        ("NEW_LEARNERS", "add-free", "add-free"),
        ("ALLOWED_ORIGINS", "https://a.example , http://[::1]:8080", {"https://a.example", "http://[::1]:8080"}),
        ("ALLOWED_ORIGINS", "http://a_b-c.example:443,https://x:80", {"http://a_b-c.example:443", "https://x:80"}),
        ("RATE_LIMIT_STORAGE_URI", "redis://cache", "redis://cache"),
        ("RATE_LIMIT_STORAGE_URI", "rediss://u:p@cache:6380/1", "rediss://u:p@cache:6380/1"),
        ("STRIPE_USER_ID_METADATA", "user_id", "user_id"),
        ("STRIPE_PRICES", "price_1Pg, prod_Qx,gold", ("price_1Pg", "prod_Qx", "gold")),
        ("HOST", "0.0.0.0", "0.0.0.0"),
        ("HOST", "::", "::"),
        ("PORT", "0", 0),
        ("PORT", "65535", 65535),
        ("SUBSCRIPTION_GRACE", "0", 0),
        ("SUBSCRIPTION_GRACE", "0 days", 0),
        ("SUBSCRIPTION_GRACE", "90 seconds", 90),
        ("SUBSCRIPTION_GRACE", "30 minutes", 1800),
        ("SUBSCRIPTION_GRACE", "1 hour", 3600),
        ("SUBSCRIPTION_GRACE", "366 days", 366 * 86400),
        ("METRICS", "on", True),
        ("METRICS", "off", False),
        ("LOG_LEVEL", "WARNING", "warning"),
        ("LOG_LEVEL", "debug", "debug"),
        ("LOG_LEVEL", "error", "error"),
        ("WEB_CONCURRENCY", "1", 1),
        ("WEB_CONCURRENCY", "1000", 1000),
        ("WEB_THREADS", "1", 1),
        ("WEB_THREADS", "1000", 1000),
        ("FORWARDED_ALLOW_IPS", "*", networks("0.0.0.0/0", "::/0", "::ffff:0:0/96")),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, fd00::/8", networks("10.0.0.0/8", "fd00::/8", "::ffff:10.0.0.0/104")),
    ],
)
def test_a_setting_is_read(name, text, value):
    settings = from_environ(BASE | {name: text})
    expected = text if name == "DATABASE_URL" else value
    assert getattr(settings, name.lower()) == expected


@pytest.mark.parametrize(
    ("name", "attribute"), [("AUTH_SECRET", "auth_secrets"), ("STRIPE_WEBHOOK_SECRET", "stripe_webhook_secrets")]
)
def test_secrets_are_a_list_of_which_each_is_trimmed(name, attribute):
    assert getattr(from_environ(BASE | {name: " one ,t w o"}), attribute) == ("one", "t w o")


@pytest.mark.parametrize(
    ("name", "text"),
    [("AUTH_SECRET", "x"), ("AUTH_SESSION_TABLE", "x"), ("AUTH_JWT_SECRET", SECRET), ("AUTH_JWKS_URL", "https://x")],
)
def test_one_way_of_signing_in_is_enough(name, text):
    from_environ({"DATABASE_URL": URL, name: text})


@pytest.mark.parametrize(
    ("environ", "algorithms"),
    [
        ({}, ["HS256"]),
        ({"AUTH_JWT_SECRET": f"{SECRET},{OTHER_SECRET}"}, ["HS256", "HS256"]),
        ({"AUTH_JWT_SECRET": f" {SECRET} , {OTHER_SECRET} "}, ["HS256", "HS256"]),
        ({"AUTH_JWT_SECRET": "é" * 16}, ["HS256"]),  # 32 bytes in UTF-8, the least length
        ({"AUTH_JWT_ALGORITHMS": "HS256"}, ["HS256"]),
        ({"AUTH_JWT_ALGORITHMS": "RS256, HS256,ES256"}, ["HS256"]),
        *(({"AUTH_JWT_SECRET": "", "AUTH_JWT_PUBLIC_KEY": text}, [name]) for name, text in KEYS.items()),
        *(({"AUTH_JWT_PUBLIC_KEY": text.replace("\n", "\\n")}, ["HS256", name]) for name, text in KEYS.items()),
        ({"AUTH_JWT_PUBLIC_KEY": KEYS["RS256"], "AUTH_JWT_ALGORITHMS": "HS256,RS256"}, ["HS256", "RS256"]),
    ],
)
def test_a_key_verifies_what_its_type_allows(environ, algorithms):
    assert verified_with(from_environ(BASE | environ)) == algorithms


def test_a_public_key_may_be_in_a_file(tmp_path):
    for name, text in KEYS.items():
        (tmp_path / "key.pem").write_text(text)
        settings = from_environ(BASE | {"AUTH_JWT_SECRET": "", "AUTH_JWT_PUBLIC_KEY": f"@{tmp_path / 'key.pem'}"})
        (key,) = settings.auth_jwt_keys
        assert (key.algorithm, public_pem(key.material)) == (name, text)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("/nowhere/key.pem", "the file cannot be read: No such file or directory"),
        (".", "the file cannot be read: Is a directory"),
        (sys.executable, "the file is not text"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(file, why):
    with pytest.raises(SettingsError, match=f"^AUTH_JWT_PUBLIC_KEY: {why}$"):
        from_environ(BASE | {"AUTH_JWT_PUBLIC_KEY": f"@{file}"})


def test_a_public_key_may_be_in_a_file_that_begins_with_a_byte_order_mark(tmp_path):
    (tmp_path / "key.pem").write_text(KEYS["RS256"], "utf-8-sig")
    settings = from_environ(BASE | {"AUTH_JWT_SECRET": "", "AUTH_JWT_PUBLIC_KEY": f"@{tmp_path / 'key.pem'}"})
    assert verified_with(settings) == ["RS256"]


START = "DATABASE_URL: has parameters that libpq does not know: "
SCHEMA = "instead of schema write options=-csearch_path%3D and the schema's name"
UNREADABLE = "DATABASE_URL: is not a libpq URL, such as postgresql://user:password@host:5432/progress"


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("schema=public", START + SCHEMA),
        ("sslmode=require&schema=pass-word&x=1", f"{START}{SCHEMA}; leave out 'x'"),
        # An & in the password ends the password, so the rest looks like a parameter.
        ("password=ab&SECRET=x", f"{START}leave out number 2 after the ?"),
        ("ssl=false", f"{START}instead of ssl write sslmode=disable, sslmode=require or sslmode=verify-full"),
        ("options=-c%20search_path=a", f"{START}write = as %3D in the value of a parameter"),
        (
            "schema=app&pgbouncer=true&connection_limit=1",
            f"{START}{SCHEMA}; instead of pgbouncer set PREPARE_THRESHOLD=off;"
            " instead of connection_limit set WEB_THREADS",
        ),
        (
            "pool_timeout=2&socket_timeout=2&pool_timeout=3",
            f"{START}instead of pool_timeout set DATABASE_TIMEOUT; instead of socket_timeout set DATABASE_TIMEOUT",
        ),
        ("sslaccept=strict", f"{START}instead of sslaccept write sslmode=verify-full or sslmode=require"),
        ("uselibpqcompat=true", f"{START}leave out 'uselibpqcompat'"),
        # The message does not repeat a text that may be part of a password, or that is no parameter.
        ("pass=word@host/db", UNREADABLE),
        ("pass-word", UNREADABLE),
        ("pass-word=1", UNREADABLE),
        ("&sslmode=require", UNREADABLE),
    ],
)
def test_a_parameter_of_another_librarys_url_is_named_with_what_to_write_instead(query, line):
    with pytest.raises(SettingsError) as raised:
        from_environ(BASE | {"DATABASE_URL": f"postgresql://u:pass-word@host/progress?{query}"})
    assert str(raised.value) == line
    assert "pass-word" not in line


QUOTED = ["DATABASE_URL", "AUTH_SECRET", "AUTH_JWT_SECRET", "AUTH_JWT_PUBLIC_KEY", "AUTH_JWKS_URL", "AUTH_JWT_ISSUER"]
QUOTED += ["AUTH_JWT_AUDIENCE", "AUTH_USER_ID_CLAIM", "ALLOWED_ORIGINS", "RATE_LIMIT_STORAGE_URI", "PORT", "METRICS"]
QUOTED += ["AUTH_COOKIE_NAME", "STRIPE_WEBHOOK_SECRET", "STRIPE_USER_ID_METADATA", "RATE_LIMIT_WRITES", "HOST"]


@pytest.mark.parametrize("name", QUOTED)
@pytest.mark.parametrize("mark", ['"', "'"])
def test_a_value_that_came_with_its_quotation_marks_stops_the_start(name, mark):
    """docker --env-file does not remove quotation marks."""
    with pytest.raises(SettingsError) as raised:
        from_environ(BASE | {name: f"{mark}{SECRET}{mark}"})
    assert str(raised.value) == (
        f"{name}: has quotation marks around it, which would be a part of the value; write it without them"
    )


@pytest.mark.parametrize("name", ["AUTH_SECRET", "AUTH_JWT_SECRET", "STRIPE_WEBHOOK_SECRET"])
def test_so_does_one_secret_of_a_list(name):
    with pytest.raises(SettingsError, match=f"^{name}: has quotation marks around it"):
        from_environ(BASE | {name: f'{SECRET}, "{OTHER_SECRET}"'})


def test_a_quotation_mark_that_belongs_to_a_secret_is_left_alone():
    assert from_environ(BASE | {"AUTH_SECRET": '"it\'s,a"b,",\'x'}).auth_secrets == ("\"it's", 'a"b', '"', "'x")


def test_the_settings_are_frozen():
    settings = from_environ(BASE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("https://www.example.org/webhooks?a=b", {}),
        ("https://x:8443", {"WEBHOOK_SECRET": f"{WEBHOOK_SECRET}, whsec_{'AAAA' * 8}"}),
        ("https://[2001:db8::1]/x", {"WEBHOOK_SECRET": "whsec_" + "AAAA" * 21 + "AA=="}),
        *((f"http://{host}:9000/x", {}) for host in ("localhost", "127.0.0.1", "[::1]")),
        ("http://site:3000/x", {"WEBHOOK_ALLOW_HTTP": "on"}),
    ],
)
def test_events_go_to_an_https_url_or_to_this_machine_or_over_http_where_the_operator_says_so(url, more):
    environ = BASE | {"WEBHOOK_URL": url, "WEBHOOK_SECRET": WEBHOOK_SECRET} | more
    assert from_environ(environ).webhook_url == url
    del environ["AUTH_JWT_SECRET"]
    delivery = delivery_from_environ(environ)
    assert (delivery.webhook_url, delivery.database_url, delivery.webhook_metrics_port) == (url, URL, None)
    assert delivery.webhook_secrets == tuple(environ["WEBHOOK_SECRET"].split(", "))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("WEBHOOK_URL", {"WEBHOOK_URL": ""}),
        ("WEBHOOK_SECRET", {"WEBHOOK_SECRET": ""}),
        ("DATABASE_URL", {"DATABASE_URL": ""}),
        *(("WEBHOOK_METRICS_PORT", {"WEBHOOK_METRICS_PORT": text}) for text in ("0", "65536", "on")),
    ],
)
def test_make_deliver_is_refused_with_one_line_that_names_the_setting(name, changes):
    given = {"DATABASE_URL": URL, "WEBHOOK_URL": "https://www.example.org", "WEBHOOK_SECRET": WEBHOOK_SECRET}
    assert delivery_from_environ(given | {"WEBHOOK_METRICS_PORT": "9000"}).webhook_metrics_port == 9000
    with pytest.raises(SettingsError, match=rf"^{name}: [^\n]*$"):
        delivery_from_environ(given | changes)


SHORT = "a-short-secret"
# The setting that the error names, and the settings that are added to BASE. None removes a setting.
WRONG: list[tuple[str, Any]] = [
    ("DATABASE_URL", {"DATABASE_URL": None}),
    *(
        ("DATABASE_URL", {"DATABASE_URL": text})
        for text in (
            *("", " ", "progress", "/var/lib/x.db", "host=localhost password=pass-word", "mysql://u:pass-word@h/d"),
            *(
                "http://u:pass-word@h/d",
                "postgresql+psycopg://u:pass-word@h/d",
                "postgresql:u:pass-word@h",
                "postgresql://%zz",
            ),
            *("postgresql://u:pass-word%zz@h/d", "postgresql://h/d?nonsense=pass-word", "postgresql://h/d?pass-word"),
            # An @ or / in a password ends it early, unless it is written as %40 or %2F.
            *("postgresql://u:pass@word@h/d", "postgresql://u:x@pass-word@h/d", "postgresql://u:pass-word/x@h/d"),
            *("postgresql://u:99999/x@h/d", "postgresql://h:65536/d", "postgresql://h:0/d", "postgresql://u:x@b,c@h/d"),
        )
    ),
    *(
        ("DATABASE_TIMEOUT", {"DATABASE_TIMEOUT": text})
        for text in (
            "0",
            "0.0",
            "-1",
            "five",
            "5s",
            "1e3",
            "inf",
            "nan",
            "5,0",
            "+5",
            "5 5",
            "\u0665",
            "99999",
            ".5",
            "5.",
        )
    ),
    *(
        ("PREPARE_THRESHOLD", {"PREPARE_THRESHOLD": text})
        for text in ("-1", "on", "none", "1.5", "OFF", "1000001", "x\ny")
    ),
    *(("AUTH_JWT_AUDIENCE", {"AUTH_JWT_AUDIENCE": text}) for text in (",", "a,", "a,,b")),
    *(("NEW_LEARNERS", {"NEW_LEARNERS": text}) for text in ("on", "Add", "add free", "add,add-free")),
    *(
        ("AUTH_USER_ID_NAMESPACE", {"AUTH_USER_ID_NAMESPACE": text})
        for text in ("on", "6ba7b8109dad11d180b400c04fd430c8", f"{{{LEARNER}}}", f"urn:uuid:{LEARNER}", f"{LEARNER},")
    ),
    ("AUTH_SECRET", {"AUTH_JWT_SECRET": None}),
    ("AUTH_SECRET", {"AUTH_JWT_SECRET": "", "AUTH_JWT_AUDIENCE": "progress"}),
    *(
        ("AUTH_JWT_SECRET", {"AUTH_JWT_SECRET": text})
        for text in (
            *(SHORT, "x" * 31, f"{SECRET},{SHORT}", f"{SHORT},{SECRET}", f"{SECRET},", f",{SECRET}", ",", "é" * 15),
            *(KEYS["RS256"], KEYS["ES256"].strip(), f"{SECRET},{KEYS['EdDSA']}", PRIVATE_KEY, "ssh-rsa " + "A" * 60),
        )
    ),
    *(
        ("AUTH_JWT_PUBLIC_KEY", {"AUTH_JWT_PUBLIC_KEY": text})
        for text in (
            *("nonsense", SECRET, KEYS["RS256"][:200], KEYS["RS256"].replace("M", "N", 1), PRIVATE_KEY),
            *(
                "@/nowhere/key.pem",
                "@",
                "@.",
                "@" + sys.executable,
                "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
            ),
            pem(rsa.generate_private_key(65537, 1024)),
            pem(ec.generate_private_key(ec.SECP384R1())),
            pem(ec.generate_private_key(ec.SECP256K1())),
            pem(ed448.Ed448PrivateKey.generate()),
            pem(dsa.generate_private_key(1024)),
        )
    ),
    *(
        ("AUTH_JWT_ALGORITHMS", {"AUTH_JWT_ALGORITHMS": text})
        for text in ("none", "HS512", "hs256", "HS256,", ",", "HS256 RS256", "PS256", "HS256,none", "RS256", "*")
    ),
    ("AUTH_JWT_ALGORITHMS", {"AUTH_JWT_PUBLIC_KEY": KEYS["ES256"], "AUTH_JWT_ALGORITHMS": "HS256"}),
    ("AUTH_JWT_ALGORITHMS", {"AUTH_JWT_PUBLIC_KEY": KEYS["ES256"], "AUTH_JWT_ALGORITHMS": "ES256"}),
    *(("AUTH_COOKIE_NAME", {"AUTH_COOKIE_NAME": text}) for text in ("a b", "a=b", "a;b", "é", "a,b", '"a"')),
    *(("HOST", {"HOST": text}) for text in ("a b", "256.1.1.1", "http://localhost", "[::1]", "x" * 300)),
    *(("PORT", {"PORT": text}) for text in ("-1", "65536", "http", "80.0", "0x50", "8000 8001", "\u0668", "1\n2")),
    *(
        ("SUBSCRIPTION_GRACE", {"SUBSCRIPTION_GRACE": text})
        for text in (
            "1",
            "-1 hour",
            "1 week",
            "one hour",
            "1h",
            "8785 hours",
            "527041 minutes",
            "367 days",
            "1000000 seconds",
            "1  hour",
            "1 HOUR",
        )
    ),
    *(("STRIPE_WEBHOOK_SECRET", {"STRIPE_WEBHOOK_SECRET": text}) for text in ("a,", ",", "a,,b")),
    *(("STRIPE_PRICES", {"STRIPE_PRICES": text}) for text in ("a,", "a b", 'a"', "a\\", "{a}", "'a'", "a" * 256)),
    *(
        ("WEBHOOK_URL", {"WEBHOOK_URL": text, "WEBHOOK_SECRET": WEBHOOK_SECRET})
        for text in (
            *("nonsense", "https://", "https://:443/x", "https://h:0/x", "https://h:99999/x", "https://[::1/x"),
            *("https://h/a b", "https://h/\u00e9", "https://.h/x", "https://a..h/x", "ftp://h/x", "//h/x"),
            *("http://h/x", "http://127.0.0.2/x", "http://localhost.example.org/x", "http://localhost@h/x"),
            *("https://u:pass-word@h/x", "https://pass-word@h/x", "https://h/x#pass-word", "https://h/x#"),
        )
    ),
    ("WEBHOOK_SECRET", {"WEBHOOK_URL": "https://h/x"}),
    *(
        ("WEBHOOK_SECRET", {"WEBHOOK_URL": "https://h/x", "WEBHOOK_SECRET": text})
        for text in (
            *("pass-word", "whsec_", "whsec_pass-word", "whsec_" + "AAAA" * 7, "whsec_" + "AAAA" * 22),
            *(WEBHOOK_SECRET[6:], WEBHOOK_SECRET.rstrip("="), f"{WEBHOOK_SECRET},", f"{WEBHOOK_SECRET},pass-word"),
            *(WEBHOOK_SECRET.replace("A", "-"), f"{WEBHOOK_SECRET} {WEBHOOK_SECRET}", WEBHOOK_SECRET.upper()),
        )
    ),
    *(("WEBHOOK_ALLOW_HTTP", {"WEBHOOK_ALLOW_HTTP": text}) for text in ("yes", "1", "ON")),
    *(("METRICS", {"METRICS": text}) for text in ("yes", "1", "ON")),
    *(("LOG_LEVEL", {"LOG_LEVEL": text}) for text in ("verbose", "1")),
    *(("WEB_CONCURRENCY", {"WEB_CONCURRENCY": text}) for text in ("0", "-1", "many", "1.5", "1001")),
    *(("WEB_THREADS", {"WEB_THREADS": text}) for text in ("0", "-4", "four", "4.0", "1001")),
    *(
        ("FORWARDED_ALLOW_IPS", {"FORWARDED_ALLOW_IPS": text})
        for text in ("nonsense", "127.0.0.1,", "10.0.0.1/8", "127.0.0.1 10.0.0.1", "1.2.3", "**")
    ),
]


@pytest.mark.parametrize(("name", "changes"), WRONG)
def test_a_setting_that_is_missing_or_wrong_is_one_line_that_begins_with_its_name(name, changes):
    environ = {key: text for key, text in (BASE | changes).items() if text is not None}
    with pytest.raises(SettingsError) as raised:
        from_environ(environ)
    line = str(raised.value)
    assert line.startswith(f"{name}: ")
    assert len(line.splitlines()) == 1
    secrets = ("pass-word", "pass@word", "word@h/", "x@h", SECRET, OTHER_SECRET, SHORT, PRIVATE_KEY[100:140])
    for secret in (*secrets, WEBHOOK_SECRET[6:]):
        assert secret not in line
    if name == "DATABASE_URL":
        assert "99999" not in line


def start(module, **environ):
    """Run a program of a start with these settings and no others."""
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)


PROGRAMS = [("app.start",), ("gunicorn", "-c", "gunicorn.conf.py", "wsgi:app")]


# gunicorn passes on what app.start says, whatever that is.
@pytest.mark.parametrize(
    ("program", "name", "changes"),
    [
        (PROGRAMS[0], "DATABASE_URL", {"DATABASE_URL": ""}),
        (PROGRAMS[0], "DATABASE_URL", {"DATABASE_URL": "postgresql://u:pass-word@127.0.0.1:1/d"}),
        (PROGRAMS[0], "AUTH_JWT_SECRET", {"AUTH_JWT_SECRET": SHORT}),
        (PROGRAMS[0], "AUTH_SECRET", {"AUTH_JWT_SECRET": ""}),
        (PROGRAMS[1], "AUTH_JWT_SECRET", {"AUTH_JWT_SECRET": SHORT}),
    ],
)
def test_the_service_does_not_start_and_says_why_in_one_line(environ, program, name, changes):
    ended = start(program, **(environ | changes))
    assert ended.returncode not in (0, None)
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"{name}: ")
    assert ended.stderr.count("\n") == 1
    assert "pass-word" not in ended.stderr
    assert SHORT not in ended.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=["app.start", "gunicorn"])
def test_the_service_does_not_start_on_pending_migrations(environ, new_database, program):
    ended = start(program, **(environ | {"DATABASE_URL": new_database()}))
    assert ended.returncode not in (0, None)
    assert ended.stdout == ""
    assert "make migrate" in ended.stderr
    assert "0001_users" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_role_without_rights_does_not_start_the_service(environ, database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop role if exists nobody_s_role")
        connection.execute("create role nobody_s_role login")
    url = database_url.replace("postgres@", "nobody_s_role@")
    told = (
        r"^DATABASE_URL: permission denied for table _yoyo_migration; was deploy/grants.sql run after make migrate\?$"
    )
    with pytest.raises(NotReadyError, match=told):
        readiness.check(from_environ(environ | {"DATABASE_URL": url}))


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "10",
        "ten per minute",
        "10 per fortnight",
        "0 per minute",
        "10 per 0 minutes",
        "-1 per minute",
        "10 per minute; 100 per hour",
        "10/minute, 5/second",
        "10 per minute nonsense",
        "1e3 per minute",
    ],
)
def test_a_limit_that_cannot_be_read_stops_the_start_and_lets_nothing_through(text):
    with pytest.raises(SettingsError, match=r"^RATE_LIMIT_WRITES: '.*' is not a limit such as '10 per minute'"):
        from_environ(BASE | {"RATE_LIMIT_WRITES": text})


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [("10 per minute", 10, 60), ("5 per 10 seconds", 5, 10), ("10/minute", 10, 60), (" 1 per 2 hours ", 1, 7200)],
)
def test_a_limit_is_in_the_notation_of_limits(text, amount, seconds):
    limit = from_environ(BASE | {"RATE_LIMIT_WRITES": text}).rate_limit_writes
    assert limit is not None
    assert (limit.amount, limit.get_expiry()) == (amount, seconds)


def test_the_limit_is_ten_per_minute_and_an_empty_one_is_none():
    assert str(from_environ(BASE).rate_limit_writes) == "10 per 1 minute"
    assert from_environ(BASE | {"RATE_LIMIT_WRITES": " "}).rate_limit_writes is None


@pytest.mark.parametrize(
    "text",
    [
        *("memory://", "memcached://host", "mongodb://host", "nonsense", "redis://", "redis:host", "http://host"),
        *("redis://[::1", "redis://host:port", "redis://host:0", "redis://host:65536"),
    ],
)
def test_a_storage_that_is_not_shared_or_not_known_stops_the_start(text):
    with pytest.raises(SettingsError, match=r"^RATE_LIMIT_STORAGE_URI: is not a URL like redis://host:6379/0; leave"):
        from_environ(BASE | {"RATE_LIMIT_STORAGE_URI": text})
