"""The files of deploy/ with the real programs: nginx in front of gunicorn, systemd's check of the unit, a PgBouncer."""

import gzip
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg.conninfo import conninfo_to_dict

from app.database.readiness import known_migrations
from app.demo.postgres import owner, unprivileged
from app.events import deliverer
from tests.conftest import ROOT, SERVICE, free_port, grant, running_gunicorn
from tests.load import Load, fill, in_table
from tests.test_cli import ended, run, spawn
from tests.test_migrations import TABLES, tables
from tests.world import SECRET, add_module, add_user, bearer, cookie, lesson_path

SUMMARY = "/api/progress/summary"


class Site(NamedTuple):
    """A site behind nginx with the configuration of deploy/."""

    port: int
    tls: ssl.SSLContext

    def connect(self) -> ssl.SSLSocket:
        return self.tls.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), timeout=20), server_hostname="www.example.org"
        )

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Any:
        """Return the status, the headers and the document of an answer."""
        connection = http.client.HTTPConnection("www.example.org", self.port)
        connection.sock = self.connect()
        with closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, json.loads(response.read() or b"null")


def certificate(folder: Path) -> Path:
    """Make a self-signed certificate of the site. Return a file with the certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.org")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("www.example.org")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "fullchain.pem"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that servers of other users may use."""
    made = Path(tempfile.mkdtemp(prefix="progress-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def nginx(folder):
    """Yield a function that starts nginx in front of a service, with deploy/nginx.conf.

    Only paths and ports are changed to those of this machine.
    """
    with ExitStack() as stack:

        def start(service: str, **changes: str) -> Site:
            port = free_port()
            site = (ROOT / "deploy" / "nginx.conf").read_text()
            replaced = {
                "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
                "listen [::]:443 ssl;": "",
                "/etc/letsencrypt/live/www.example.org": str(folder),
                "server 127.0.0.1:8000 ": f"server {urlsplit(service).netloc} ",
            }
            for old, new in (replaced | changes).items():
                assert old in site
                site = site.replace(old, new)
            (folder / "site.conf").write_text(site)
            paths = "".join(
                f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            (folder / "nginx.conf").write_text(
                f"daemon off; pid {folder}/pid; error_log stderr;"
                f"events {{}} http {{ access_log off; {paths} include {folder}/site.conf; }}"
            )
            tls = ssl.create_default_context(cafile=certificate(folder))
            command = ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf")]
            subprocess.run([*command, "-t"], check=True)
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.terminate)
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    return Site(port, tls)
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

        yield start


@pytest.fixture
def world(db: psycopg.Connection) -> None:
    add_user(db)
    add_module(db, 1, 2)


def chunked(session: dict[str, str]) -> str:
    name, _, value = session["Cookie"].partition("=")
    parts = [value[at : at + 3933] for at in range(0, len(value), 3933)]
    assert len(parts) == 3
    return "; ".join(f"{name}.{number}={part}" for number, part in enumerate(parts))


def test_a_good_client_is_answered_beside_idle_and_half_sent_ones(nginx, gunicorn, world):
    site = nginx(gunicorn(WEB_CONCURRENCY="2", WEB_THREADS="4"))
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(site.connect())
        for number in range(8):
            half = stack.enter_context(site.connect())
            head = f"POST {lesson_path(2)} HTTP/1.1\r\nHost: www.example.org\r\n"
            if number % 2:
                head += f"Authorization: {bearer()['Authorization']}\r\nContent-Type: application/json\r\n"
                head += "Content-Length: 1000\r\n\r\n{"
            half.sendall(head.encode())
        for _ in range(20):
            started = time.monotonic()
            assert site.call("GET", SUMMARY, bearer())[0] == 200
            assert site.call("POST", lesson_path(2), bearer())[0] == 200
            assert time.monotonic() - started < 10


def test_who_sends_half_a_request_is_let_go(nginx, gunicorn):
    site = nginx(gunicorn(WEB_CONCURRENCY="1"), **{"_timeout 10s": "_timeout 1s"})
    for half in (
        b"GET / HTTP/1.1\r\nHost: x",
        b"POST /api/progress/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ):
        with site.connect() as client:
            client.sendall(half)
            assert b"200" not in client.recv(1000)


def test_a_session_in_three_chunks_passes(nginx, gunicorn, world):
    site = nginx(gunicorn(WEB_CONCURRENCY="1", AUTH_SECRET=SECRET))
    long = chunked(cookie(picture="x" * 7000))
    own = {"Cookie": long, "Origin": f"https://www.example.org:{site.port}"}
    assert site.call("GET", SUMMARY, {"Cookie": long})[0] == 200
    assert site.call("POST", lesson_path(2), own)[0] == 200
    foreign = site.call("POST", lesson_path(2), own | {"Origin": "https://www.example.org"})
    assert (foreign[0], foreign[2]["code"]) == (403, "cross_site_request")


def test_the_forwarded_host_of_a_client_is_replaced(nginx, gunicorn, world):
    site = nginx(gunicorn(WEB_CONCURRENCY="1", AUTH_SECRET=SECRET))
    forged = cookie() | {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
    status, _, document = site.call("POST", lesson_path(2), forged)
    assert (status, document["code"]) == (403, "cross_site_request")
    own = cookie() | {"Origin": f"https://www.example.org:{site.port}", "X-Forwarded-Host": "evil.example"}
    assert site.call("POST", lesson_path(2), own)[0] == 200


def test_one_request_too_many_is_refused_at_once(nginx, gunicorn, world, db):
    site = nginx(gunicorn(WEB_CONCURRENCY="1", WEB_THREADS="4"), **{"max_conns=200": "max_conns=2"})
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with ThreadPoolExecutor(2) as pool:
        with db.transaction():
            db.execute("select from users for update")
            writes = [pool.submit(site.call, "POST", lesson_path(2), bearer()) for _ in range(2)]
            with psycopg.connect(db.info.dsn, autocommit=True) as other:
                deadline = time.monotonic() + 60
                while other.execute(waiting).fetchone() != (2,):
                    assert time.monotonic() < deadline
            status, headers, document = site.call("GET", SUMMARY, bearer())
            assert (status, headers["Retry-After"], document["code"]) == (502, "2", "unavailable")
        assert [write.result()[0] for write in writes] == [200, 200]
    assert site.call("GET", SUMMARY, bearer())[0] == 200


def test_what_the_service_answers_comes_as_it_was(nginx, gunicorn, world):
    site = nginx(gunicorn(WEB_CONCURRENCY="1"))
    headers = bearer() | {"Idempotency-Key": "a", "X-Request-Id": "mine"}
    status, answered, _ = site.call("GET", SUMMARY, headers)
    assert (status, answered["X-Request-Id"], answered["Cache-Control"]) == (200, "mine", "private, no-cache")
    assert site.call("GET", SUMMARY, headers | {"If-None-Match": answered["ETag"]})[0] == 304
    assert site.call("POST", lesson_path(2), headers)[1]["Idempotency-Key"] == "a"
    too_large = [site.call("POST", lesson_path(2), headers, b" " * size) for size in (16385, 2**20 + 1)]
    assert [(status, document["code"]) for status, _, document in too_large] == [(413, "body_too_large")] * 2


def test_answers_are_compressed_and_known_again_by_their_etag(nginx, gunicorn, db):
    add_user(db)
    add_module(db, 1, *range(0x1000, 0x1000 + 100))
    service = gunicorn(WEB_CONCURRENCY="1")
    site = nginx(service)
    zipped = {"Accept-Encoding": "gzip"}

    def get(path: str, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("www.example.org", site.port)
        connection.sock = site.connect()
        with closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    for path, headers in (
        ("/api/progress/outline", bearer()),
        ("/progress-ui/store.js", {}),
        ("/openapi.yaml", {}),
    ):
        status, plain, content = get(path, headers)
        assert (status, plain["Content-Encoding"], plain["ETag"][0]) == (200, None, '"')
        status, answered, body = get(path, headers | zipped)
        assert (status, answered["Content-Encoding"]) == (200, "gzip")
        assert gzip.decompress(body) == content
        assert len(body) < len(content) / 2
        assert answered["ETag"] == f"W/{plain['ETag']}"
        vary = ", ".join(answered.get_all("Vary") or ())
        assert "Accept-Encoding" in vary
        assert ("Authorization, Cookie" in vary) == path.startswith("/api/")
        for tag in (answered["ETag"], plain["ETag"]):
            status, again, body = get(path, headers | zipped | {"If-None-Match": tag})
            assert (status, again["Content-Encoding"], body) == (304, None, b"")
        # With another ETag, the whole answer is sent.
        assert get(path, headers | zipped | {"If-None-Match": 'W/"other"'})[0] == 200
    # An answer that fits into one packet is not compressed.
    assert get("/api/progress/summary", bearer() | zipped)[1]["Content-Encoding"] is None


def test_connections_to_the_service_are_kept(nginx):
    came: list[tuple[int, str, str | None]] = []

    class Service(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            came.append((self.client_address[1], self.request_version, self.headers["Connection"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        site = nginx(f"http://127.0.0.1:{server.server_port}")
        for _ in range(10):
            assert site.call("GET", SUMMARY)[0] == 200
        server.shutdown()
    # nginx uses HTTP/1.1, does not ask to close the connection, and uses one connection for all requests.
    assert {(version, connection) for _, version, connection in came} == {("HTTP/1.1", None)}
    assert len({port for port, _, _ in came}) == 1


def test_a_reload_fails_no_request_on_connections_that_are_kept(nginx, environ, world):
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "2"}) as service:
        site = nginx(service.url)
        over = threading.Event()
        statuses: list[int] = []

        def client() -> None:
            while not over.is_set():
                statuses.append(site.call("POST", lesson_path(2), bearer())[0])

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        workers = service.workers()
        service.process.send_signal(signal.SIGHUP)
        try:
            deadline = time.monotonic() + 60
            while len(service.workers()) != 2 or service.workers() & workers:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            beyond = len(statuses) + 50
            while len(statuses) < beyond:
                assert any(thread.is_alive() for thread in threads)
                time.sleep(0.02)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert set(statuses) == {200}


def test_the_components_are_passed_on(nginx, gunicorn):
    site = nginx(gunicorn(WEB_CONCURRENCY="1"))
    status, headers, _ = site.call("HEAD", "/progress-ui/progress-ui.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert (headers["Cache-Control"], headers["Access-Control-Allow-Origin"]) == ("public, no-cache", "*")
    again = {"If-None-Match": headers["ETag"]}
    status, headers, _ = site.call("HEAD", "/progress-ui/progress-ui.js", again)
    assert (status, headers["Cache-Control"]) == (304, "public, no-cache")


def test_the_metrics_are_closed(nginx, gunicorn):
    service = gunicorn(WEB_CONCURRENCY="1", METRICS="on")
    status, headers, document = nginx(service).call("GET", "/metrics")
    assert (status, headers["Content-Type"], document["code"]) == (404, "application/problem+json", "not_found")


def assert_unavailable(answer: Any, status: int) -> None:
    assert (answer[0], answer[2]["status"], answer[2]["code"]) == (status, status, "unavailable")
    assert answer[1]["Content-Type"] == "application/problem+json"
    assert int(answer[1]["Retry-After"]) >= 1


def test_a_service_that_is_not_there_or_hangs_is_a_problem_document(nginx):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        site = nginx(
            f"http://127.0.0.1:{hanging.getsockname()[1]}", **{"proxy_read_timeout 15s": "proxy_read_timeout 1s"}
        )
        assert_unavailable(site.call("GET", SUMMARY), 504)
    assert_unavailable(site.call("POST", lesson_path(2)), 502)


def test_the_unit_is_one_that_systemd_takes(folder, environ):
    unit = (ROOT / "deploy" / "progress.service").read_text().replace("/opt/progress-tracking", str(ROOT))
    (folder / "progress.service").write_text(unit)
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(folder / "progress.service")], capture_output=True, text=True
    )
    said = [line for line in verified.stderr.splitlines() if "progress.service" in line]
    assert (verified.returncode, said) == (0, [])
    check, hang_up = re.findall(r"^ExecReload=(.+)$", unit, re.M)
    assert hang_up == "/bin/kill -HUP $MAINPID"
    for database_url, status in ((environ["DATABASE_URL"], 0), ("", 1)):
        settings = environ | {"DATABASE_URL": database_url}
        checked = subprocess.run(shlex.split(check), cwd=ROOT, env=settings, capture_output=True, text=True)
        assert (checked.returncode, checked.stdout, checked.stderr.count("\n")) == (status, "", status)
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert timeout
    assert int(timeout[1]) > 2 * (5 + 10)  # DATABASE_TIMEOUT + 10 seconds, once for a reload and once for the stop


def test_the_unit_of_the_deliverer_is_one_that_systemd_takes():
    unit = (ROOT / "deploy" / "progress-deliver.service").read_text()
    service = (ROOT / "deploy" / "progress.service").read_text()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "progress-deliver.service"
        file.write_text(unit.replace("/opt/progress-tracking", str(ROOT)))
        verified = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
    said = [line for line in verified.stderr.splitlines() if "progress-deliver.service" in line]
    assert (verified.returncode, said) == (0, [])
    # It has the same fence as the service.
    assert unit[unit.index("NoNewPrivileges") :] == service[service.index("NoNewPrivileges") :]
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert timeout
    assert int(timeout[1]) > deliverer.SEND_SECONDS + deliverer.STOP_SECONDS


def test_systemd_is_told_when_the_service_is_ready(folder, environ):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        notified.settimeout(20)
        with running_gunicorn(environ | {"WEB_CONCURRENCY": "1", "NOTIFY_SOCKET": str(folder / "notify")}):
            assert b"READY=1" in notified.recv(1000)


@pytest.fixture
def pgbouncer(folder):
    """Yield a function that starts a PgBouncer in transaction mode for a URL, and returns its host and port."""
    with ExitStack() as stack:

        def start(url: str, settings: str = "") -> str:
            parts = conninfo_to_dict(url)
            port = free_port()
            (folder / "pgbouncer.ini").write_text(
                f"[databases]\n* = host={parts['host']} port={parts['port']}\n"
                "[pgbouncer]\n"
                f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
                f"auth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 3\n{settings}\n"
            )
            (folder / "users").write_text("".join(f'"{name}" ""\n' for name in ("postgres", SERVICE, "pooled_owner")))
            user = owner(ROOT)
            if user:
                os.chown(folder, *user)
            command = [*unprivileged(ROOT), "pgbouncer", "-q", str(folder / "pgbouncer.ini")]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.terminate)
            deadline = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/{parts['dbname']}").close()
                    return f"127.0.0.1:{port}"
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

        yield start


def test_behind_a_pgbouncer_in_transaction_mode(pgbouncer, environ, db):
    fill(db)
    url = f"postgresql://{SERVICE}@{pgbouncer(environ['DATABASE_URL'])}/{db.info.dbname}"
    settings = {"DATABASE_URL": url, "PREPARE_THRESHOLD": "off", "WEB_CONCURRENCY": "2"}
    with running_gunicorn(environ | settings) as service, Load(service.url) as load:
        load.wait_for_more(300)
    assert {(answer.status, answer.error) for answer in load.answers} == {(200, None)}
    assert load.marked() <= in_table(db)


def test_a_schema_of_its_own_behind_a_pgbouncer_is_the_roles_from_migrate_to_service(
    pgbouncer, new_database, environ, db
):
    direct = new_database()
    with closing(psycopg.connect(direct, autocommit=True)) as superuser:
        superuser.execute("create role pooled_owner login superuser")
        try:
            database = superuser.info.dbname
            superuser.execute("create schema progress authorization pooled_owner")
            superuser.execute(f"alter role pooled_owner in database {database} set search_path = progress, public")
            superuser.execute("create table users (id uuid primary key, email text); create table lessons (id text)")
            url = f"postgresql://pooled_owner@{pgbouncer(direct)}/{database}"
            with superuser.transaction():
                superuser.execute("lock table users")
                waiting = spawn(url, "migrate")
                assert ended(waiting)[2] == "Error: someone else holds a lock on a table; try again\n"
            assert run(url, "migrate")[0] == 0
            assert run(url, "migrate")[1] == "nothing to do: every migration is applied\n"
            assert run(url, "rollback", CONFIRM="yes")[0] == 0
            assert run(url, "migrate")[0] == 0
            assert run(url, "migration-status")[1].count(" applied ") == len(known_migrations())
            assert tables(direct, "progress") == [name for name in TABLES if name != "users"]
            assert tables(direct) == ["lessons", "users"]
            # The next client that gets the migrations' server connection does not have their timeouts.
            with closing(psycopg.connect(url, autocommit=True)) as pooled:
                for name in ("lock_timeout", "statement_timeout"):
                    assert pooled.execute(f"show {name}").fetchone() == ("0",)
            grant(url)
            with closing(psycopg.connect(url, autocommit=True)) as pooled:
                pooled.prepare_threshold = None
                add_user(pooled)
                add_module(pooled, 1, 2)
            settings = {"DATABASE_URL": url.replace("pooled_owner@", f"{SERVICE}@"), "PREPARE_THRESHOLD": "off"}
            with running_gunicorn(environ | settings | {"WEB_CONCURRENCY": "1"}) as service:
                request = urllib.request.Request(service.url + lesson_path(2), method="POST", headers=bearer())
                with urllib.request.urlopen(request) as response:
                    assert json.load(response)["overall"]["percent"] == 100
        finally:
            superuser.execute("drop schema progress cascade; drop owned by pooled_owner")
            superuser.execute("drop role pooled_owner")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "",
            "unsupported startup parameter: options. "
            "A PgBouncer takes no options: leave them out, and set for the role what they set\n",
        ),
        (
            "ignore_startup_parameters = options",
            "Error: DATABASE_URL: its search_path does not reach the database; a PgBouncer ignores options. "
            "Leave it out, and set it for the role: alter role … set search_path = …\n",
        ),
    ],
)
def test_a_search_path_in_the_url_that_a_pgbouncer_does_not_pass_on_is_told_of(pgbouncer, new_database, settings, said):
    direct = new_database()
    path = conninfo_to_dict(direct)["dbname"]
    url = f"postgresql://postgres@{pgbouncer(direct, settings)}/{path}?options=-csearch_path%3Dprogress,public"
    for command in ("migrate", "rollback", "migration-status", "migrate-unlock"):
        code, out, err = run(url, command)
        assert (code, out, err.count("\n"), err.endswith(said)) == (1, "", 1, True)
    assert tables(direct) == []
