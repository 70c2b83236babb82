"""The components and their types in React 18 and 19, as docs/front-end.md shows them.

The types are also compared with the code: with the elements, the labels, the events and the store in Chromium.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import BrowserContext, Page, Request, Route, expect

from tests.conftest import ROOT
from tests.pages import block
from tests.system.conftest import OUTLINE, Calls

# Fixtures are found by their names.
from tests.system.test_face import (  # noqa: F401
    BOTH,
    CIPHER,
    HELLO,
    LASAGNA,
    Shown,
    Site,
    service,
    site,
    start,
    visit,
    world,
)
from tests.world import complete, cookie, token, uuid4

HERE = Path(__file__).parent
SOURCES = HERE / "react"
TYPES = ROOT / "app" / "static" / "progress-ui.d.ts"
SCRIPT = "/progress-ui/progress-ui.js"
STRICT = ["--noEmit", "--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--target", "es2022"]
STRICT += ["--module", "esnext", "--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"]


class Version(NamedTuple):
    """A version of React: a folder with its packages and a site's sources."""

    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.folder / "node_modules" / ".bin" / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=[18, 19])
def react(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Return the sources of a site, made from the code blocks of docs/front-end.md."""
    number: int = request.param
    folder = tmp_path_factory.mktemp(f"react{number}")
    (folder / "node_modules").symlink_to(HERE / f"react{number}" / "node_modules")
    for path in [TYPES, *SOURCES.iterdir()]:
        if path.name != f"react{37 - number}.tsx":
            shutil.copy(path, folder)
    for name in ("course-progress.tsx", "use-progress.tsx"):
        (folder / name).write_text(block("tsx", f"// {name}\n"))
    return Version(folder)


def test_the_types_and_the_examples_are_right(react):
    sources = [path.name for path in react.folder.iterdir() if path.suffix in (".ts", ".tsx")]
    react.run("tsc", *STRICT, "--jsx", "react-jsx", *sources)


def test_a_site_without_react_can_use_the_types(react, tmp_path):
    for name in ("types.ts", "progress-ui.d.ts"):
        shutil.copy(react.folder / name, tmp_path)
    react.run("tsc", *STRICT, str(tmp_path / "types.ts"))


def members(interface: str) -> set[str]:
    """Return the names of the members of an interface, also of the interfaces that it extends."""
    head = rf"^(?:export |  )?interface {interface}(?: extends ([\w, ]+))? \{{"
    found = re.search(rf"{head}(.*?)\}}$", TYPES.read_text(), re.M | re.S)
    if not found:
        return set()  # one of the browser's
    names = set(re.findall(r'^ +(?:readonly |get |set )?"?([\w-]+)"?\??[:(]', found[2], re.M))
    return names.union(*(members(base) for base in (found[1] or "").split(", ") if base))


FOUND = """async (service) => {
  const script = await import(`${service}/progress-ui/progress-ui.js`);
  const { ENGLISH } = await import(`${service}/progress-ui/labels.js`);
  const own = (prototype) => Object.getOwnPropertyNames(prototype);
  const names = (object, last) =>
    object === last ? [] : [...own(object), ...names(Object.getPrototypeOf(object), last)];
  const isPublic = (name) => !/^_|Callback$|^constructor$/.test(name);
  const elements = ["course-progress", "lesson-progress"].map((name) => customElements.get(name));
  const store = script.storeOf();
  return {
    exports: Object.keys(script),
    store: [...own(store), ...own(Object.getPrototypeOf(store))].filter(isPublic),
    labels: Object.keys(ENGLISH),
    why: Object.keys(ENGLISH.why),
    properties: elements.map((element) => names(element.prototype, HTMLElement.prototype).filter(isPublic)),
    attributes: elements.map((element) =>
      element.observedAttributes.filter((name) => !element.properties.includes(name))),
    set: elements.map((element) => element.properties),
  };
}"""


def test_the_types_name_what_there_is_and_nothing_else(visit, world):  # noqa: F811
    found = visit().page.evaluate(FOUND, visit().service)
    text = TYPES.read_text()
    assert set(found["exports"]) == set(re.findall(r"^export (?:declare )?(?:function|const|class) (\w+)", text, re.M))
    assert set(found["store"]) == members("Store")
    assert set(found["labels"]) == members("Labels")
    assert set(found["why"]) == members("WhyLabels")
    for at, name in enumerate(("CourseProgress", "LessonProgress")):
        assert set(found["properties"][at]) == members(f"{name}Element"), name
        assert set(found["attributes"][at]) == members(f"{name}Attributes"), name
    assert set(found["set"][0]) == members("CourseProgressProperties")
    assert set(found["set"][1]) == members("ProgressProperties")
    code = "".join(path.read_text() for path in TYPES.parent.glob("*.js"))
    assert set(re.findall(r'_dispatch\("([\w-]+)"', code)) == members("ProgressEvents")
    assert set(re.findall(r'\.define\("([\w-]+)"|\["([\w-]+)", \w+\],', code)) == {
        ("", name) for name in members("HTMLElementTagNameMap")
    }
    # A label with a number has plural forms.
    numbered = set(re.findall(r"^  (\w+): PluralText;", text, re.M))
    labels = (TYPES.parent / "labels.js").read_text()
    assert numbered == set(re.findall(r"^  (\w+): \{\s*one:", labels, re.M))


# What a page gets, as JSON. A lesson's module is left out: the module holds the lesson.
VALUES = """async ([service, lesson, locked]) => {
  const store = (await import(`${service}/progress-ui/progress-ui.js`)).storeOf();
  const plain = (value) => JSON.parse(JSON.stringify(value ?? null, (key, inner) => key === "module" && inner.lessons
    ? undefined : inner instanceof Map ? [...inner] : inner));
  const refused = plain(await store.want(locked, true));
  const stored = plain(await store.want(lesson, true));
  const { modules, lessons, next, ...view } = plain(store.view);
  return { refused, stored, modules, lessons, next, view };
}"""

VALUES_FIT = """
import type { Access, Answer, Lesson, Module, Outcome, View } from "./progress-ui";
type Plain<L> = Omit<L, "module">;
type PlainModule = Omit<Module, "lessons"> & { lessons: Plain<Lesson>[] };
const refused: Outcome = REFUSED;
const stored: Omit<Outcome, "opened" | "answer"> & { answer: Answer; opened: Plain<Lesson>[] } = STORED;
const modules: PlainModule[] = MODULES;
const lessons: [string, Plain<Lesson>][] = LESSONS;
const next: Plain<Lesson> = NEXT;
const view: Omit<View, "modules" | "lessons" | "next"> = VIEW;
const access: Access = ACCESS;
export { access, lessons, modules, next, refused, stored, view };
"""


def test_the_values_that_a_page_gets_are_those_of_the_types(react, visit, world, db, tmp_path):  # noqa: F811
    """No member is missing in a value or in the types: TypeScript refuses a literal with either."""
    db.execute("insert into courses (id, title, position) values (%s, 'JavaScript', 1)", [uuid4(0xC1)])
    db.execute("update modules set course_id = %s where id = %s", [uuid4(0xC1), uuid4(1)])
    shown = visit()
    values = shown.page.evaluate(VALUES, [shown.service, uuid4(LASAGNA), uuid4(CIPHER)])
    assert values["refused"]["code"] == "lesson_locked"
    assert values["stored"]["opened"]
    assert values["stored"]["answer"]["course"]
    assert values["view"]["courses"]
    values["access"] = shown.api("access")
    text = VALUES_FIT
    for name, value in values.items():
        text = text.replace(f"= {name.upper()};", f"= {json.dumps(value)};")
    (tmp_path / "values.ts").write_text(text)
    shutil.copy(TYPES, tmp_path)
    react.run("tsc", *STRICT, str(tmp_path / "values.ts"))


@pytest.fixture
def page_of(
    react: Version,
    new_context: Callable[..., BrowserContext],
    service: str,  # noqa: F811
    site: Site,  # noqa: F811
) -> Callable[..., Page]:
    """Yield a function that opens a page of React's, with a token and without a cookie."""
    bundle = ["--bundle", "--jsx=automatic", "--define:process.env.NODE_ENV='development'", "--log-level=warning"]
    hook = react.folder / "use-progress.tsx"
    hook.write_text(hook.read_text().replace(f'"{SCRIPT}"', json.dumps(service + SCRIPT)))

    def page_of(entry: str, html: str = "") -> Page:
        script = react.run("esbuild", f"{entry}.tsx", "--format=iife", *bundle)
        site.policy = ""
        site.pages["/bundle.js"] = script
        site.pages["/"] = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>A course</title>'
            f'<div id="root">{html}</div><script src="/bundle.js" charset="utf-8"></script>'
        )
        context = new_context()
        # Without this, React writes to the console that its developer tools can be installed.
        context.add_init_script("window.__REACT_DEVTOOLS_GLOBAL_HOOK__ = { isDisabled: true }")
        page = context.new_page()
        page.goto(site.url)
        return page

    return page_of


def add_script(page: Page, service: str) -> None:  # noqa: F811
    page.add_script_tag(url=service + SCRIPT, type="module")
    page.evaluate("() => customElements.whenDefined('course-progress').then(() => {})")


@pytest.mark.parametrize("is_late", [False, True], ids=["the script first", "the script late"])
@pytest.mark.parametrize("is_from_server", [False, True], ids=["rendered", "hydrated"])
def test_properties_and_events_hold_in_any_order(react, page_of, world, service, db, is_late, is_from_server):  # noqa: F811
    settings = {"token": token(), "moduleId": uuid4(1), "lessonId": uuid4(LASAGNA)}
    html = ""
    if is_from_server:
        react.run("esbuild", "server.tsx", "--bundle", "--platform=node", "--jsx=automatic", "--outfile=server.cjs")
        done = subprocess.run(
            ["node", "server.cjs", json.dumps(settings)], cwd=react.folder, capture_output=True, text=True, check=True
        )
        html = done.stdout
        assert settings["token"] not in html
        assert "<course-progress>" in html
    page = page_of("client", html)
    waiting: list[Route] = []

    def wait(route: Route) -> None:
        waiting.append(route)

    if is_late:
        page.route(re.compile(f"{SCRIPT}$"), wait, times=1)
    sent: list[str | None] = []

    def note(request: Request) -> None:
        if "/api/progress/" in request.url:
            sent.append(request.headers.get("authorization"))

    page.on("request", note)
    if not is_late:
        add_script(page, service)
    page.evaluate("([settings, isFromServer]) => render(settings, isFromServer)", [settings, is_from_server])
    if is_late:
        expect(page.locator("#store")).to_have_text("none")
        assert page.evaluate("customElements.get('course-progress') === undefined")
        while not waiting:  # wait until the hook has begun to load the script
            page.wait_for_timeout(5)
        waiting[0].continue_()
    shown = Shown(page, service)
    expect(page.locator("#store")).to_have_text("ready: 0%")
    expect(shown.percent).to_have_text("0%")
    button = shown.course.locator(".continue").get_by_role("button")
    expect(button).to_have_text("Done!")
    link = shown.course.locator(".continue").get_by_role("link")
    expect(link).to_have_attribute("href", "/lessons/Lasagna")
    link.click()
    expect(page.locator("#told")).to_have_text("/lessons/Lasagna")
    button.click()
    expect(page.locator("#told")).to_have_text("changed 25%")
    expect(page.locator("#store")).to_have_text("ready: 25%")
    # After a new render, the same element still dispatches events.
    button.click()
    expect(page.locator("#told")).to_have_text("changed 40%")
    # An element from the server exists before React runs, so it first reads with the cookie, without a token.
    early = {None} if is_from_server and not is_late else set()
    assert set(sent) == {f"Bearer {settings['token']}"} | early
    # The components do not read again and again.
    made = Calls(page)
    complete(db, HELLO)
    shown.becomes_visible()
    expect(page.locator("#store")).to_have_text("ready: 60%")
    made.wait(1)
    assert made.asked == [f"GET {OUTLINE}"]


@pytest.mark.parametrize("react", [19], indirect=True)
def test_react_19_sets_properties_and_listens_itself(react, page_of, world, service):  # noqa: F811
    page = page_of("react19")
    add_script(page, service)
    page.evaluate("(token) => renderProperties(token, false)", token())
    shown = Shown(page, service)
    expect(shown.course.locator(".counts")).to_have_text("0 of 5 lessons")
    shown.course.locator(".continue").get_by_role("link").click()
    expect(page.locator("#told")).to_have_text("/lessons/Lasagna")
    shown.course.locator(".continue").get_by_role("button", name="Done!").click()
    expect(page.locator("#told")).to_have_text("changed 25%")
    expect(shown.percent).to_have_text("20%")


@pytest.mark.parametrize("react", [19], indirect=True)
def test_react_19_sets_nothing_on_an_element_that_came_from_the_server(react, page_of, world, service):  # noqa: F811
    """This is why the page sets the token by a ref. If this test fails, the page no longer needs to."""
    page = page_of("react19", '<main><p id="told">nothing</p><course-progress count="all"></course-progress></main>')
    name, _, value = cookie()["Cookie"].partition("=")
    page.context.add_cookies([{"name": name, "value": value, "url": service, "httpOnly": True, "sameSite": "Lax"}])
    add_script(page, service)
    page.evaluate("(token) => renderProperties(token, true)", token())
    # When this property of React's exists, React has taken over the element.
    page.wait_for_function(
        "() => Object.keys(document.querySelector('course-progress')).some((key) => key.startsWith('__reactProps'))"
    )
    shown = Shown(page, service)
    shown.course.locator(".continue").get_by_role("button", name="Mark as completed").click()
    expect(shown.percent).to_have_text("20%")
    expect(shown.course.get_by_role("link")).to_have_count(0)
    expect(page.locator("#told")).to_have_text("nothing")
