"""A real Chromium for the tests of the web components, and axe to check what it shows."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    Page,
    Request,
    Response,
    Route,
    expect,
    sync_playwright,
)

from tests.conftest import ROOT

# What the components ask for everything that the learner may take.
OUTLINE = "outline?include=completions,courses"
BUILD = ROOT / "build" / "face"
AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
# Chromium as root cannot use its sandbox. The other flags keep it from connecting to hosts by itself.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
# How long a test waits for what a page will show. A page takes long while other tests use the processors.
MAX_WAIT_MS = 30_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        expect.set_options(timeout=MAX_WAIT_MS)
        yield browser
        browser.close()


class PageErrors(list[str]):
    """What is wrong with a page: errors in its scripts, and what its Content-Security-Policy has forbidden."""

    def __init__(self, context: BrowserContext) -> None:
        context.on("weberror", lambda error: self.append(str(error.error)))
        context.on("console", lambda message: self._console(message.text))

    def _console(self, text: str) -> None:
        # The console also has answers other than 200, which are not errors of the page.
        if not re.match(
            r"Failed to load resource: (the server responded|net::ERR_(INTERNET_DISCONNECTED|FAILED))", text
        ):
            self.append(text)


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Yield a function that makes a browser's profile. At the end of the test, no page in it may have had an error."""
    made: list[tuple[BrowserContext, PageErrors]] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(
            **{"viewport": {"width": 1000, "height": 800}, "reduced_motion": "reduce"} | options
        )
        context.set_default_timeout(MAX_WAIT_MS)
        made.append((context, PageErrors(context)))
        return context

    yield make
    errors = [text for _, texts in made for text in texts]
    for context, _ in made:
        context.close()
    assert errors == []


def assert_axe_finds_nothing(page: Page) -> None:
    """Check a page with every rule of axe, also best practices and the newest rules of WCAG."""
    page.evaluate(AXE.read_text())
    # Without a background, axe takes a page for white, even in dark mode.
    page.evaluate("document.documentElement.style.background ||= 'Canvas'")
    found = page.evaluate("axe.run({ rules: { 'target-size': { enabled: true } } })")
    assert len(found["passes"]) > 15  # axe has found elements to check
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def screenshot(page: Page, name: str) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=BUILD / f"{name}.png")


# The requests that a test holds now.
_held: set[Request] = set()


class Held:
    """Holds the requests to an address until a test lets them go. `methods` lists their methods, in order.

    With `answered`, a request reaches the service at once, and its answer is held.
    """

    def __init__(self, page: Page, pattern: str, *, answered: bool = False) -> None:
        self.page = page
        self.answered = answered
        self.methods: list[str] = []
        self._waiting: list[tuple[Route, APIResponse | None]] = []
        self._passes = False
        page.route(re.compile(pattern), self._hold)

    def _hold(self, route: Route) -> None:
        if route.request.method == "OPTIONS" or self._passes:
            route.continue_()
            return
        self.methods.append(route.request.method)
        _held.add(route.request)
        self._waiting.append((route, route.fetch() if self.answered else None))

    def wait(self) -> None:
        """Wait until a request is held."""
        deadline = time.monotonic() + 60
        while not self._waiting:
            assert time.monotonic() < deadline, "no request came"
            self.page.wait_for_timeout(5)

    def let_go(self) -> None:
        self.wait()
        route, answer = self._waiting.pop(0)
        _held.discard(route.request)
        if answer:
            route.fulfill(response=answer)
        else:
            route.continue_()

    def let_pass(self) -> None:
        """Hold no further request. Unlike unroute(), this does not let go of the requests that are held."""
        self._passes = True


class Calls(list[str]):
    """The calls of a page to the API that are answered from now on, as `METHOD path status`, in that order."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []  # `METHOD path`, in the order in which they were sent
        self._open: set[Request] = set()  # requests whose answer has not come, or not whole
        page.on("request", self._asked)
        page.on("response", self._answered)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)

    def _asked(self, request: Request) -> None:
        if self._note(request, self.asked):
            self._open.add(request)

    def _answered(self, response: Response) -> None:
        if self._note(response.request, self, f" {response.status}"):
            self._open.add(response.request)  # also a request that was sent before
        if response.status == 304:  # which has no body, and which Chromium does not report as finished
            self._ended(response.request)

    def _ended(self, request: Request) -> None:
        self._open.discard(request)

    def _note(self, request: Request, notes: list[str], status: str = "") -> bool:
        path = request.url.partition("/api/progress/")[2]
        if not path or request.method == "OPTIONS":
            return False
        notes.append(f"{request.method} {path}{status}")
        return True

    def wait(self, count: int) -> "Calls":
        """Wait until `count` calls are answered, no other call waits but for the held ones, and the page is at rest.

        Without the second, the speed of the machine would decide whether the call that follows an answer is seen.
        """
        deadline = time.monotonic() + 60
        while True:
            # As long as the body is coming, the page does not send the answer's ETag with its next call.
            while len(self) < count or self._open - _held:
                assert time.monotonic() < deadline, (self, self._open)
                self.page.wait_for_timeout(5)
            # The page's own code runs after the body has come: first in promises, then in tasks. It may call again.
            self.page.evaluate("() => new Promise((done) => setTimeout(done))")
            if not self._open - _held:
                return self


def document(page: Page, url: str) -> Any:
    """Return the API's own answer to the learner of the page."""
    return json.loads(page.context.request.get(url).text())
