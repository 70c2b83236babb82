"""A real Chromium for the tests of the face, and axe to look at what it shows."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Browser, BrowserContext, Page, Request, Route, sync_playwright

from tests.conftest import ROOT

BUILD = ROOT / "build" / "face"
AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
# As root it has no sandbox to run in; and it must not look for hosts of its own.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


class Said(list[str]):
    """What the browser says against a page: errors in its scripts, and what its policy forbade."""

    def __init__(self, context: BrowserContext) -> None:
        context.on("weberror", lambda error: self.append(str(error.error)))
        context.on("console", lambda message: self._console(message.text))

    def _console(self, text: str) -> None:
        # Answers other than 200 are told too, which are no faults of a page.
        if not re.match(
            r"Failed to load resource: (the server responded|net::ERR_(INTERNET_DISCONNECTED|FAILED))", text
        ):
            self.append(text)


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Make a browser's profile; at the end of the test nothing may have been said against any page in it."""
    made: list[tuple[BrowserContext, Said]] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(
            **{"viewport": {"width": 1000, "height": 800}, "reduced_motion": "reduce"} | options
        )
        context.set_default_timeout(5000)
        made.append((context, Said(context)))
        return context

    yield make
    said = [text for _, texts in made for text in texts]
    for context, _ in made:
        context.close()
    assert said == []


def assert_axe_finds_nothing(page: Page) -> None:
    """Every rule of axe, best practices and the newest of WCAG too."""
    page.evaluate(AXE.read_text())
    # It takes a page without a background for white, in the dark too.
    page.evaluate("document.documentElement.style.background ||= 'Canvas'")
    found = page.evaluate("axe.run({ rules: { 'target-size': { enabled: true } } })")
    assert len(found["passes"]) > 15  # it has looked
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def screenshot(page: Page, name: str) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=BUILD / f"{name}.png")


class Held:
    """Requests to an address that wait until they are let go; `methods` lists what came, in order.

    If they are `answered`, the service answers at once, and it is the answer that waits.
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
        self._waiting.append((route, route.fetch() if self.answered else None))

    def wait(self) -> None:
        """Wait until a request is held."""
        deadline = time.monotonic() + 10
        while not self._waiting:
            assert time.monotonic() < deadline, "no request came"
            self.page.wait_for_timeout(5)

    def let_go(self) -> None:
        self.wait()
        route, answer = self._waiting.pop(0)
        if answer:
            route.fulfill(response=answer)
        else:
            route.continue_()

    def let_pass(self) -> None:
        """Hold no further request. (To unroute would let go of those that are held.)"""
        self._passes = True


class Calls(list[str]):
    """The calls of the API that a page makes from now on: `METHOD path status`, as they are answered."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []  # METHOD path, as they are sent
        page.on("request", lambda request: self._note(request, self.asked))
        page.on("response", lambda response: self._note(response.request, self, f" {response.status}"))

    def _note(self, request: Request, notes: list[str], status: str = "") -> None:
        path = request.url.partition("/api/progress/")[2]
        if path and request.method != "OPTIONS":
            notes.append(f"{request.method} {path}{status}")

    def wait(self, count: int) -> "Calls":
        """Wait until so many are answered, and what they make the page do is done."""
        deadline = time.monotonic() + 10
        while len(self) < count:
            assert time.monotonic() < deadline, self
            self.page.wait_for_timeout(5)
        return self


def document(page: Page, url: str) -> Any:
    """What the API itself says to the page's learner."""
    return json.loads(page.context.request.get(url).text())
