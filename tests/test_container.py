"""Containerfile, compose.yaml and docs/container.md: what can be tested without a container engine."""

import base64
import hashlib
import hmac
import re
import subprocess
from typing import Any

import psycopg
import yaml
from click.testing import CliRunner

from app.cli import cli
from app.demo.postgres import bindir
from tests.conftest import ROOT, running_gunicorn
from tests.pages import PAGES, blocks, table

PAGE = {"docs/container.md": PAGES["docs/container.md"]}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
KUBERNETES = {document["kind"]: document for text in blocks("yaml", PAGE) for document in [yaml.safe_load(text)]}
RELEASE = "python -m app.cli migrate && exec python -m app.cli grants --role=progress"


def pod(kind: str) -> Any:
    return KUBERNETES[kind]["spec"]["template"]["spec"]


def test_compose_has_the_release_step_between_the_database_and_the_service():
    assert list(SERVICES) == ["postgres", "migrate", "service", "deliver"]
    assert SERVICES["migrate"]["command"] == ["sh", "-c", RELEASE]
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["service"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert SERVICES["deliver"]["depends_on"] == SERVICES["service"]["depends_on"]
    for name in ("migrate", "service", "deliver"):
        assert SERVICES[name]["image"] == SERVICES["migrate"]["image"]
        assert (ROOT / SERVICES[name]["build"]["dockerfile"]).exists()
        assert (SERVICES[name]["read_only"], SERVICES[name]["tmpfs"]) == (True, ["/tmp"])
    assert set(COMPOSE["volumes"]) == {"data"}


def test_compose_holds_no_secret_and_passes_every_setting_of_the_service_on():
    given = SERVICES["service"]["environment"]
    settings = {name for row in table("docs/operating.md", "Settings") for name in re.findall(r"`([A-Z_]+)`", row[0])}
    elsewhere = {
        # These are settings of make targets, not of the service.
        *("PG_BINDIR", "STRIPE_API_KEY", "WEBHOOK_METRICS_PORT"),
        *("HOST", "PORT", "PREPARE_THRESHOLD"),  # compose.yaml decides these: it has the network and the database
    }
    assert set(given) - {"PGPASSWORD"} == settings - elsewhere
    assert {name for name, value in given.items() if value is not None} == {"DATABASE_URL", "PGPASSWORD"}
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or re.match(r"\$\{\w+:\?", value), name


def test_the_role_of_compose_is_made_with_its_password(new_database):
    script = COMPOSE["configs"]["role"]["content"]
    assert "$" not in script  # Compose would take it for a variable
    url = new_database()
    superuser = psycopg.connect(url, autocommit=True)
    password = 'it\'s \\ "odd" $1'
    try:
        command = [str(bindir() / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", url]
        subprocess.run(command, input=script, env={"PROGRESS_PASSWORD": password}, text=True, check=True)
        role = superuser.execute("select rolcanlogin, rolsuper, rolpassword from pg_authid where rolname = 'progress'")
        can_login, is_superuser, verifier = role.fetchone() or (None, None, "")
        assert (can_login, is_superuser) == (True, False)
        # PostgreSQL stores a verifier of the password. The same password and salt give the same verifier (RFC 5803).
        [(iterations, salt)] = re.findall(r"^SCRAM-SHA-256\$(\d+):([^$]+)\$", verifier)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        assert base64.b64encode(hashlib.sha256(client_key).digest()).decode() in verifier
    finally:
        superuser.execute("drop role if exists progress")
        superuser.close()


def test_the_health_check_of_compose_tells_a_service_that_answers(environ):
    _, program, *words = SERVICES["service"]["healthcheck"]["test"]
    assert program == "python"
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "1"}) as service:
        here = [word.replace("http://127.0.0.1:8000", service.url) for word in words]
        assert here != words
        assert subprocess.run(["python3", *here], timeout=60).returncode == 0
    assert subprocess.run(["python3", *here], timeout=60, stderr=subprocess.DEVNULL).returncode == 1


def test_a_stop_has_the_time_that_the_unit_gives():
    unit = re.search(r"^TimeoutStopSec=(\d+)$", (ROOT / "deploy" / "progress.service").read_text(), re.M)
    assert unit
    assert SERVICES["service"]["stop_grace_period"] == f"{unit[1]}s"
    assert f"--stop-timeout {unit[1]} " in PAGE["docs/container.md"]
    stop = pod("Deployment")
    [wait] = [int(word) for word in stop["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1:]]
    assert stop["terminationGracePeriodSeconds"] >= int(unit[1]) + wait


def test_the_probes_of_the_page_ask_what_the_service_answers(api):
    [container] = pod("Deployment")["containers"]
    liveness, readiness = container["livenessProbe"], container["readinessProbe"]
    assert (liveness["httpGet"]["path"], readiness["httpGet"]["path"]) == ("/healthz", "/readyz")
    for probe in (liveness, readiness):
        assert api.get(probe["httpGet"]["path"]).status_code == 200
        assert probe["httpGet"]["port"] == container["ports"][0]["containerPort"]
    # As docs/operating.md says: while the database hangs, every thread may wait for DATABASE_TIMEOUT, once.
    assert liveness["failureThreshold"] >= 3
    assert liveness["timeoutSeconds"] >= 10
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert pod("Job")["containers"][0]["command"] == ["sh", "-c", RELEASE]


def test_every_task_that_the_page_names_is_one():
    commands = re.findall(r"app\.cli ([a-z-]+)", PAGE["docs/container.md"])
    assert {"migrate", "grants", "access", "load-catalog"} <= set(commands)
    for command in {*commands, *re.findall(r"app\.cli ([a-z-]+)", (ROOT / "compose.yaml").read_text())} - {"--help"}:
        assert command in cli.commands, command
    assert CliRunner().invoke(cli, ["--help"]).exit_code == 0


def test_the_image_gets_every_file_that_the_service_reads():
    """Each folder or file that the Containerfile copies is there, and .dockerignore lets it through."""
    text = (ROOT / "Containerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
