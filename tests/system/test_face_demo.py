"""The page of `make run` in a real Chromium, and the page of fifteen lines in docs/front-end.md, with the real demo."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.demo.courses import JAVASCRIPT
from tests.conftest import in_memory
from tests.pages import block
from tests.system.conftest import OUTLINE, Calls, assert_axe_finds_nothing, screenshot
from tests.test_demo import Run, copy_of_the_checkout, wait_until_nothing_works_in

FIRST = "97bf898a-36fc-47fc-b870-01fc0c7fe554"
SIZES = {320: 640, 768: 1024, 1440: 900}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="progress-", dir=in_memory())).resolve()
    base.chmod(0o755)
    yield base
    wait_until_nothing_works_in(base)
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def elsewhere(base: Path) -> Iterator[str]:
    """Yield the URL of another server, which has the pages in the folder `site`."""
    (base / "site").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(base / "site")))
    thread = Thread(target=partial(server.serve_forever, 0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def demo(base: Path, elsewhere: str) -> Iterator[str]:
    """Yield the URL that `make run` prints. The learner has completed two lessons."""
    settings = {"ALLOWED_ORIGINS": elsewhere, "RATE_LIMIT_WRITES": ""}
    run = Run(copy_of_the_checkout(base / "checkout"), **settings).wait_until_ready()
    url = re.search(r"^Open (http://\S+)/ in a browser", run.output, re.M)
    assert url
    yield url[1]
    run.process.terminate()
    assert run.end()[0] == 0


def opened(page: Page, demo: str) -> Page:
    page.goto(demo)
    ready(page)
    return page


def ready(page: Page) -> None:
    expect(page.locator("course-progress")).to_have_count(1)
    expect(page.locator(".loading")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_a_person_sees_at_a_glance_how_far_they_are_what_is_next_every_module_and_what_is_locked(
    new_context, demo, width, scheme
):
    height = SIZES[width]
    context = new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = opened(context.new_page(), demo)
    screenshot(page, f"demo-{width}-{scheme}")
    drawer = page.locator("#calls").bounding_box()
    assert drawer
    # On a narrow page the drawer is at the bottom, and covers what is behind it.
    bottom = drawer["y"] if width < 1152 else height
    bars = page.locator(".map i" if width < 480 else ".module .bar")
    expect(bars).to_have_count(32)
    at_a_glance = [
        page.locator(name)
        for name in (".percent", ".counts", ".next", ".continue button", ".locks .eyebrow", ".locks li >> nth=0")
    ]
    for part in [*at_a_glance, *bars.all()]:
        box = part.bounding_box()
        assert box
        assert box["width"] > 0
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= bottom
    expect(page.locator(".percent")).to_have_text("0%")
    expect(page.locator(".counts")).to_have_text("0 of 38 lessons")
    expect(page.locator(".next")).to_have_text("Lucian's Luscious Lasagna")
    expect(page.locator(".locks")).to_contain_text("121 lessons are locked")
    expect(page.locator(".locks li").first).to_have_text(
        "“Annalyn's Infiltration” opens after “Lucian's Luscious Lasagna”"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if width == 768:
        assert_axe_finds_nothing(page)


def test_a_tick_moves_all_there_is_and_the_drawer_shows_the_call(new_context, demo):
    page = opened(new_context(viewport={"width": 1440, "height": 900}).new_page(), demo)
    rows = page.locator("#call-list li:not(.event)")
    expect(rows).to_have_count(2)
    page.locator(".continue button").click()
    expect(page.locator(".counts")).to_have_text("1 of 41 lessons")
    expect(page.locator("lesson-progress")).to_contain_text("Completed on")
    expect(page.get_by_role("progressbar", name="Module Basics").first).to_have_attribute("aria-valuenow", "100")
    expect(rows).to_have_count(3)
    # It was the only lesson of its module. The events arrive a moment later.
    events = page.locator("#call-list li.event")
    expect(events).to_have_count(2)
    expect(events).to_contain_text(["module.completed", "lesson.completed"])
    events.first.locator("summary").click()
    event = json.loads(events.first.locator("pre").inner_text())
    assert (event["type"], event["data"]["module"]["percent"]) == ("module.completed", 100)
    events.first.locator("summary").click()
    expect(page.locator("course-progress .module .why").first).to_contain_text("Completed on ")
    expect(rows.first).to_contain_text(re.compile(rf"POST/api/progress/lessons/{FIRST}200\d+ ms"))
    rows.first.locator("summary").click()
    shown = json.loads(rows.first.locator("pre").inner_text())
    assert (shown["overall"], shown["completed"]) == ({"percent": 0, "completedCount": 1, "totalCount": 325}, True)
    assert shown["course"] == {"courseId": JAVASCRIPT, "percent": 2, "completedCount": 1, "totalCount": 41}
    page.get_by_role("button", name=re.compile("^Numbers")).click()
    page.get_by_role("link", name="Freelancer Rates").click()
    expect(page.locator("#lesson-name")).to_have_text("Freelancer Rates")
    page.locator("lesson-progress").get_by_role("button", name="Mark as completed: Freelancer Rates").click()
    expect(page.get_by_role("checkbox", name="Freelancer Rates")).to_be_checked()
    screenshot(page, "demo-ticked")
    assert_axe_finds_nothing(page)
    page.get_by_role("checkbox", name="Freelancer Rates").click()
    page.locator(".notice:visible").get_by_role("button", name="Undo").click()
    expect(page.get_by_role("checkbox", name="Freelancer Rates")).to_be_checked()
    page.get_by_role("checkbox", name="Freelancer Rates").click()
    expect(page.locator(".counts")).to_have_text("1 of 41 lessons")
    page.get_by_role("button", name=re.compile("^Basics")).click()
    page.get_by_role("checkbox", name="Lucian's Luscious Lasagna").click()
    expect(page.locator(".counts")).to_have_text("0 of 38 lessons")
    # The numbers are shown before they are stored, and the page closes at the end of the test.
    expect(page.locator(".notice:visible")).to_contain_text("“Lucian's Luscious Lasagna” is not completed any more.")


def test_each_learner_and_each_course_can_be_chosen(new_context, demo):
    context = new_context(viewport={"width": 768, "height": 1024})
    page = opened(context.new_page(), demo)
    expect(page.get_by_role("radio", name="Full access")).to_be_checked()
    page.get_by_role("radio", name="The Odin Project").check()
    expect(page.locator(".module")).to_have_count(62)
    expect(page.locator(".locks")).to_contain_text("Nothing is locked")
    page.get_by_role("radio", name="Both").check()
    expect(page.locator(".module")).to_have_count(94)
    expect(page.locator("course-progress").get_by_role("heading")).to_have_text(["JavaScript", "The Odin Project"])
    screenshot(page, "demo-both-courses")
    assert_axe_finds_nothing(page)
    page.get_by_role("radio", name="One course").check()
    expect(page.locator("course-progress").get_by_role("heading")).to_have_text(["JavaScript"])
    expect(page.locator(".counts")).to_have_text("0 of 38 lessons")
    page.get_by_role("radio", name="The Odin Project").check()
    expect(page.locator("course-progress")).to_contain_text("You have no access to this course.")
    expect(page.get_by_text("make stripe-event FILE=app/demo/stripe/active.json")).to_be_hidden()
    page.get_by_role("radio", name="Both").check()
    page.get_by_role("radio", name="Free").check()
    expect(page.locator(".counts")).to_have_text("0 of 48 lessons")
    assert page.locator(".module").count() < 94
    page.get_by_role("radio", name="Not enrolled").check()
    expect(page.locator("course-progress")).to_contain_text("You have no access to these lessons.")
    expect(page.get_by_text("make stripe-event FILE=app/demo/stripe/active.json")).to_be_visible()
    expect(page.locator("#call-list li").filter(has_text="/outline").first).to_contain_text("403")
    screenshot(page, "demo-not-enrolled")
    page.locator("#calls > summary").click()
    screenshot(page, "demo-drawer")
    assert_axe_finds_nothing(page)
    page.reload()
    expect(page.get_by_role("radio", name="Not enrolled")).to_be_checked()


def test_it_signs_in_as_authjs_would_and_keeps_nothing_where_a_script_could_read_it(new_context, demo):
    context = new_context()
    page = opened(context.new_page(), demo)
    [cookie] = context.cookies(demo)
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        "authjs.session-token",
        True,
        "Lax",
        "/",
    )
    assert cookie["value"].count(".") == 4
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length, location.href]") == [
        "",
        0,
        0,
        f"{demo}/",
    ]
    policy = page.evaluate("async () => (await fetch('/')).headers.get('Content-Security-Policy')")
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'sha256-")


def test_the_fifteen_lines_of_the_page_work_from_another_port(new_context, demo, elsewhere, base):
    example = block("html", "<!doctype html>", "<lesson-progress")
    assert len(example.splitlines()) == 15
    assert example.count("http://127.0.0.1:8000/") == 1
    # In this test, the demo has another port.
    (base / "site" / "index.html").write_text(example.replace("http://127.0.0.1:8000", demo))
    context: BrowserContext = new_context()
    opened(context.new_page(), demo)  # the page of the demo signs the learner in
    page = context.new_page()
    page.goto(elsewhere)
    ready(page)
    made = Calls(page)
    page.locator("lesson-progress").get_by_role("button", name="Mark as completed: Lucian's Luscious Lasagna").click()
    expect(page.locator("course-progress .counts")).to_have_text("1 of 325 lessons")
    page.get_by_role("button", name=re.compile("^Basics")).click()
    expect(page.get_by_role("checkbox", name="Lucian's Luscious Lasagna")).to_be_checked()
    screenshot(page, "fifteen-lines")
    assert_axe_finds_nothing(page)
    page.get_by_role("checkbox", name="Lucian's Luscious Lasagna").click()
    expect(page.locator("lesson-progress").get_by_role("button")).to_have_text("Mark as completed")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    made.wait(3)
    assert made[:2] == [f"POST lessons/{FIRST} 200", f"DELETE lessons/{FIRST} 200"]
    assert made[2:] == [f"GET {OUTLINE} 304"]


def test_the_ten_lines_of_a_course_work_from_another_port(new_context, demo, elsewhere, base):
    example = block("html", "<!doctype html>", "<course-progress course-id=")
    assert len(example.splitlines()) == 10
    (base / "site" / "index.html").write_text(example.replace("http://127.0.0.1:8000", demo))
    context: BrowserContext = new_context()
    opened(context.new_page(), demo)  # which signs in
    page = context.new_page()
    made = Calls(page)
    page.goto(elsewhere)
    ready(page)
    expect(page.locator(".counts")).to_have_text("0 of 38 lessons")
    page.locator(".continue button").click()
    expect(page.locator(".percent")).to_have_text("2%")
    reads = ["GET completions 200", f"GET courses/{JAVASCRIPT} 200"]
    assert sorted(made.wait(3)) == [*reads, f"POST lessons/{FIRST} 200"]
    # First the click: the notice hides after some seconds.
    page.locator(".notice:visible").get_by_role("button", name="Undo").click()
    expect(page.locator(".counts")).to_have_text("0 of 38 lessons")
    screenshot(page, "ten-lines")
    assert_axe_finds_nothing(page)
