"""examples/next: built by Next.js, with Prisma's tables and the service in one database, and used in Chromium.

The site is set up by the commands of docs/front-end.md, "In a Next.js site", as they stand there.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import psycopg
import pytest
from playwright.sync_api import Page, expect

from app.demo import stripe_event
from tests.conftest import ROOT, free_port
from tests.pages import PAGES, block, blocks
from tests.system.conftest import screenshot
from tests.test_demo import copy_of_the_checkout

SITE = ROOT / "examples" / "next"
TABLES = SITE / "prisma" / "migrations" / "20261101000000_site" / "migration.sql"
STRIPE_SECRET = "whsec_of_the_example"
PRICE = "price_demoQ7x1"  # of the subscription in app/demo/stripe


class Stripe(ThreadingHTTPServer):
    """A server in place of Stripe: its payment page, and its API, which records the Checkout Sessions of the site."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StripeHandler)
        self.asked: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class StripeHandler(BaseHTTPRequestHandler):
    server: Stripe

    def do_POST(self) -> None:
        assert self.path == "/v1/checkout/sessions"
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append({name: values[0] for name, values in parse_qs(body).items()})
        session = {"id": "cs_test_1", "object": "checkout.session", "url": f"{self.server.url}/pay"}
        self._answer("application/json", json.dumps(session))

    def do_GET(self) -> None:
        self._answer("text/html", "<!doctype html><link rel=icon href=data:,><title>Pay</title>")

    def _answer(self, content_type: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


class Site(NamedTuple):
    """The running example: its URL, the database that it shares with the service, and its requests to Stripe."""

    url: str
    database_url: str
    stripe: Stripe
    environ: dict[str, str]


@contextmanager
def stripe_server() -> Iterator[Stripe]:
    with Stripe() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def settings_of(file: str) -> set[str]:
    return set(re.findall(r"^([A-Z_]+)=", (SITE / file).read_text(), re.M))


def run(*command: str, environ: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=SITE, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running_next(environ: dict[str, str], port: int) -> Iterator[str]:
    """Start the built site. Yield its URL when it answers."""
    url = f"http://127.0.0.1:{port}"
    command = ["node_modules/.bin/next", "start", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, cwd=SITE, env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(f"{url}/sign-in", process)
            yield url
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process answers at a URL."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            assert process.poll() is None, f"{process.args!r} has ended"
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.05)


class Guide:
    """The commands of the page, each run as it stands there, but for addresses, passwords and places."""

    def __init__(self, checkout: Path, environ: dict[str, str], replaced: dict[str, str]) -> None:
        self.folders = {"in the checkout of the service": checkout, "in the folder of the site": SITE}
        self.environ = environ
        self.replaced = replaced

    def script(self, *parts: str) -> tuple[str, Path]:
        """Return the block that has these parts, and the folder that its first line names."""
        text = block("sh", *parts)
        folder = next((path for place, path in self.folders.items() if text.startswith(f"# {place}")), Path("/"))
        for example, ours in self.replaced.items():
            text = text.replace(example, ours)
        # The packages are installed already, at the versions of the lock.
        return re.sub(r"^npm install .*$", "", text, flags=re.M), folder

    def run(self, *parts: str) -> str:
        """Run a block, and hold what it prints to what the page says that it prints, if the page says it."""
        script, folder = self.script(*parts)
        done = subprocess.run(["sh", "-euc", script], cwd=folder, env=self.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        told, printed = printed_after(block("sh", *parts)), done.stdout.splitlines()
        if "…" in told:  # more lines
            rest = iter(printed)
            assert all(line in rest for line in told if line != "…"), done.stdout
        elif told:
            assert printed == told
        return done.stdout

    @contextmanager
    def running(self, url: str, *parts: str) -> Iterator[None]:
        """Run a block that starts a server, from its first answer at `url` to the end of the context."""
        script, folder = self.script(*parts)
        process = subprocess.Popen(
            ["sh", "-euc", script], cwd=folder, env=self.environ, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_for(url, process)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def printed_after(commands: str) -> list[str]:
    """Return the lines of the block of text that comes right after a block of commands, none without such a block."""
    page = PAGES["docs/front-end.md"]
    found = re.match(r"```\n\n```text\n(.*?)\n```", page[page.index(commands) + len(commands) :], re.S)
    return found[1].splitlines() if found else []


@pytest.fixture(scope="module")
def site(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """What the page says, in its order. The types come earlier, because the site is built, with all its pages, once."""
    url = new_database()
    folder = tmp_path_factory.mktemp("site")
    checkout = copy_of_the_checkout(folder / "checkout")
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    with stripe_server() as stripe, closing(psycopg.connect(url, autocommit=True)) as database:
        database.execute(TABLES.read_text())
        database.execute((SITE / "prisma" / "seed.sql").read_text())
        service_port, port = free_port(), free_port()
        service_url, site_url = f"http://127.0.0.1:{service_port}", f"http://127.0.0.1:{port}"
        guide = Guide(
            checkout,
            {"PATH": os.environ["PATH"], "HOME": str(folder), "PORT": str(service_port), "WEB_CONCURRENCY": "1"},
            {
                "postgresql://site:password@localhost/site?": f"{url}&",
                "http://127.0.0.1:8000": service_url,
                "http://localhost:3000": site_url,
                "../site/catalog.json": "catalog.json",
                "catalog.json": str(folder / "catalog.json"),
                "--env-file=.env": f"--env-file={folder}/.env",
            },
        )
        guide.run("app.cli grants", "OWNER_URL=")
        database.execute(block("sql", "alter role progress password"))
        settings = {
            "DATABASE_URL": url.replace("//postgres@", "//progress@"),
            "AUTH_SECRET": "the secret of the sessions",
            "AUTH_USER_ID_NAMESPACE": "7c3f4d0e-6a55-4b0e-9d55-0c8f2d0a4f11",
            "NEW_LEARNERS": "add-free",
            "STRIPE_WEBHOOK_SECRET": STRIPE_SECRET,
            "STRIPE_PRICES": PRICE,
        }
        told = "".join(text for text in blocks("ini") if text.startswith("# progress.env.example"))
        assert set(settings) == settings_of("progress.env.example") == set(re.findall(r"^([A-Z_]+)=", told, re.M))
        (checkout / "progress.env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        with guide.running(f"{service_url}/healthz", "./progress.env"):
            signed_out = guide.run("# anywhere: the service")
            environ = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "DATABASE_URL": url,
                "AUTH_SECRET": settings["AUTH_SECRET"],
                "AUTH_TRUST_HOST": "true",
                "PROGRESS_URL": service_url,
                "STRIPE_SECRET_KEY": "sk_test_example",
                "STRIPE_PRICE_ID": PRICE,
            }
            assert set(environ) - {"PATH", "HOME"} == settings_of(".env.example")
            (folder / ".env").write_text(f"DATABASE_URL='{url}'\n")
            # Nothing is fetched: Next.js sends no telemetry, and Prisma takes any file for the engine that `generate`
            # never starts.
            environ |= {"NEXT_TELEMETRY_DISABLED": "1", "CHECKPOINT_DISABLE": "1"}
            environ["PRISMA_SCHEMA_ENGINE_BINARY"] = "/bin/true"
            guide.run("npx openapi-typescript")
            run("npm", "run", "build", environ=environ)
            environ["NODE_OPTIONS"] = f"--import={Path(__file__).parent / 'next' / 'stripe.mjs'}"
            environ["STRIPE_PORT"] = str(stripe.server_port)
            with running_next(environ, port):
                assert guide.run("# anywhere: the site") == signed_out
                guide.run("# anywhere: the events")
                guide.run("npx tsx")
                guide.environ["OWNER_URL"] = f"{url}&options=-csearch_path%3Dprogress"
                guide.run("load-catalog ../site")
                yield Site(site_url, url, stripe, environ)


PASSWORD = "correct horse battery staple"


@pytest.fixture
def page(new_context: Callable[..., Any]) -> Page:
    page: Page = new_context().new_page()
    return page


def enter(page: Page, site: Site, email: str, button: str, password: str = PASSWORD) -> None:
    page.goto(f"{site.url}/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name=button).click()


def sign_out(page: Page) -> None:
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def lesson_url(site: Site, title: str) -> str:
    with closing(psycopg.connect(site.database_url)) as connection:
        [lesson_id] = connection.execute('select "progressId" from "Lesson" where title = %s', [title]).fetchone() or []
    return f"{site.url}/lessons/{lesson_id}"


def user_id(site: Site, email: str) -> str:
    with closing(psycopg.connect(site.database_url)) as connection:
        [found] = connection.execute('select id from "User" where email = %s', [email]).fetchone() or []
    return str(found)


def summary(page: Page, text: str) -> None:
    expect(page.get_by_text(f"{text} lessons completed", exact=True)).to_be_visible()


def test_a_learner_signs_up_marks_a_lesson_and_finds_it_after_a_reload_and_nobody_else_does(site, page):
    enter(page, site, "ada@example.org", "Sign up")
    summary(page, "0 of 2")
    # What the page tells to look at in the browser, before and after the lessons are loaded.
    access, outline = (page.request.get(f"{site.url}/api/progress/{call}").json() for call in ("access", "outline"))
    assert access == json.loads(block("text", '"free": true'))
    assert [lesson["title"] for module in outline["modules"] for lesson in module["lessons"]] == ["Values", "Names"]
    course = page.locator("course-progress")
    page.evaluate("document.stays = true")
    course.get_by_role("link", name="Values").first.click()
    expect(page.get_by_role("heading", name="Values")).to_be_visible()
    assert page.evaluate("document.stays"), "the link does not go through the site's router"
    lesson = page.locator("lesson-progress")
    lesson.get_by_role("button").click()
    expect(lesson).to_contain_text("Completed on")
    page.reload()
    expect(lesson).to_contain_text("Completed on")
    sign_out(page)
    enter(page, site, "grace@example.org", "Sign up")
    summary(page, "0 of 2")
    sign_out(page)
    enter(page, site, "ada@example.org", "Sign in")
    summary(page, "1 of 2")
    expect(course).to_contain_text("50%")
    screenshot(page, "next")
    # After a tick in the dashboard, the page renders the server's numbers again. When no free lesson is left, it shows
    # the offer.
    expect(page.get_by_role("button", name="Become a member")).to_be_hidden()
    course.get_by_role("button", name="Mark as completed").click()
    summary(page, "2 of 2")
    expect(page.get_by_role("button", name="Become a member")).to_be_visible()


def test_a_wrong_password_and_an_address_that_is_taken_are_told(site, page):
    enter(page, site, "joan@example.org", "Sign up")
    summary(page, "0 of 2")
    sign_out(page)
    enter(page, site, "joan@example.org", "Sign in", "another password")
    expect(page.get_by_text("The address or the password is wrong.")).to_be_visible()
    enter(page, site, "joan@example.org", "Sign up")
    expect(page.get_by_text("This address has an account.")).to_be_visible()


def test_the_button_of_the_typed_client_marks_the_lesson_and_goes_on(site, page):
    enter(page, site, "alan@example.org", "Sign up")
    summary(page, "0 of 2")
    for title in ("Values", "Names"):
        page.goto(lesson_url(site, title))
        page.get_by_role("button", name="Complete and continue").click()
        page.wait_for_url(lesson_url(site, "Names") if title == "Values" else f"{site.url}/")
    summary(page, "2 of 2")
    page.goto(lesson_url(site, "Values"))
    for _ in range(8):
        page.request.post(lesson_url(site, "Values").replace("/lessons/", "/api/progress/lessons/"))
    page.get_by_role("button", name="Complete and continue").click()
    expect(page.get_by_text("That was quick. Wait a moment, then try again.")).to_be_visible()


def test_behind_the_rewrites_a_write_from_the_sites_own_page_passes_and_from_another_page_it_does_not(site, page):
    """Next.js gives the service a `Host` of its own. Older browsers send `Origin` and no `Sec-Fetch-Site`."""
    enter(page, site, "edsger@example.org", "Sign up")
    summary(page, "0 of 2")
    url = lesson_url(site, "Values").replace("/lessons/", "/api/progress/lessons/")
    answers = [page.request.post(url, headers={"Origin": origin}) for origin in (site.url, "https://www.example.com")]
    assert [answer.status for answer in answers] == [200, 403]
    assert answers[1].json()["code"] == "cross_site_request"


def test_behind_the_rewrites_an_empty_id_erases_nothing_and_everything_starts_over_by_name(site, page):
    """Next.js redirects `lessons/` to `lessons`, and the browser repeats the DELETE there."""
    enter(page, site, "frances@example.org", "Sign up")
    summary(page, "0 of 2")
    ids = [lesson_url(site, title).rpartition("/")[2] for title in ("Names", "Values")]
    call = (
        "async ([method, path, body]) => { const response = await fetch(`/api/progress/lessons${path}`, { method,"
        " body: body && JSON.stringify(body), headers: body ? { 'Content-Type': 'application/json' } : {} });"
        " return [response.status, await response.json()] }"
    )
    marks = {"lessons": [{"lessonId": lesson_id} for lesson_id in ids]}
    status, document = page.evaluate(call, ["POST", "", marks])
    assert (status, [result["completed"] for result in document["results"]]) == (200, [True, True])
    status, document = page.evaluate(call, ["DELETE", "/", None])
    assert (status, document["code"]) == (400, "confirmation_required")
    page.reload()
    summary(page, "2 of 2")
    status, document = page.evaluate(call, ["DELETE", "?all=true", None])
    assert (status, document["removedCount"]) == (200, 2)
    page.reload()
    summary(page, "0 of 2")


def test_who_buys_may_take_the_paid_lessons(site, page):
    enter(page, site, "barbara@example.org", "Sign up")
    summary(page, "0 of 2")
    page.get_by_role("link", name="While").click()
    expect(page.get_by_text("This lesson is for members.")).to_be_visible()
    expect(page.get_by_text("A loop runs")).to_have_count(0)
    page.get_by_role("button", name="Become a member").click()
    page.wait_for_url(f"{site.stripe.url}/pay")
    [asked] = site.stripe.asked
    buyer = user_id(site, "barbara@example.org")
    assert asked["client_reference_id"] == asked["subscription_data[metadata][userId]"] == buyer
    assert asked["line_items[0][price]"] == PRICE
    # Stripe sends this event after the payment.
    event = json.loads((ROOT / "app" / "demo" / "stripe" / "active.json").read_text())
    event["data"]["object"]["metadata"]["userId"] = asked["subscription_data[metadata][userId]"]
    assert stripe_event.send(site.url, json.dumps(event), STRIPE_SECRET) == '{"outcome": "applied"}'
    page.goto(asked["success_url"])
    summary(page, "0 of 4")
    assert page.request.get(f"{site.url}/api/progress/access").json()["full"] is True
    page.goto(lesson_url(site, "While"))
    lesson = page.locator("lesson-progress")
    lesson.get_by_role("button").click()
    expect(lesson).to_contain_text("Completed on")
    page.goto(site.url)
    summary(page, "1 of 4")
    # Nobody can open a lesson that is a draft.
    response = page.goto(lesson_url(site, "Until"))
    assert response
    assert response.status == 404


def test_a_typed_client_knows_the_members_of_a_problem_after_a_look_at_its_code(site):
    """tests/system/next/types.ts has lines that must compile, and lines that must not."""
    options = ["--strict", "--noEmit", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
    run("node_modules/.bin/tsc", *options, str(Path(__file__).parent / "next" / "types.ts"), environ=site.environ)
