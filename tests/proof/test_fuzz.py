"""Random bytes and hostile HTTP at a real gunicorn: no answer is a 5xx or HTML, and no memory is lost (contract §4).

Some requests are refused by gunicorn, before the service sees them. An answer of the service has an X-Request-Id.
"""

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

import psycopg
import pytest
from stripe import WebhookSignature

from tests import contract
from tests.conftest import DEEP, ROOT, SERVICE, Gunicorn, running_gunicorn
from tests.world import SECRET, add_module, add_user, bearer, cookie, require, token, uuid4

SEED = random.SystemRandom().randrange(2**32) if DEEP else 0
CASES = 20_000 if DEEP else 1_500  # of each kind
WEBHOOK_SECRET = "whsec_1"
EVENT = json.loads((ROOT / "app" / "demo" / "stripe" / "active.json").read_text())
# The statuses with which gunicorn itself refuses a request: it is not HTTP, is too long, or has an unsupported feature.
OF_GUNICORN = {400, 403, 413, 414, 417, 431, 501, 505}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def is_ours(self) -> bool:
        return "x-request-id" in self.headers


@pytest.fixture(scope="module")
def service(
    environ: dict[str, str], connection: psycopg.Connection, empty_tables: Callable[[], None]
) -> Iterator[Gunicorn]:
    empty_tables()
    add_user(connection)
    add_module(connection, 1, 2, 3, 4, 5)
    require(connection, 3, 2)
    require(connection, 4, 5)  # no request marks lesson 5, so lesson 4 stays locked
    connection.execute('create table fuzz_sessions ("sessionToken" text, "userId" text, "expires" timestamptz)')
    connection.execute(f"grant select on fuzz_sessions to {SERVICE}".encode())
    settings = {
        "METRICS": "on",
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "AUTH_SECRET": SECRET,
        "AUTH_SESSION_TABLE": "fuzz_sessions",
        "ALLOWED_ORIGINS": "https://www.example.org",
        "RATE_LIMIT_WRITES": "1000000 per minute",
        "LOG_LEVEL": "error",
        "WEB_CONCURRENCY": "2",
    }
    with running_gunicorn(environ | settings) as service:
        yield service
    connection.execute("drop table fuzz_sessions")


CALLS = {
    path: [method.upper() for method in item if method in ("get", "post", "delete")]
    for path, item in contract.DOCUMENT["paths"].items()
}

# The parts of a request. Each function draws one part. Most parts are usual, and some are odd.


def text(draw: random.Random, most: int = 40) -> str:
    alphabet = draw.choice(["ab01-", "\x00\t\n\r\x7f\x0b ", "\u00e9\u20ac\u2028\U0001f600\ufeff", "%&?#/;\\\"'<>.:=,"])
    return "".join(draw.choice(alphabet) for _ in range(draw.randint(0, most)))


def path_id(draw: random.Random) -> str:
    return draw.choice(
        [
            *(uuid4(number) for number in (1, 2, 3, 4, 0x99) * 5),
            *(
                uuid4(2).upper(),
                uuid4(2)[:-1],
                uuid4(2) + "%00",
                "%ff",
                "%ed%a0%80",
                "%00",
                "..",
                ".",
                "%2e%2e%2f",
                "%2f",
            ),
            *(
                "x" * draw.choice([100, 4000]),
                "%C3%A9",
                "\u00e9",
                ";",
                "%",
                "%zz",
                "*",
                "{lessonId}",
                "%0d%0aX:%20y",
                "",
            ),
            *("<script>", "%3Cscript%3E", "-1", "null", "' or 1=1 --", "%27"),
        ]
    )


def call(draw: random.Random) -> tuple[str, str]:
    """Draw a method and a target. Most of them are in the OpenAPI document."""
    writes = ["/api/progress/lessons/{lessonId}"] * 12 + ["/api/progress/lessons"] * 6 + ["/api/stripe/webhook"] * 5
    template = draw.choice([*CALLS, *writes, "/progress-ui/", "/progress-ui/{name}", "/nothing", "/", "*"])
    method = draw.choice([*CALLS.get(template, ["GET", "POST"])])
    if draw.random() < 0.1:
        method = draw.choice(
            ["HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY", "get", "M-SEARCH", "X" * 20]
        )
    return method, target(draw, template)


def target(draw: random.Random, path: str) -> str:
    path = re.sub(r"\{\w+\}", lambda _: path_id(draw), path)
    odd = draw.random()
    if odd < 0.03:
        path = draw.choice(
            ["/" + path, path + "/", path.replace("/", "//"), path + "/../..", "/%2e%2e/etc/passwd", path[1:]]
        )
    elif odd < 0.05:
        path = draw.choice(["http://example.org" + path, "//example.org" + path, "\\" + path, path + "\\", "/" * 3000])
    if draw.random() < 0.2:
        query = [
            "all=true",
            "include=completions,courses",
            "include=" + draw.choice(["courses&include=", "%00", "%ff,courses", "," * 4000]),
            path_id(draw),
            "a=b&a=c",
            "x" * 4000,
            "?" * 20,
            "userId=" + uuid4(7),
            "%00=%ff",
            "[]",
            "\u00e9=1",
        ]
        path += "?" + draw.choice(query)
    return path.replace(" ", "%20") if draw.random() < 0.05 else quote(path, safe="%/?#[]@!$&'()*+,;=:\\{}<>")


def session(draw: random.Random) -> list[tuple[str, str]]:
    good = token()
    place = draw.randrange(len(good))
    odd = [
        *(
            good[:place],
            good[:place] + draw.choice("A.=\u00e9\x01") + good[place + 1 :],
            good + ".",
            "." + good,
            "..",
            "....",
        ),
        *("a.b.c", "e30.e30.e30", "eyJhbGciOiJub25lIn0.e30.", "A" * 9000, "", "\u00e9", good * 3, text(draw)),
    ]
    schemes = ["Bearer ", "bearer ", "Bearer  ", "Bearer", "Basic ", "", "Bearer\t", "\u00c9"]
    names = [
        "authjs.session-token",
        "__Secure-authjs.session-token",
        "next-auth.session-token",
        "authjs.session-token.0",
    ]
    return draw.choice(
        [
            *([*bearer().items()], [*cookie().items()]) * 5,
            [],
            [("Authorization", draw.choice(schemes) + draw.choice([good, *odd]))],
            [("Cookie", f"{draw.choice(names)}={draw.choice([good, *odd])}")],
            [
                (
                    "Cookie",
                    "; ".join(f"authjs.session-token.{n}={draw.choice(odd)}" for n in range(draw.randint(0, 120))),
                )
            ],
            [("Cookie", draw.choice([";" * 5000, "=", "a=b=c", "a", '"', "authjs.session-token", text(draw, 200)]))],
            [*bearer().items(), *bearer(uuid4(0x77)).items(), *cookie().items()],
        ]
    )


def value(draw: random.Random, depth: int = 2) -> Any:
    """Draw a JSON value."""
    plain: list[Any] = [
        None,
        True,
        0,
        -1,
        2**63,
        -(2**70),
        1e308,
        0.1,
        "",
        "a",
        "\ud800",
        "\0",
        "\u2028",
        [],
        {},
        uuid4(1),
        "9" * 300,
    ]
    if depth and draw.random() < 0.5:
        some = range(draw.randint(0, 3))
        return draw.choice(
            [[value(draw, depth - 1) for _ in some], {text(draw, 5): value(draw, depth - 1) for _ in some}]
        )
    return draw.choice([*plain, text(draw)])


def body(draw: random.Random) -> bytes:
    times = [
        "2026-01-01T00:00:00Z",
        "9999-12-31T23:59:60-23:59",
        "0000-00-00T00:00:00Z",
        "1970-01-01t00:00:00.1z",
        text(draw),
    ]
    deep = draw.choice([10, 900, 3000, 8000])
    return draw.choice(
        [
            *(
                b"",
                b"{}",
                b"",
                json.dumps({"completedAt": draw.choice(times)}).encode(),
                json.dumps(value(draw)).encode(),
            ),
            json.dumps({draw.choice(["completedAt", "userId", "__proto__", text(draw, 5)]): value(draw)}).encode(),
            *(b"[" * deep, b"[" * deep + b"]" * deep, b'{"completedAt":' * deep + b"1" + b"}" * deep),
            *(b"9" * deep, b'{"completedAt": ' + b"9" * deep + b"}", b"-" + b"0" * deep + b"e" + b"9" * 20),
            *(
                b"NaN",
                b"-Infinity",
                b"\xff\xfe{}",
                b"\xef\xbb\xbf{}",
                b'{"completedAt": "\xed\xa0\x80"}',
                b"{" + draw.randbytes(50),
            ),
            *(b"\x00" * deep, b"{}" + b" " * 20_000, b" " * 16_384, b" " * 16_385, draw.randbytes(deep)),
        ]
    )


def many_marks(draw: random.Random) -> bytes:
    """Draw the body of many marks. Some have an odd value somewhere."""
    # No list has lesson 5, so lesson 4 stays locked.
    lessons = draw.sample([uuid4(number) for number in (2, 3, 4, 0x99)], draw.randint(1, 4))
    listed: list[Any] = [{"lessonId": draw.choice([lesson, lesson.upper()])} for lesson in lessons]
    if draw.random() < 0.5:
        odd = [value(draw), listed[0], {"lessonId": value(draw)}, {"lessonId": uuid4(2), text(draw, 5): value(draw)}]
        listed.insert(
            draw.randint(0, len(listed)), draw.choice([*odd, {"lessonId": uuid4(3), "completedAt": text(draw)}])
        )
    document = {"lessons": draw.choice([listed, listed, listed, value(draw), listed * draw.choice([200, 1000])])}
    return draw.choice([json.dumps(document).encode()] * 5 + [body(draw)])


def event(draw: random.Random) -> bytes:
    """Draw an event of Stripe. Some have an odd value somewhere."""
    changed = json.loads(json.dumps(EVENT))
    changed["type"] = draw.choice([changed["type"], "checkout.session.completed", "customer.subscription.deleted", "x"])
    for _ in range(draw.randint(0, 3)):
        inner = changed
        for _ in range(draw.randint(0, 4)):
            nested = [key for key in inner if isinstance(inner[key], dict)]
            inner = inner[draw.choice(nested)] if nested else inner
        if inner:
            key = draw.choice([*inner, "client_reference_id", "previous_attributes", "current_period_end"])
            inner[key] = draw.choice([value(draw), uuid4(0xA11CE), 1924992000, 253402300799, -1, 1e18])
    text = json.dumps(changed)
    return draw.choice([text.encode()] * 5 + [text.replace(": ", ":" + " " * draw.randint(0, 9)).encode(), body(draw)])


FIELDS: dict[str, Callable[[random.Random], str]] = {
    "Content-Type": lambda draw: draw.choice(
        [
            "application/json",
            "application/json; charset=utf-16",
            "text/html",
            "",
            "a/b; " * 500,
            "multipart/form-data",
            "\u00e9",
        ]
    ),
    "Idempotency-Key": lambda draw: draw.choice(["k", "", "x" * 255, "x" * 256, "a b", "\u00e9", text(draw)]),
    "X-Request-Id": lambda draw: draw.choice(["r-1", "x" * 129, "<b>", text(draw)]),
    "If-None-Match": lambda draw: draw.choice(["*", '"a"', 'W/"a"', '"' * 500, ", " * 500, text(draw)]),
    "If-Modified-Since": lambda draw: draw.choice(["Thu, 01 Jan 1970 00:00:00 GMT", "never", "9" * 50]),
    "Range": lambda draw: draw.choice(["bytes=0-1", "bytes=-", "bytes=" + "0-1," * 900, "x=9-1"]),
    "Accept": lambda draw: draw.choice(["text/html", "*/*;q=9", "a/b," * 900, ""]),
    "Accept-Encoding": lambda draw: draw.choice(["gzip", "identity;q=0", "\u00e9"]),
    "Content-Encoding": lambda draw: draw.choice(["gzip", "br", "x"]),
    "Origin": lambda draw: draw.choice(
        ["https://www.example.org", "null", "http://[", "http://a:b", "https://e\u00e9"]
    ),
    "Sec-Fetch-Site": lambda draw: draw.choice(["same-origin", "cross-site", "", "none, none"]),
    "Access-Control-Request-Method": lambda draw: draw.choice(["POST", "", "\u00e9"]),
    "Stripe-Signature": lambda draw: draw.choice(
        ["t=1,v1=a", "t=,v1=", "t=9" * 300, "v1=\u00e9,t=1", "=", "t", text(draw)]
    ),
    "Upgrade": lambda draw: draw.choice(["websocket", "h2c"]),
    "Connection": lambda draw: draw.choice(["keep-alive, Upgrade", "close", "Content-Length"]),
    "X-Forwarded-Proto": lambda draw: draw.choice(["https", "x", "https, http"]),
    "X-Forwarded-For": lambda draw: draw.choice(["1.2.3.4", text(draw)]),
    "Forwarded": lambda draw: "for=_x;" * 50,
    "X-HTTP-Method-Override": lambda draw: "DELETE",
    "X-Long": lambda draw: "x" * draw.choice([8000, 60_000]),
}

# Headers about the body and the connection. gunicorn itself refuses most odd values of these.
FRAMING: dict[str, Callable[[random.Random], str]] = {
    "Host": lambda draw: draw.choice(["localhost", "[::1", "a:b", "", "e\u00e9", "a" * 3000]),
    "Expect": lambda draw: draw.choice(["100-continue", "200-ok"]),
    "Transfer-Encoding": lambda draw: draw.choice(["gzip", "chunked, chunked", "x", "\x0bchunked"]),
    "Content-Length": lambda draw: draw.choice(["0", "-1", "1e3", "9" * 30, "+5", "5, 5", "\u0665"]),
}


def request(draw: random.Random) -> bytes:
    """Draw a request that is HTTP, or almost HTTP."""
    data = body(draw)
    method, path = call(draw)
    if path.partition("?")[0] == "/api/progress/lessons":
        data = many_marks(draw)
    headers = [("Host", "localhost"), *session(draw)]
    if draw.random() < 0.8:
        headers.append(("Content-Type", "application/json"))
    if path == "/api/stripe/webhook" and draw.random() < 0.8:
        method, data = "POST", event(draw)
        signature = WebhookSignature.generate_signature_header(data.decode("latin-1"), WEBHOOK_SECRET)
        if data.isascii():
            headers.append(("Stripe-Signature", signature))
    fields = FIELDS | FRAMING if draw.random() < 0.1 else FIELDS
    for name in draw.sample(list(fields), draw.choice([0, 0, 1, 2, 5])):
        headers += [(draw.choice([name, name.lower()]), fields[name](draw)) for _ in range(draw.choice([1, 1, 1, 2]))]
    if draw.random() < 0.15:
        headers.append(("Transfer-Encoding", "chunked"))
        data = chunked(draw, data)
    elif data or draw.random() < 0.5:
        off = draw.choice([0] * 40 + [1, -1, 100])
        headers.append(("Content-Length", str(max(0, len(data) + off))))
    lines = [f"{method} {path} HTTP/{draw.choice(['1.1'] * 90 + ['1.0', '0.9', '2.0', '1.1.1'])}"]
    lines += [f"{name}: {field}" for name, field in headers]
    # Replace control characters in most requests, because gunicorn refuses every request with one. The end of a line is
    # always replaced: it would make two lines of one.
    controls = r"[\r\n]" if draw.random() < 0.05 else r"[\x00-\x08\x0a-\x1f\x7f]"
    head = "\r\n".join(re.sub(controls, " ", line) for line in lines)
    return head.encode("utf-8" if draw.random() < 0.5 else "latin-1", "replace") + b"\r\n\r\n" + data


def chunked(draw: random.Random, data: bytes) -> bytes:
    size = draw.choice([1, 7, 1000, 100_000])
    chunks = [data[at : at + size] for at in range(0, min(len(data), size * 300), size)]
    extension = draw.choice([b""] * 5 + [b";a=b", b';"', b" ", b"\x00", b";" + b"x" * 5000])
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    end = [b"0\r\n\r\n"] * 5 + [
        b"",
        b"0\r\nTrailer: x\r\n\r\n",
        b"-1\r\n\r\n",
        b"zz\r\n",
        b"f" * 20 + b"\r\n",
        b"0\r\n" + b"x" * 9000,
    ]
    return coded + draw.choice(end)


def raw(draw: random.Random) -> bytes:
    """Draw random bytes, or a request of which some bytes are changed, doubled, removed or cut off."""
    if draw.random() < 0.1:
        return draw.randbytes(draw.choice([1, 10, 1000, 20_000]))
    data = bytearray(request(draw))
    for _ in range(draw.choice([1, 1, 2, 10])):
        place = draw.randrange(len(data) + 1)
        what = draw.choice(
            [b"\x00", b"\r\n", b"\n", b" ", b":", b"\xff", b"\r", b"\r\n\r\n", bytes([draw.randrange(256)])]
        )
        data[place : place + draw.choice([0, 0, 1, 5])] = what * draw.choice([1, 1, 1, 50])
    return bytes(data[: draw.choice([len(data)] * 3 + [draw.randrange(len(data) + 1)])])


def answers_to(address: tuple[str, int], data: bytes) -> list[Answer]:
    """Send bytes, and then no more. Return every answer. Raise AssertionError if the connection stays open."""
    received = b""
    with socket.create_connection(address, timeout=20) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                received += chunk
        except TimeoutError:
            raise AssertionError("no end") from None
        except OSError:
            pass  # the server refused before it had read everything: the reset may have removed the answer
    return parsed(received)


def parsed(received: bytes) -> list[Answer]:
    answers = []
    while received.startswith(b"HTTP/1."):
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        if status == HTTPStatus.CONTINUE:
            continue
        headers = {name.lower(): field.strip() for name, _, field in (line.partition(":") for line in lines)}
        # An answer to HEAD has a Content-Length and no body, so the next answer follows at once.
        length = 0 if received.startswith(b"HTTP/1.") else int(headers.get("content-length", len(received)))
        answers.append(Answer(status, headers, received[:length]))
        received = received[length:]
    assert not received, f"no HTTP: {received[:200]!r}"
    return answers


def origin_of(answer: Answer) -> str:
    """Return who gave the answer, gunicorn or the service. Raise AssertionError if nobody may get such an answer."""
    if not answer.is_ours():
        assert answer.status in OF_GUNICORN, answer
        return "gunicorn's"
    assert answer.status < 500, answer
    kind = answer.headers.get("content-type", "").partition(";")[0]
    assert kind != "text/html", answer
    if answer.status >= 400:
        assert kind == "application/problem+json", answer
        assert not answer.body or json.loads(answer.body)["status"] == answer.status, answer
    return "ours"


def hold_to_the_document(answer: Answer, data: bytes) -> None:
    """Assert that the answer to the first request of a connection is one that the OpenAPI document describes."""
    method, path, _ = data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    path = unquote_to_bytes(urlsplit(path).path.encode("latin-1")).decode("latin-1")
    if answer.status == 204 or not path.startswith("/") or path.startswith("//"):
        return
    code = contract.code_of(answer.headers.get("content-type"), answer.body)
    if method == "HEAD" and answer.status == 404:
        code = "not_found"  # a HEAD that asks for a WebSocket gets this code, but an answer to HEAD has no body
    contract.check_headers(contract.described(path, method, answer.status, code), answer.headers.items())


def memory(service: Gunicorn) -> int:
    """Return the memory in kB that the workers do not share with other processes."""
    text = "".join(Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in service.workers())
    return sum(int(amount) for amount in re.findall(r"^Private_\w+: +(\d+) kB", text, re.M))


def try_all(service: Gunicorn, make: Callable[[random.Random], bytes], cases: int, seed: str) -> Counter[str]:
    """Send cases. Return how often each status came from gunicorn and from the service."""
    url = urlsplit(service.url)
    address = str(url.hostname), int(url.port or 0)
    seen: Counter[str] = Counter()
    for number in range(cases):
        data = make(random.Random(f"{seed} {number}"))
        try:
            answers = answers_to(address, data)
            for answer in answers:
                seen[f"{origin_of(answer)} {answer.status}"] += 1
            if make is request and answers and answers[0].is_ours():
                hold_to_the_document(answers[0], data)
        except (AssertionError, KeyError, ValueError) as error:
            raise AssertionError(f"seed {seed}, case {number}: {error!r}\n{data[:3000]!r}") from error
        seen["none"] += not answers
    return seen


@pytest.mark.parametrize("make", [request, raw])
def test_whatever_is_sent_is_answered_below_500_and_never_with_html(service, make, capfd):
    workers = service.workers()
    # The first cases fill caches, pools and the memory allocator's arenas, so they are not measured.
    warm = try_all(service, make, CASES // 4, f"{SEED} warm")
    before = memory(service)
    seen = try_all(service, make, CASES, str(SEED)) + warm
    after = memory(service)
    assert service.workers() == workers
    assert service.lines() == []  # at this LOG_LEVEL, a line would be an error
    _, errors = capfd.readouterr()
    assert "Traceback" not in errors
    assert "Error handling request" not in errors
    print(f"seed {SEED}: {dict(seen)}; {before} kB, then {after} kB")  # noqa: T201 - shown if it fails
    assert after - before < 8 * 1024
    # Most requests reached the service, and all kinds of answers came. Otherwise the test would show little.
    ours = {int(kind.split()[1]) for kind in seen if kind.startswith("ours")}
    assert {200, 400, 401, 404, 405} <= ours
    if make is request:
        assert {304, 409, 413, 415} <= ours
        assert sum(amount for kind, amount in seen.items() if kind.startswith("ours")) > 0.5 * seen.total()
