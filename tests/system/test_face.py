"""The two components in a real Chromium, on a page of another origin with the strictest Content-Security-Policy."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

import psycopg
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.conftest import running_gunicorn
from tests.system.conftest import OUTLINE, Calls, Held, assert_axe_finds_nothing, document, screenshot
from tests.world import LEARNER, SECRET, add_lesson, add_module, add_user, complete, cookie, require, token, uuid4

LASAGNA, INFILTRATION, CIPHER, HELLO, LONG = 0x11, 0x21, 0x22, 0x31, 0x32
LONG_TITLE = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft " * 2
HOSTILE = "<img src=x onerror=alert(1)>"


class Site:
    """The server of a site, with the pages of a test. Their policy allows only what the components need."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.policy = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = site.pages.get(self.path)
                self.send_response(200 if page else 404)
                self.send_header("Content-Type", "text/javascript" if self.path.endswith(".js") else "text/html")
                self.send_header("Content-Security-Policy", site.policy)
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    thread = Thread(target=partial(site.server.serve_forever, 0.02))
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture(scope="module")
def start(environ: dict[str, str], site: Site) -> Iterator[Callable[..., str]]:
    """Yield a function that starts a service for the site and returns its URL. Equal settings share one service."""
    started: dict[tuple[tuple[str, str], ...], str] = {}
    with ExitStack() as stack:

        def start(**settings: str) -> str:
            key = tuple(settings.items())
            if key not in started:
                own = {
                    "AUTH_SECRET": SECRET,
                    "ALLOWED_ORIGINS": site.url,
                    "WEB_CONCURRENCY": "1",
                    "DATABASE_TIMEOUT": "1",
                }
                started[key] = stack.enter_context(running_gunicorn(environ | own | settings)).url
            return started[key]

        yield start


@pytest.fixture
def service(start: Callable[..., str]) -> str:
    return start()


@pytest.fixture
def world(db: psycopg.Connection) -> None:
    add_user(db)
    for number, title in ((1, "Basics"), (2, "Booleans and strings"), (3, "Practice")):
        add_module(db, number)
        db.execute("update modules set title = %s where id = %s", [title, uuid4(number)])
    add_lesson(db, 1, LASAGNA, title="Lasagna")
    add_lesson(db, 2, INFILTRATION, title="Infiltration")
    add_lesson(db, 2, CIPHER, title="Cipher")
    add_lesson(db, 3, HELLO, title="Hello World")
    add_lesson(db, 3, LONG, title=LONG_TITLE)
    require(db, INFILTRATION, LASAGNA)
    require(db, CIPHER, LASAGNA, INFILTRATION)


BOTH = f'<lesson-progress lesson-id="{uuid4(LASAGNA)}"></lesson-progress><course-progress></course-progress>'


class Shown(NamedTuple):
    """A page with the components, with the parts that a learner uses."""

    page: Page
    service: str

    @property
    def course(self) -> Locator:
        return self.page.locator("course-progress")

    @property
    def lesson(self) -> Locator:
        return self.page.locator("lesson-progress")

    @property
    def percent(self) -> Locator:
        return self.course.locator(".percent")

    @property
    def notice(self) -> Locator:
        return self.page.locator(".notice:visible p")

    def api(self, path: str) -> Any:
        return document(self.page, f"{self.service}/api/progress/{path}")

    def open(self, module: str) -> None:
        self.course.get_by_role("button", name=re.compile(f"^{module}")).click()

    def box(self, lesson: str) -> Locator:
        return self.course.get_by_role("checkbox", name=lesson)

    def bar(self, module: str) -> Locator:
        return self.course.get_by_role("progressbar", name=f"Module {module}")

    def becomes_visible(self) -> None:
        """Send the event that a tab gets when its learner comes back to it. A headless tab is always visible."""
        self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.fixture
def visit(site: Site, new_context: Callable[..., BrowserContext], service: str) -> Callable[..., Shown]:
    """Yield a function that opens a page of the site, with the session cookie or with another `session`."""

    def visit(
        body: str = BOTH,
        *,
        service: str = service,
        session: dict[str, str] | None = None,
        context: BrowserContext | None = None,
        wait: bool = True,
        **options: Any,
    ) -> Shown:
        site.policy = (
            f"default-src 'none'; script-src {service}; connect-src {service};"
            " require-trusted-types-for 'script'; trusted-types 'none'"
        )
        site.pages["/"] = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            '<meta name="color-scheme" content="light dark"><title>A course</title>'
            f'<script type="module" src="{service}/progress-ui/progress-ui.js"></script></head>'
            f"<body><main><h1>A course</h1>{body}</main></body></html>"
        )
        context = context or new_context(**options)
        name, _, value = (
            (session if session is not None else cookie())["Cookie"].partition("=") if session != {} else ("", "", "")
        )
        if name:
            context.add_cookies([{"name": name, "value": value, "url": service, "httpOnly": True, "sameSite": "Lax"}])
        page = context.new_page()
        page.goto(site.url)
        shown = Shown(page, service)
        if wait:
            expect(page.locator("[aria-busy], .loading")).to_have_count(0)
        return shown

    return visit


def test_a_learner_sees_how_far_they_are_what_is_next_and_what_is_locked_and_why(visit, world, db):
    complete(db, HELLO)
    shown = visit()
    expect(shown.percent).to_have_text("33%")
    expect(shown.course.locator(".counts")).to_have_text("1 of 3 lessons")
    expect(shown.course.locator(".continue")).to_contain_text("Continue with")
    assert shown.course.locator(".next").inner_text().strip() == LONG_TITLE.strip()
    expect(shown.course.locator(".locks")).to_contain_text("2 lessons are locked")
    expect(shown.course.locator(".locks li")).to_have_text(
        ["“Infiltration” opens after “Lasagna”", "“Cipher” opens after “Lasagna” and “Infiltration”"]
    )
    bars = shown.course.get_by_role("progressbar")
    expect(bars).to_have_count(4)
    assert [bar.get_attribute("aria-valuetext") for bar in bars.all()] == [
        "33%, 1 of 3 lessons", "0%, 0 of 1 lesson", "0%, 0 of 0 lessons", "50%, 1 of 2 lessons"
    ]  # fmt: skip
    expect(shown.course.locator(".module").nth(1).locator(".why").first).to_have_text("After “Lasagna”")
    shown.open("Booleans and strings")
    expect(shown.course.locator(".lesson .why")).to_have_text(
        ["Locked: complete “Lasagna” first", "Locked: complete “Lasagna”, “Infiltration” first"]
    )
    expect(shown.lesson).to_contain_text("Not completed yet")
    screenshot(shown.page, "components")


def test_a_tick_shows_at_once_in_both_components_and_the_answer_replaces_the_guess_without_another_call(visit, world):
    shown = visit()
    held = Held(shown.page, "/lessons/")
    made = Calls(shown.page)
    shown.lesson.get_by_role("button", name="Mark as completed: Lasagna").click()
    held.wait()
    # The write has no answer yet. The page shows its expected result.
    expect(shown.lesson.get_by_role("button")).to_have_text("Mark as not completed")
    expect(shown.percent).to_have_text("25%")
    expect(shown.bar("Basics")).to_have_attribute("aria-valuenow", "100")
    expect(shown.lesson.get_by_role("progressbar")).to_have_count(2)
    assert [bar.get_attribute("aria-valuenow") for bar in shown.lesson.get_by_role("progressbar").all()] == [
        "100",
        "25",
    ]
    expect(shown.bar("Booleans and strings")).to_have_attribute("aria-valuetext", "0%, 0 of 1 lesson")
    assert made == []
    held.let_go()
    expect(shown.lesson.get_by_role("status")).to_have_text(
        "“Lasagna” is completed. 1 lesson opened up. Basics: 100%. Overall: 25%."
    )
    assert made == [f"POST lessons/{uuid4(LASAGNA)} 200"]
    assert made.asked == [f"POST lessons/{uuid4(LASAGNA)}"]
    assert shown.api("summary") == {"percent": 25, "completedCount": 1, "totalCount": 4}


def test_the_numbers_of_the_answer_are_shown_even_where_the_guess_was_another(visit, world, db):
    shown = visit()
    complete(db, HELLO)  # elsewhere, so this page does not know it
    made = Calls(shown.page)
    shown.lesson.get_by_role("button").click()
    expect(shown.percent).to_have_text("50%")
    # The totals differ from the expected ones. Only then the page reads the rest again.
    expect(shown.bar("Practice")).to_have_attribute("aria-valuenow", "50")
    assert made.wait(2) == [f"POST lessons/{uuid4(LASAGNA)} 200", f"GET {OUTLINE} 200"]


def test_a_tick_unlocks_and_an_untick_locks_again(visit, world):
    shown = visit()
    shown.open("Basics")
    shown.open("Booleans and strings")
    made = Calls(shown.page)
    expect(shown.box("Infiltration")).to_have_attribute("aria-disabled", "true")
    shown.box("Lasagna").click()
    expect(shown.box("Infiltration")).not_to_have_attribute("aria-disabled", "true")
    shown.box("Infiltration").click()
    expect(shown.box("Cipher")).not_to_have_attribute("aria-disabled", "true")
    expect(shown.notice).to_have_text("“Infiltration” is completed. 1 lesson opened up.")
    shown.box("Lasagna").click()
    expect(shown.box("Cipher")).to_have_attribute("aria-disabled", "true")
    expect(shown.box("Infiltration")).to_be_checked()
    shown.box("Infiltration").click()
    expect(shown.box("Infiltration")).to_have_attribute("aria-disabled", "true")
    expect(shown.notice).to_have_text("“Infiltration” is not completed any more.")
    assert [call.split()[0] for call in made] == ["POST", "POST", "DELETE", "DELETE"]
    expect(shown.percent).to_have_text("0%")
    assert shown.api("outline")["overall"]["lockedCount"] == 2


def test_what_an_untick_locks_that_the_page_could_not_know_is_asked_for(visit, world, db):
    complete(db, LASAGNA)
    shown = visit()
    shown.open("Basics")
    shown.open("Booleans and strings")
    expect(shown.box("Infiltration")).not_to_have_attribute("aria-disabled", "true")
    shown.box("Lasagna").click()
    expect(shown.box("Infiltration")).to_have_attribute("aria-disabled", "true")
    expect(shown.course.locator(".lesson.locked .why").first).to_have_text("Locked: complete “Lasagna” first")


def test_what_to_continue_with_is_what_the_service_says_after_every_write(visit, world):
    shown = visit()
    titles = {
        lesson["lessonId"]: lesson["title"]
        for module in shown.api("outline")["modules"]
        for lesson in module["lessons"]
    }
    for _ in range(5):
        lesson_id = shown.api("next")["lessonId"]
        assert shown.course.locator(".next").inner_text().strip() == titles[lesson_id].strip()
        shown.course.locator(".continue").get_by_role("button").click()
        expect(shown.course.get_by_role("status")).to_contain_text(titles[lesson_id].strip())
    assert shown.api("next")["lessonId"] is None
    expect(shown.course.locator(".next")).to_have_text("You have completed everything.")
    expect(shown.percent).to_have_text("100%")
    screenshot(shown.page, "everything")


REFUSED = {
    "unauthenticated": (None, "You are not signed in any more: sign in, then try again."),
    "not_enrolled": ("delete from subscriptions", "You have no access to it."),
    "lesson_not_available": (
        f"update lessons set published = false where id = '{uuid4(HELLO)}'",
        "You have no access to it.",
    ),
    "lesson_not_found": (f"delete from lessons where id = '{uuid4(HELLO)}'", "It is not part of the course any more."),
    "lesson_locked": (
        f"insert into lesson_prerequisites values ('{uuid4(HELLO)}', '{uuid4(LASAGNA)}')",
        "It is locked: complete “Lasagna” first.",
    ),
    "internal_error": (
        "alter table progress rename to away",
        "Something went wrong, and it was not your fault: try again.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "statement", "words"), [(code, *rest) for code, rest in REFUSED.items()], ids=REFUSED)
def test_a_refused_write_is_rolled_back_and_says_why(visit, world, db, code, statement, words):
    shown = visit()
    shown.open("Practice")
    made = Calls(shown.page)
    if statement:
        db.execute(statement)
    else:
        shown.page.context.clear_cookies()
    held = Held(shown.page, "/lessons/")
    shown.box("Hello World").click()
    held.wait()
    expect(shown.box("Hello World")).to_be_checked()
    held.let_go()
    try:
        expect(shown.notice).to_have_text(f"“Hello World” was not saved. {words}")
    finally:
        if code == "internal_error":
            db.execute("alter table away rename to progress")
    expect(shown.course.get_by_role("status")).to_have_text(f"“Hello World” was not saved. {words}")
    assert made[0].split()[0] == "POST"
    expect(shown.course.get_by_role("checkbox", checked=True)).to_have_count(0)
    after = {
        "unauthenticated": "You are not signed in.",
        "not_enrolled": "You have no access to these lessons.",
        "lesson_locked": "Locked: complete “Lasagna” first",
    }
    if code in after:  # the page has read the new state from the service
        expect(shown.course).to_contain_text(after[code])
    if code == "lesson_locked":
        screenshot(shown.page, "refused")


def test_a_service_that_is_not_available_is_a_countdown(visit, world, db, database_url):
    shown = visit()
    shown.open("Practice")
    with psycopg.connect(database_url) as another:
        another.execute("select from users for update")  # the write waits for this lock until its deadline
        shown.box("Hello World").click()
        expect(shown.notice).to_have_text(
            "“Hello World” was not saved. Your progress could not be reached: try again in 2 s."
        )
    expect(shown.box("Hello World")).not_to_be_checked()
    expect(shown.notice).to_have_text("You can go on now.")
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is completed.")


def test_a_change_too_many_waits_with_those_after_it_and_they_are_one_call(visit, start, world):
    shown = visit(service=start(RATE_LIMIT_WRITES="1 per 3 seconds"))
    for module in ("Basics", "Booleans", "Practice"):
        shown.open(module)
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    made = Calls(shown.page)
    shown.box("Lasagna").click()
    waits = "“Lasagna” is waiting to be saved. There were too many changes in a short time."
    expect(shown.notice).to_have_text(waits)
    expect(shown.course.get_by_role("status")).to_have_text(waits)
    expect(shown.box("Lasagna")).to_be_checked()
    expect(shown.box("Lasagna")).to_have_accessible_description("Waiting to be saved")
    expect(shown.percent).to_have_text("33%")
    shown.box("Infiltration").click()  # nothing is sent
    screenshot(shown.page, "too-many-changes")
    assert made.asked == [f"POST lessons/{uuid4(LASAGNA)}"]
    expect(shown.notice).to_have_text("2 lessons are completed.")
    assert made == [f"POST lessons/{uuid4(LASAGNA)} 429", "POST lessons 200"]
    expect(shown.percent).to_have_text("60%")


def test_an_unmark_too_many_waits_too_and_a_second_click_takes_it_back(visit, start, world):
    shown = visit(service=start(RATE_LIMIT_WRITES="1 per 3 seconds"))
    shown.open("Practice")
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    made = Calls(shown.page)
    shown.box("Hello World").click()
    expect(shown.notice).to_contain_text("is waiting to be saved. There were too many changes in a short time.")
    expect(shown.box("Hello World")).not_to_be_checked()
    shown.box("Hello World").click()
    expect(shown.box("Hello World")).to_have_accessible_description(re.compile("Completed on"))
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is not completed any more.")
    path = f"DELETE lessons/{uuid4(HELLO)}"
    assert (made[0], made[-1]) == (f"{path} 429", f"{path} 200")


def test_offline_it_says_so_and_catches_up_when_it_is_over(visit, world, db):
    shown = visit()
    shown.open("Practice")
    shown.page.context.set_offline(True)
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is waiting to be saved. You are offline.")
    expect(shown.box("Hello World")).to_be_checked()
    expect(shown.percent).to_have_text("0%")
    complete(db, LASAGNA)
    shown.page.context.set_offline(False)
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    expect(shown.percent).to_have_text("50%")


def test_a_write_whose_answer_is_lost_is_sent_again(visit, world):
    shown = visit()
    shown.open("Practice")
    # The write reaches the service, but its answer is lost.
    shown.page.route(re.compile("/lessons/"), lambda route: (route.fetch(), route.abort()), times=1)
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is waiting to be saved. Your progress cannot be reached.")
    expect(shown.percent).to_have_text("0%")
    shown.becomes_visible()
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    expect(shown.percent).to_have_text("33%")


def test_double_clicks_and_a_key_held_down_are_one_change(visit, world):
    shown = visit()
    shown.open("Practice")
    made = Calls(shown.page)
    shown.box("Hello World").dblclick()
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    shown.lesson.get_by_role("button").dblclick()
    expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is completed.")
    shown.box("Hello World").focus()
    for _ in range(3):
        shown.page.keyboard.down("Enter")  # without a release in between, as when the key is held down
    shown.page.keyboard.up("Enter")
    expect(shown.notice).to_have_text("“Hello World” is not completed any more.")
    assert [call.split()[0] for call in made] == ["POST", "POST", "DELETE"]
    expect(shown.percent).to_have_text("25%")


def test_writes_of_a_lesson_never_overtake_each_other_and_the_last_wish_wins(visit, world):
    shown = visit()
    shown.open("Practice")
    held = Held(shown.page, "/lessons/")
    box = shown.box("Hello World")
    box.click()
    held.wait()
    for wished in (False, True, False):
        box.press("Space")
        expect(box).to_be_checked(checked=wished)
    shown.lesson.get_by_role("button").click()
    assert held.methods == ["POST"]  # only one write is sent at a time, whatever was clicked since
    held.let_go()
    held.wait()
    expect(box).not_to_be_checked()
    assert held.methods == ["POST", "DELETE"]
    held.let_go()
    held.let_go()
    expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is completed.")
    assert held.methods == ["POST", "DELETE", "POST"]
    assert [lesson["lessonId"] for lesson in shown.api("lessons")["lessons"]] == [uuid4(LASAGNA)]


def test_another_tab_catches_up_when_it_becomes_visible(visit, world):
    one = visit()
    two = visit(context=one.page.context)
    made = Calls(two.page)
    two.becomes_visible()
    assert made.wait(1) == [f"GET {OUTLINE} 304"]
    one.lesson.get_by_role("button").click()
    expect(one.lesson.get_by_role("status")).to_contain_text("is completed")
    expect(two.percent).to_have_text("0%")
    two.becomes_visible()
    expect(two.percent).to_have_text("25%")
    expect(two.lesson.get_by_role("button")).to_have_text("Mark as not completed")
    assert made == [f"GET {OUTLINE} 304", f"GET {OUTLINE} 200"]
    # Tab one has marked a lesson, and now tab two unmarks it. Tab one then gets the answers from before both writes
    # (304), and must show that state again.
    two.lesson.get_by_role("button").click()
    # "0%" is shown before it is stored.
    expect(two.lesson.get_by_role("status")).to_contain_text("is not completed any more")
    expect(two.percent).to_have_text("0%")
    one.becomes_visible()
    expect(one.percent).to_have_text("0%")


def test_a_tab_that_asks_while_it_writes_shows_what_is_newer(visit, world):
    shown = visit()
    outline = Held(shown.page, r"/outline\?")
    made = Calls(shown.page)
    shown.becomes_visible()
    outline.wait()
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.get_by_role("status")).to_contain_text("is completed")
    outline.let_go()  # this read was sent before the write
    outline.let_go()  # so the page reads once more
    made.wait(3)  # the write, and twice the outline
    expect(shown.percent).to_have_text("25%")
    assert outline.methods == ["GET", "GET"]


def test_the_keyboard_is_enough(visit, world):
    shown = visit()
    page = shown.page

    def focused() -> str:
        name = page.evaluate(
            "() => { let e = document.activeElement;"
            " while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;"
            " return e.ariaLabel ?? e.textContent }"
        )
        assert isinstance(name, str)
        return name

    page.keyboard.press("Tab")
    assert focused() == "Mark as completed: Lasagna"
    page.keyboard.press("Enter")
    expect(shown.percent).to_have_text("25%")
    page.keyboard.press("Tab")
    assert focused() == "Mark as completed: Infiltration"
    page.keyboard.press("Space")
    expect(shown.percent).to_have_text("40%")
    expect(shown.notice).to_be_visible()
    assert focused() == "Mark as completed: Cipher"  # the focus stays on the same button
    # The modules come next. The notice is last in the page, so it comes last.
    for module in ("Basics", "Booleans and strings", "Practice"):
        page.keyboard.press("Tab")
        assert focused().startswith(module)
    page.keyboard.press("Tab")
    assert focused() == "Undo"
    page.keyboard.press("Escape")
    expect(shown.notice).to_have_count(0)
    assert focused() == "Mark as completed: Cipher"  # the focus is back on the button that caused the notice
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(shown.box("Hello World")).to_be_checked()
    expect(shown.box("Hello World")).to_be_focused()
    expect(shown.notice).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused() == "Undo"
    page.keyboard.press("Enter")
    expect(shown.box("Hello World")).not_to_be_checked()
    expect(shown.box("Hello World")).to_be_focused()


def test_a_change_of_a_lesson_that_is_gone_meanwhile_cannot_be_undone_and_does_no_harm(visit, world, db):
    shown = visit()
    shown.open("Practice")
    shown.box("Hello World").click()
    expect(shown.notice).to_be_visible()
    db.execute("update lessons set published = false where id = %s", [uuid4(HELLO)])
    shown.becomes_visible()
    expect(shown.box("Hello World")).to_have_count(0)
    made = Calls(shown.page)
    shown.course.locator(".notice").get_by_role("button", name="Undo").click()
    expect(shown.notice).to_have_count(0)
    assert made.asked == []


def test_what_a_locked_lesson_needs_is_one_press_away(visit, world):
    shown = visit()
    shown.open("Booleans and strings")
    shown.box("Cipher").click(force=True)
    expect(shown.notice).to_have_text(
        "“Cipher” was not saved. It is locked: complete “Lasagna” and “Infiltration” first."
    )
    shown.course.get_by_role("button", name="Show “Lasagna”").first.click()
    expect(shown.box("Lasagna")).to_be_focused()
    expect(shown.box("Lasagna")).to_be_in_viewport()


def test_a_prerequisite_that_is_not_the_learners_has_words_too(visit, world, db):
    db.execute("delete from subscriptions")
    db.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    db.execute("update lessons set is_free = id = %s", [uuid4(INFILTRATION)])
    shown = visit()
    expect(shown.course.locator(".locks li")).to_have_text(
        "“Infiltration” opens after a lesson that you have no access to"
    )
    expect(shown.course.locator(".next")).to_have_text("Nothing more is open to you.")
    expect(shown.lesson).to_contain_text("This lesson is not among those that are open to you.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state(visit, world, db, scheme):
    shown = visit(color_scheme=scheme)
    assert_axe_finds_nothing(shown.page)
    shown.open("Practice")
    shown.open("Booleans and strings")
    shown.box("Hello World").click()
    expect(shown.notice).to_be_visible()
    assert_axe_finds_nothing(shown.page)
    shown.box("Cipher").click(force=True)
    expect(shown.notice).to_contain_text("was not saved")
    assert_axe_finds_nothing(shown.page)
    screenshot(shown.page, f"checklist-{scheme}")
    db.execute("delete from subscriptions")
    shown.becomes_visible()
    expect(shown.course).to_contain_text("You have no access to these lessons.")
    assert_axe_finds_nothing(shown.page)
    held = Held(shown.page, r"/outline\?")
    shown.page.reload()
    held.wait()
    expect(shown.course.locator(".loading")).to_be_visible()
    assert_axe_finds_nothing(shown.page)


WIDTHS = {
    "narrow": (320, 1, "100%"),
    "zoomed to 200 %": (640, 2, "100%"),
    "with letters twice as large": (640, 1, "200%"),
}


@pytest.mark.parametrize(("width", "scale", "letters"), WIDTHS.values(), ids=WIDTHS)
def test_nothing_is_cut_off_or_scrolls_sideways(visit, world, db, width, scale, letters):
    db.execute("update modules set title = %s where id = %s", [LONG_TITLE, uuid4(3)])
    db.execute("update lessons set title = %s where id = %s", [LONG_TITLE, uuid4(LASAGNA)])
    shown = visit(viewport={"width": width, "height": 640}, device_scale_factor=scale, color_scheme="dark")
    shown.page.evaluate("size => document.documentElement.style.fontSize = size", letters)
    shown.open("Donau")
    shown.open("Booleans and strings")
    shown.box("Cipher").click(force=True)
    expect(shown.notice).to_contain_text("was not saved")
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        "width => ['course-progress', 'lesson-progress'].flatMap((name) =>"
        " [...document.querySelector(name).shadowRoot.querySelectorAll('*:not(.unseen)')])"
        ".filter((node) => node.getBoundingClientRect().right > width + 0.5).map((node) => node.outerHTML)",
        width,
    )
    # No element is wider than the page: a text that is too long for its line ends in an ellipsis.
    assert beyond == []
    screenshot(page, f"{width}-{letters.rstrip('%')}")


def test_who_wants_less_motion_gets_none(visit, world):
    moving = "node => getComputedStyle(node).transitionDuration"
    for wish, duration in (("reduce", "0s"), ("no-preference", "0.35s")):
        shown = visit(reduced_motion=wish)
        assert shown.course.locator(".module .bar i").first.evaluate(moving) == duration


def test_nothing_moves_while_it_loads(visit, world):
    listed = " ".join(uuid4(number) for number in (1, 2, 3))
    shown = visit(
        body=BOTH.replace("<course-progress>", f'<course-progress modules="{listed}">') + "<p>after</p>", wait=False
    )
    page = shown.page
    page.add_init_script(
        "window.shifts = []; new PerformanceObserver((list) => shifts.push(...list.getEntries().map((e) => e.value)))"
        ".observe({ type: 'layout-shift', buffered: true })"
    )
    held = Held(page, r"/outline\?")
    page.reload()
    held.wait()
    expect(shown.course.locator(".loading")).to_be_visible()
    places = (
        "() => [...document.querySelectorAll('lesson-progress, course-progress, p'),"
        " ...document.querySelector('course-progress').shadowRoot.querySelectorAll('.card')]"
        ".map((node) => node.getBoundingClientRect().toJSON())"
    )
    # Measure from here on. The size of the elements before they are defined depends on the page's own style sheet.
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.evaluate("shifts.length = 0")
    before = page.evaluate(places)
    held.let_go()
    expect(shown.course.locator(".loading")).to_have_count(0)
    assert page.evaluate(places) == before
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert sum(page.evaluate("shifts")) == 0
    # Check the measurement itself: it notices this shift.
    page.evaluate("() => document.querySelector('h1').style.paddingBottom = '200px'")
    page.evaluate(
        "() => new Promise((done) => { const look = () =>"
        " shifts.some((shift) => shift > 0.01) ? done() : requestAnimationFrame(look); look() })"
    )


def test_titles_are_text_and_a_policy_that_is_broken_would_be_noticed(visit, world, db, new_context):
    db.execute("update lessons set title = %s", [HOSTILE])
    db.execute("update modules set title = %s", [HOSTILE])
    shown = visit()
    expect(shown.course.locator(".next")).to_have_text(HOSTILE)
    shown.course.locator(".open").first.click()
    expect(shown.course.locator(".lesson .name").first).to_have_text(HOSTILE)
    assert shown.page.locator("img").count() == 0
    said: list[str] = []
    shown.page.on("console", lambda message: said.append(message.text))
    other = shown.page.context.browser
    assert other
    with other.new_context() as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.goto(shown.page.url)
        page.evaluate("document.body.append(document.createElement('style'))")
        page.evaluate("document.body.lastChild.textContent = 'p { color: red }'")
        page.evaluate("() => { try { document.body.innerHTML = 'x' } catch (error) { console.error(String(error)) } }")
        assert any("TrustedHTML" in text for text in said)


def test_every_word_can_be_replaced(visit, world, db):
    complete(db, HELLO)
    shown = visit(body=BOTH.replace("<course-progress>", '<course-progress lang="de">'))
    shown.page.evaluate(
        "() => document.querySelector('course-progress').labels = {"
        " continueWith: 'Weiter mit', mark: 'Erledigt', quoted: '„{title}“',"
        " lockedCount: { one: '{count} Lektion ist gesperrt', other: '{count} Lektionen sind gesperrt' },"
        " after: '{lesson} nach {prerequisites}', marked: '{lesson} ist erledigt.',"
        " why: { unauthenticated: 'Bitte neu anmelden.' }, notSaved: '{lesson}: nicht gespeichert. {reason}' }"
    )
    expect(shown.percent).to_have_text("33\u00a0%")
    expect(shown.course.locator(".continue")).to_contain_text("Weiter mit")
    expect(shown.course.locator(".locks li").last).to_have_text("„Cipher“ nach „Lasagna“ und „Infiltration“")
    expect(shown.course.locator(".locks")).to_contain_text("2 Lektionen sind gesperrt")
    shown.page.context.clear_cookies()
    shown.course.get_by_role("button", name="Erledigt").click()
    expect(shown.notice).to_contain_text("nicht gespeichert. Bitte neu anmelden.")
    expect(shown.lesson).to_contain_text("You are not signed in.")  # the other component has its own labels


def test_a_token_is_a_property_and_nowhere_else(visit, site, world):
    secret = token()
    shown = visit(session={})
    expect(shown.course).to_contain_text("You are not signed in.")
    sent: list[dict[str, str]] = []
    shown.page.on("request", lambda request: sent.append({"url": request.url} | request.headers))
    shown.page.evaluate("token => document.querySelector('lesson-progress').token = async () => token", secret)
    expect(shown.percent).to_have_text("0%")  # components that use one API have one session
    shown.lesson.get_by_role("button").click()
    expect(shown.percent).to_have_text("25%")
    asked = [request for request in sent if "/api/progress/" in request["url"]]
    assert {request.get("authorization") for request in asked} == {f"Bearer {secret}"}
    assert not any("cookie" in request for request in asked)
    everywhere = shown.page.evaluate(
        "() => [document.documentElement.outerHTML, location.href, document.cookie,"
        " JSON.stringify(localStorage), JSON.stringify(sessionStorage),"
        " ...[...document.querySelectorAll('course-progress, lesson-progress')]"
        ".flatMap((e) => [e.shadowRoot.innerHTML, e.outerHTML, String(e.token)])].join()"
    )
    assert "Mark as" in everywhere
    assert secret not in everywhere
    assert not any(secret in request["url"] for request in sent)
    assert shown.page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


def test_a_property_that_was_set_before_the_elements_were_known_holds(visit, new_context, world):
    context = new_context()
    # A page's own script may run before the component's module. Module scripts run when the page is `interactive`, and
    # this script runs before that.
    context.add_init_script(
        f"""document.addEventListener("readystatechange", () => {{
          if (document.readyState !== "interactive") return;
          window.known = customElements.get("course-progress");
          const early = document.querySelector("course-progress");
          Object.assign(early, {{ token: "{token()}", labels: {{ mark: "Done!" }} }});
        }})"""
    )
    shown = visit(body="<course-progress></course-progress>", session={}, context=context)
    assert shown.page.evaluate("window.known === undefined")
    expect(shown.percent).to_have_text("0%")
    expect(shown.course.locator(".continue").get_by_role("button")).to_have_text("Done!")


def test_signed_out_and_without_access_the_sites_own_words_are_shown(visit, world, db):
    words = '<a slot="signed-out" href="/sign-in">Sign in</a><a slot="no-access" href="/buy">Buy it</a>'
    body = f"<course-progress>{words}</course-progress>"
    out = visit(body=body, session={})
    expect(out.page.get_by_role("link", name="Sign in")).to_be_visible()
    expect(out.page.get_by_role("link", name="Buy it")).to_be_hidden()
    db.execute("delete from subscriptions")
    none = visit(body=body)
    expect(none.page.get_by_role("link", name="Buy it")).to_be_visible()
    expect(none.page.get_by_role("link", name="Sign in")).to_be_hidden()


def test_a_service_that_is_away_at_first_can_be_asked_again(visit, world):
    shown = visit(body="")
    shown.page.route(re.compile(r"/outline\?"), lambda route: route.abort(), times=1)
    shown.page.evaluate("() => document.querySelector('main').append(document.createElement('course-progress'))")
    expect(shown.course).to_contain_text("Your progress cannot be reached.")
    shown.course.get_by_role("button", name="Try again").click()
    expect(shown.percent).to_have_text("0%")


def test_it_is_styled_by_properties_and_parts(visit, site, world):
    shown = visit()
    site.policy = site.policy.replace("default-src 'none'", "default-src 'none'; style-src 'unsafe-inline'")
    site.pages["/"] = site.pages["/"].replace(
        "</head>",
        "<style>course-progress { --progress-accent: rgb(1, 2, 3) }"
        " course-progress::part(percent) { color: rgb(4, 5, 6) }"
        " lesson-progress::part(button) { background: rgb(7, 8, 9) }</style></head>",
    )
    shown.page.reload()
    color = "node => getComputedStyle(node)"
    expect(shown.percent).to_have_css("color", "rgb(4, 5, 6)")
    expect(shown.lesson.get_by_role("button")).to_have_css("background-color", "rgb(7, 8, 9)")
    expect(shown.course.locator(".continue").get_by_role("button")).to_have_css("background-color", "rgb(1, 2, 3)")
    assert shown.course.locator(".bar i").first.evaluate(f"{color}.backgroundColor") == "rgb(1, 2, 3)"


def test_titles_become_links_where_the_page_says_where_lessons_are(visit, world):
    shown = visit(body='<course-progress lesson-href="/learn/{lessonId}" modules="' + uuid4(3) + '"></course-progress>')
    link = shown.course.get_by_role("link", name="Lasagna")
    assert link.evaluate("node => new URL(node.href).pathname") == f"/learn/{uuid4(LASAGNA)}"
    expect(shown.course.locator(".module")).to_have_count(1)
    expect(shown.course.locator(".modules-head")).to_contain_text("0% · 0 of 2 lessons")
    shown.page.evaluate(
        "() => document.querySelector('course-progress').setAttribute('lesson-href', 'javascript:alert(1)')"
    )
    expect(shown.course.get_by_role("link")).to_have_count(0)


@pytest.mark.parametrize("modules", [9, 50])
@pytest.mark.parametrize("width", [320, 1000])
def test_a_module_that_is_opened_stays_where_it_was_clicked(visit, world, db, width, modules):
    for number in range(4, modules + 1):
        add_module(db, number, 0x100 * number, 0x100 * number + 1)
    shown = visit(viewport={"width": width, "height": 700})
    names = shown.course.locator(".module > .open")

    def places() -> Any:
        return names.evaluate_all(
            "(nodes) => nodes.map((node) => node.parentElement.getBoundingClientRect())"
            ".map(({ x, y, width, height }) => [x, y + scrollY, width, height])"
        )

    lessons = shown.course.locator(".lessons:visible")
    for opened, at in enumerate((1, 4, 3, 8), 1):
        before = places()
        names.nth(at).click()
        expect(lessons).to_have_count(opened)
        expect(names.nth(at)).to_have_attribute("aria-expanded", "true")
        after = places()
        assert after[at] == before[at]
        # Nothing beside or above the row moves.
        row = before[at][1]
        assert [place for place in after if place[1] <= row] == [place for place in before if place[1] <= row]
        # The lessons of the module are below its row, and as wide as the whole component.
        panel = shown.course.locator(f"#{names.nth(at).get_attribute('aria-controls')}").bounding_box()
        assert panel
        assert panel["y"] + shown.page.evaluate("scrollY") >= row + before[at][3]
        assert panel["width"] > 0.9 * min(width, 960) - 40
        # A click at the same place closes it again.
        names.nth(at).click()
        expect(lessons).to_have_count(opened - 1)
        assert places() == before
        names.nth(at).click()
    screenshot(shown.page, f"opened-{width}-{modules}")
