"""Changes that wait: offline, above the write limit, behind another write, and kept in localStorage over a reload."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from psycopg.rows import dict_row

from app.tasks import catalog
from tests.conftest import ROOT
from tests.pages import block
from tests.system.conftest import OUTLINE, Calls, Held, assert_axe_finds_nothing, screenshot

# Fixtures are found by their names.
from tests.system.test_face import (  # noqa: F401
    BOTH,
    CIPHER,
    HELLO,
    INFILTRATION,
    LASAGNA,
    LONG,
    LONG_TITLE,
    Shown,
    Site,
    service,
    site,
    start,
    visit,
    world,
)
from tests.system.test_face_learners import FAILING, OTHER, is_the_other_learners, sign_in, two_learners
from tests.system.test_face_site import heard, listen, use_store
from tests.world import LEARNER, add_lesson, add_module, add_user, complete, completions, require, uuid4

__all__ = ["two_learners"]  # a fixture

WAITING = "Waiting to be saved"
KEEPING = re.sub(r"(<\w+-progress)", r"\1 keep-offline", BOTH)
MARK = f"POST lessons/{uuid4(LASAGNA)}"


def offline(shown: Shown, is_offline: bool = True) -> None:
    shown.page.context.set_offline(is_offline)


def storage(page: Page) -> dict[str, Any]:
    """Return what is in localStorage, by key."""
    found: dict[str, str] = page.evaluate("() => ({ ...localStorage })")
    return {key: json.loads(value) for key, value in found.items()}


def times(db: psycopg.Connection) -> dict[str, datetime]:
    return {str(lesson): at for lesson, at in db.execute("select lesson_id, completed_at from progress").fetchall()}


def marked(db: psycopg.Connection) -> set[str]:
    return set(times(db))


def is_waiting(shown: Shown, count: int = 1) -> None:
    """Wait until the page knows that this many changes cannot be sent now. A change that is on its way waits too."""
    words = "1 change waits" if count == 1 else f"{count} changes wait"
    expect(shown.course.locator(".locked-count")).to_have_text(f"{words} to be saved")


def clicked(shown: Shown, *lessons: str) -> None:
    for lesson in lessons:
        shown.box(lesson).click()


def test_twelve_lessons_that_are_ticked_offline_are_one_call(visit, db, database_url):  # noqa: F811
    """In the JavaScript curriculum, each of them is locked until earlier ones are completed."""
    with psycopg.connect(database_url, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as connection:
        file = catalog.read_file(ROOT / "app" / "demo" / "catalogs" / "exercism-javascript.json")
        catalog.load(connection, file, dry_run=False)
    add_user(db)
    shown = visit(body="<course-progress></course-progress>")
    before = shown.course.locator(".counts").inner_text()
    offline(shown)
    titles = []
    for number in range(1, 13):
        titles.append(shown.course.locator(".next").inner_text())
        shown.course.locator(".continue").get_by_role("button").click()
        is_waiting(shown, number)
    assert len(set(titles)) == 12
    expect(shown.course.locator(".counts")).to_have_text(before)  # nothing is stored, so the numbers are the same
    screenshot(shown.page, "offline")
    made = Calls(shown.page)
    with shown.page.expect_response(lambda answer: answer.request.method == "POST") as posted:
        offline(shown, False)
    document = posted.value.json()
    expect(shown.notice).to_have_text("12 lessons are completed.")
    assert made.wait(2) == ["POST lessons 200", f"GET {OUTLINE} 200"]
    assert [result["completed"] for result in document["results"]] == [True] * 12
    assert document["overall"] == shown.api("summary")
    modules = {module["moduleId"]: module for module in shown.api("modules")["modules"]}
    assert document["modules"] == [modules[module["moduleId"]] for module in document["modules"]]
    assert len(times(db)) == 12
    counts = shown.api("summary")
    expected = f"{counts['completedCount']} of {counts['totalCount']} lessons"
    expect(shown.course.locator(".counts")).to_have_text(expected)


def test_a_tick_that_waits_is_seen_to_wait_and_is_not_counted(visit, world):  # noqa: F811
    shown = visit()
    shown.open("Basics")
    offline(shown)
    shown.lesson.get_by_role("button", name="Mark as completed").click()
    told = "“Lasagna” is waiting to be saved. You are offline."
    expect(shown.notice).to_have_text(told)
    expect(shown.lesson.get_by_role("status")).to_have_text(told)
    # The learner sees what they chose, and can take it back.
    button = shown.lesson.get_by_role("button", name="Mark as not completed: Lasagna")
    expect(button).to_have_accessible_description(WAITING)
    expect(shown.lesson.locator("[part=state]")).to_have_text(WAITING)
    expect(shown.box("Lasagna")).to_be_checked()
    expect(shown.box("Lasagna")).to_have_accessible_description(WAITING)
    expect(shown.course.locator(".lesson").first).to_have_attribute("part", "lesson waiting")
    expect(shown.percent).to_have_text("0%")
    expect(shown.bar("Basics")).to_have_attribute("aria-valuetext", "0%, 0 of 1 lesson")
    for element in (shown.course, shown.lesson):
        assert "Completed on" not in str(element.evaluate("({ shadowRoot }) => shadowRoot.textContent"))
    # What the tick unlocks can be ticked too.
    expect(shown.course.locator(".next")).to_have_text("Infiltration")
    assert_axe_finds_nothing(shown.page)
    screenshot(shown.page, "waiting")
    button.click()
    expect(shown.lesson.locator("[part=state]")).to_have_text("Not completed yet")
    expect(shown.course.locator(".next")).to_have_text("Lasagna")
    made = Calls(shown.page)
    offline(shown, False)
    made.wait(1)
    assert made == [f"GET {OUTLINE} 304"]  # nothing is left to send


def test_with_count_all_a_tick_that_waits_is_not_counted_either(visit, world):  # noqa: F811
    shown = visit(body=re.sub(r"(<\w+-progress)", r'\1 count="all"', BOTH))
    offline(shown)
    shown.lesson.get_by_role("button").click()
    is_waiting(shown)
    expect(shown.course.locator(".counts")).to_have_text("0 of 5 lessons")


def test_not_everything_is_completed_while_the_last_lesson_waits(visit, world, db):  # noqa: F811
    complete(db, LASAGNA, INFILTRATION, HELLO, LONG)
    shown = visit()
    offline(shown)
    shown.course.locator(".continue").get_by_role("button").click()
    is_waiting(shown)
    expect(shown.course.locator(".next")).to_have_text(WAITING)
    expect(shown.percent).to_have_text("80%")
    held = Held(shown.page, "/lessons/")
    offline(shown, False)
    held.wait()
    expect(shown.course.locator(".next")).to_have_text(WAITING)
    held.let_go()
    expect(shown.course.locator(".next")).to_have_text("You have completed everything.")


def test_a_lesson_is_not_called_completed_before_it_is_stored(visit, world):  # noqa: F811
    shown = visit()
    held = Held(shown.page, "/lessons/", answered=True)
    shown.lesson.get_by_role("button").click()
    held.wait()
    expect(shown.lesson.locator("[part=state]")).to_have_text(WAITING)
    expect(shown.lesson.get_by_role("button")).to_have_accessible_description(WAITING)
    held.let_go()
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")


def test_what_is_ticked_behind_another_write_is_one_call(visit, world):  # noqa: F811
    shown = visit()
    for module in ("Basics", "Booleans", "Practice"):
        shown.open(module)
    listen(shown.page, "progress-change")
    held = Held(shown.page, "/lessons/")
    made = Calls(shown.page)
    shown.box("Hello World").click()
    held.wait()
    clicked(shown, "Lasagna", "Infiltration", "Cipher")
    expect(shown.percent).to_have_text("80%")
    with shown.page.expect_response(re.compile("/lessons$")) as posted:
        held.let_go()
    expect(shown.notice).to_have_text("3 lessons are completed.")
    # The page needs no further call to show the numbers.
    assert made == [f"POST lessons/{uuid4(HELLO)} 200", "POST lessons 200"]
    assert made.asked == [f"POST lessons/{uuid4(HELLO)}", "POST lessons"]
    expect(shown.percent).to_have_text("80%")
    # Each lesson is an event, with what the answer to its own mark would be.
    document = posted.value.json()
    counts = {module["moduleId"]: module for module in document["modules"]}
    # What the call has completed is in the last one.
    completed: tuple[dict[str, Any], ...] = ({}, {}, {"completions": document["completions"]})
    assert [event["detail"] for event in heard(shown.page)[1:]] == [
        result | {"module": counts[uuid4(module)], "overall": document["overall"]} | more
        for result, module, more in zip(document["results"], (1, 2, 2), completed, strict=True)
    ]
    # They were not made offline, so the service's own clock says when.
    assert json.loads(posted.value.request.post_data) == {
        "lessons": [{"lessonId": uuid4(number)} for number in (LASAGNA, INFILTRATION, CIPHER)]
    }


def test_what_is_refused_for_one_lesson_does_not_undo_the_others(visit, world, db):  # noqa: F811
    shown = visit()
    for module in ("Basics", "Booleans", "Practice"):
        shown.open(module)
    listen(shown.page, "progress-change")
    offline(shown)
    clicked(shown, "Lasagna", "Hello World", "Infiltration")
    is_waiting(shown, 3)
    db.execute("update lessons set published = false where id = %s", [uuid4(HELLO)])
    made = Calls(shown.page)
    offline(shown, False)
    expect(shown.course.get_by_role("status")).not_to_have_text("")
    assert made.wait(2) == ["POST lessons 200", f"GET {OUTLINE} 200"]
    assert [event["detail"]["lessonId"] for event in heard(shown.page)] == [uuid4(LASAGNA), uuid4(INFILTRATION)]
    expect(shown.box("Hello World")).to_have_count(0)
    expect(shown.box("Lasagna")).to_be_checked()
    expect(shown.percent).to_have_text("50%")
    assert marked(db) == {uuid4(LASAGNA), uuid4(INFILTRATION)}


def test_the_refusal_of_one_of_many_lessons_says_why(visit, world, db):  # noqa: F811
    shown = visit()
    shown.open("Practice")
    offline(shown)
    clicked(shown, "Hello World", "Donau")
    is_waiting(shown, 2)
    require(db, LONG, CIPHER)
    offline(shown, False)
    expect(shown.course.get_by_role("status")).to_contain_text("It is locked: complete “Cipher” first.")
    expect(shown.box("Hello World")).to_be_checked()
    expect(shown.box("Donau")).not_to_be_checked()


def test_marks_and_unmarks_keep_their_order(visit, world, db):  # noqa: F811
    complete(db, INFILTRATION)
    shown = visit()
    for module in ("Basics", "Booleans", "Practice"):
        shown.open(module)
    made = Calls(shown.page)
    offline(shown)
    clicked(shown, "Lasagna", "Cipher", "Infiltration", "Hello World", "Donau")  # the third one is an unmark
    shown.box("Donau").click()
    shown.box("Donau").click()  # the last wish of a lesson counts
    is_waiting(shown, 5)
    offline(shown, False)
    writes = ["POST lessons 200", f"DELETE lessons/{uuid4(INFILTRATION)} 200", "POST lessons 200"]
    assert made.wait(4) == [*writes, f"GET {OUTLINE} 200"]
    assert marked(db) == {uuid4(number) for number in (LASAGNA, CIPHER, HELLO, LONG)}


def test_a_change_that_is_taken_back_goes_behind_the_changes_made_meanwhile(visit, world, db):  # noqa: F811
    """Infiltration needs Lasagna. It was ticked while Lasagna was completed, so it is stored before Lasagna is not."""
    shown = visit()
    for module in ("Basics", "Booleans"):
        shown.open(module)
    held = Held(shown.page, f"/lessons/{uuid4(LASAGNA)}$")
    made = Calls(shown.page)
    shown.box("Lasagna").click()
    held.wait()
    clicked(shown, "Infiltration", "Lasagna")
    held.let_pass()
    held.let_go()
    expect(shown.course.get_by_role("status")).to_contain_text("is not completed any more")
    assert made[:3] == [
        f"{MARK} 200",
        f"POST lessons/{uuid4(INFILTRATION)} 200",
        f"DELETE lessons/{uuid4(LASAGNA)} 200",
    ]
    assert marked(db) == {uuid4(INFILTRATION)}


def test_one_tick_that_waits_is_a_mark_with_the_time_of_the_tick(visit, world, db):  # noqa: F811
    shown = visit()
    shown.page.clock.install()
    yesterday = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    shown.page.clock.set_system_time(yesterday)
    offline(shown)
    shown.lesson.get_by_role("button").click()
    is_waiting(shown)
    shown.page.clock.set_system_time(datetime.now(UTC))
    made = Calls(shown.page)
    offline(shown, False)
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")
    assert made[0] == f"{MARK} 200"
    assert abs(times(db)[uuid4(LASAGNA)] - yesterday) < timedelta(minutes=1)


@pytest.mark.parametrize("lessons", [("Lasagna",), ("Lasagna", "Hello World")], ids=["one", "two"])
def test_a_tick_of_a_device_whose_clock_is_ahead_is_not_lost(visit, world, db, lessons):  # noqa: F811
    shown = visit()
    for module in ("Basics", "Practice"):
        shown.open(module)
    shown.page.clock.install()
    shown.page.clock.set_system_time(datetime.now(UTC) + timedelta(days=2))
    offline(shown)
    clicked(shown, *lessons)
    is_waiting(shown, len(lessons))
    made = Calls(shown.page)
    offline(shown, False)
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")
    path = "lessons" if len(lessons) > 1 else f"lessons/{uuid4(LASAGNA)}"
    assert made[:2] == [f"POST {path} 400", f"POST {path} 200"]
    assert len(times(db)) == len(lessons)
    assert all(abs(at - datetime.now(UTC)) < timedelta(minutes=1) for at in times(db).values())


def test_more_than_500_marks_are_several_calls(visit, world, db):  # noqa: F811
    add_module(db, 4)
    for number in range(0x1000, 0x1000 + 501):
        add_lesson(db, 4, number)
    shown = visit()
    use_store(shown)
    offline(shown)
    shown.page.evaluate(
        "(ids) => { window.settled = Promise.all(ids.map((id) => store.want(id, true))) }",
        [uuid4(number) for number in range(0x1000, 0x1000 + 501)],
    )
    shown.page.wait_for_function("() => store.view.waiting?.count === 501")
    made = Calls(shown.page)
    offline(shown, False)
    outcomes = shown.page.evaluate(
        "async () => (await settled).map(({ answer, together }) => [answer.completed, together])"
    )
    assert outcomes == [[True, 500]] * 500 + [[True, 1]]
    assert made[:2] == ["POST lessons 200", f"POST lessons/{uuid4(0x1000 + 500)} 200"]
    assert len(times(db)) == 501


def test_what_waits_behind_a_change_too_many_waits_and_is_one_call(visit, start, world):  # noqa: F811
    shown = visit(service=start(RATE_LIMIT_WRITES="1 per 3 seconds"))
    for module in ("Basics", "Booleans", "Practice"):
        shown.open(module)
    shown.box("Hello World").click()
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    held = Held(shown.page, f"/lessons/{uuid4(LASAGNA)}$", answered=True)
    made = Calls(shown.page)
    shown.box("Lasagna").click()
    held.wait()
    shown.box("Infiltration").click()
    held.let_go()
    expect(shown.notice).to_contain_text("is waiting to be saved. There were too many changes in a short time.")
    expect(shown.box("Lasagna")).to_be_checked()
    expect(shown.percent).to_have_text("33%")  # the numbers of what is stored
    shown.box("Cipher").click()  # this one waits with the others
    is_waiting(shown, 3)
    expect(shown.notice).to_have_text("3 lessons are completed.")
    assert made == [f"{MARK} 429", "POST lessons 200"]
    expect(shown.percent).to_have_text("80%")


def test_what_was_made_offline_waits_also_for_a_service_that_is_not_available(visit, world, db):  # noqa: F811
    shown = visit()
    shown.open("Practice")
    shown.page.clock.install()
    offline(shown)
    clicked(shown, "Hello World", "Donau")
    is_waiting(shown, 2)
    made = Calls(shown.page)
    shown.page.route(re.compile("/lessons$"), FAILING["503"], times=1)
    offline(shown, False)
    made.wait(1)
    expect(shown.box("Hello World")).to_be_checked()
    expect(shown.box("Hello World")).to_have_accessible_description(WAITING)
    shown.page.clock.fast_forward(2000)  # Retry-After
    expect(shown.notice).to_have_text("2 lessons are completed.")
    assert made[:2] == ["POST lessons 503", "POST lessons 200"]


def test_what_was_just_ticked_is_taken_back_if_the_service_is_not_available(visit, world, db):  # noqa: F811
    """The learner is there, and can try again."""
    shown = visit()
    for module in ("Basics", "Booleans", "Practice"):
        shown.open(module)
    held = Held(shown.page, f"/lessons/{uuid4(HELLO)}$")
    shown.page.route(re.compile("/lessons$"), FAILING["503"], times=1)
    shown.box("Hello World").click()
    held.wait()
    clicked(shown, "Lasagna", "Infiltration")
    held.let_go()
    expect(shown.notice).to_contain_text("was not saved. Your progress could not be reached: try again in 2 s.")
    expect(shown.course.get_by_role("checkbox", checked=True)).to_have_count(1)
    expect(shown.percent).to_have_text("33%")
    assert marked(db) == {uuid4(HELLO)}


def test_a_service_that_cannot_be_reached_is_asked_again_and_less_and_less_often(visit, world, db):  # noqa: F811
    shown = visit()
    shown.page.clock.install()
    # The clock that is installed also runs by itself. So the test looks at what the page sets, and not at the time. A
    # notice is shown for 8 s.
    shown.page.evaluate(
        "() => { window.waitsMs = []; const set = window.setTimeout; window.setTimeout = (run, ms) => {"
        " if (ms >= 5000 && ms !== 8000) waitsMs.push(ms); return set(run, ms) } }"
    )
    shown.page.route(re.compile("/lessons/"), lambda route: route.abort())
    shown.lesson.get_by_role("button").click()
    expect(shown.page.locator("lesson-progress .notice p")).to_have_text(
        "“Lasagna” is waiting to be saved. Your progress cannot be reached."
    )
    for number, wait_ms in enumerate((5000, 10_000, 20_000, 40_000, 60_000, 60_000), 1):
        deadline = time.monotonic() + 60
        while len(waits_ms := shown.page.evaluate("waitsMs")) < number:
            assert time.monotonic() < deadline, "the page does not wait to try again"
        assert waits_ms[number - 1 :] == [wait_ms]
        with shown.page.expect_request(re.compile("/lessons/")):
            shown.page.clock.run_for(wait_ms)
    shown.page.unroute_all()
    shown.becomes_visible()
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")
    assert marked(db) == {uuid4(LASAGNA)}


def old_version(route: Route) -> None:
    """Answer as a host does that still runs the version without many marks."""
    route.fulfill(
        status=405,
        headers={"Access-Control-Allow-Origin": route.request.headers["origin"], "Allow": "GET, HEAD"}
        | {"Access-Control-Allow-Credentials": "true", "Content-Type": "application/problem+json"},
        body='{"code": "method_not_allowed"}',
    )


@pytest.mark.parametrize("made_offline", [True, False], ids=["offline", "quickly"])
def test_ticks_wait_while_a_host_of_the_old_version_answers(visit, world, db, made_offline):  # noqa: F811
    """While a new version is rolled out, both versions run, and a proxy asks any of them."""
    shown = visit()
    for module in ("Basics", "Practice"):
        shown.open(module)
    shown.page.clock.install()
    shown.page.route(re.compile("/lessons$"), old_version, times=1)
    made = Calls(shown.page)
    if made_offline:
        offline(shown)
        clicked(shown, "Lasagna", "Hello World")
        is_waiting(shown, 2)
        offline(shown, False)
    else:
        held = Held(shown.page, "/lessons/")
        clicked(shown, "Lasagna")
        held.wait()
        clicked(shown, "Hello World", "Donau")
        held.let_go()
    is_waiting(shown, 2)
    made.wait(1 if made_offline else 2)
    assert made[-1] == "POST lessons 405"
    shown.page.clock.fast_forward(5000)
    expect(shown.notice).to_have_text("2 lessons are completed.")
    assert len(times(db)) == (2 if made_offline else 3)


def test_a_tick_whose_answer_was_lost_can_be_taken_back(visit, world, db):  # noqa: F811
    """The mark may be stored or not, so the unmark has to be sent."""
    shown = visit()
    shown.page.route(re.compile("/lessons/"), lambda route: (route.fetch(), route.abort()), times=1)
    shown.lesson.get_by_role("button").click()
    expect(shown.page.locator("lesson-progress .notice p")).to_contain_text("Your progress cannot be reached.")
    assert marked(db) == {uuid4(LASAGNA)}
    shown.lesson.get_by_role("button", name="Mark as not completed").click()
    made = Calls(shown.page)
    shown.becomes_visible()
    made.wait(2)
    assert made[0] == f"DELETE lessons/{uuid4(LASAGNA)} 200"
    expect(shown.lesson.locator("[part=state]")).to_have_text("Not completed yet")
    assert marked(db) == set()


def test_a_read_that_succeeds_sends_what_waits(visit, world, db):  # noqa: F811
    shown = visit()
    shown.page.route(re.compile("/lessons/"), lambda route: route.abort(), times=1)
    shown.lesson.get_by_role("button").click()
    is_waiting(shown)
    shown.page.evaluate("() => document.querySelector('course-progress').refresh()")
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")


def test_what_waits_is_not_another_learners(visit, two_learners, db):  # noqa: F811
    before = completions(db)
    shown = visit()
    shown.open("Practice")
    offline(shown)
    shown.box("Hello World").click()
    is_waiting(shown)
    sign_in(shown, OTHER)
    offline(shown, False)
    is_the_other_learners(shown)
    expect(shown.notice).to_have_text("Your last change was not saved: the sign-in has changed.")
    assert completions(db) == before


@pytest.fixture
def opened(visit, world) -> Callable[..., Shown]:  # noqa: F811
    """Return a function that opens a page with `keep-offline`, or another body, in one browser."""
    contexts: list[BrowserContext] = []

    def opened(body: str = KEEPING) -> Shown:
        shown: Shown = visit(body=body, context=contexts[0] if contexts else None)
        contexts[:] = [shown.page.context]
        return shown

    return opened


def tick_offline(shown: Shown) -> None:
    """Tick two lessons offline, and wait until the page knows that they cannot be sent."""
    offline(shown)
    for _ in range(2):
        shown.course.locator(".continue").get_by_role("button").click()
    is_waiting(shown, 2)


def close(shown: Shown) -> None:
    # A tab that is being closed may notice for a moment that it is online. It must not send what waits then.
    shown.page.evaluate("() => { window.fetch = () => new Promise(() => {}) }")
    shown.page.goto("about:blank")
    shown.page.close()
    offline(shown, False)


def tag_of(shown: Shown) -> str:
    return str(
        shown.page.evaluate(
            "async (url) => (await fetch(url, { credentials: 'include' })).headers.get('Learner-Tag')",
            f"{shown.service}/api/progress/summary",
        )
    )


def test_without_the_attribute_nothing_is_kept(opened, db):
    shown = opened(BOTH)
    tick_offline(shown)
    assert shown.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    close(shown)
    again = opened(BOTH)
    expect(again.percent).to_have_text("0%")
    assert marked(db) == set()


def test_ticks_survive_a_reload_with_the_attribute(opened, db):
    shown = opened()
    made = Calls(shown.page)
    tick_offline(shown)
    assert made == []
    [(key, content)] = storage(shown.page).items()
    assert key == f"progress-ui {shown.service}/"
    lessons = content.pop("lessons")
    assert list(lessons) == [uuid4(LASAGNA), uuid4(INFILTRATION)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at) for at in lessons.values())
    assert list(content) == ["tag"]
    close(shown)
    again = opened()
    expect(again.lesson.locator("[part=state]")).to_contain_text("Completed on")
    assert {lesson: f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}" for lesson, at in times(db).items()} == {
        lesson: at[:19] for lesson, at in lessons.items()
    }
    assert content["tag"] == tag_of(again)
    assert storage(again.page) == {}


def test_an_unmark_survives_too(opened, db):
    complete(db, LASAGNA)
    shown = opened()
    offline(shown)
    shown.lesson.get_by_role("button").click()
    is_waiting(shown)
    [content] = storage(shown.page).values()
    assert content["lessons"] == {uuid4(LASAGNA): None}
    close(shown)
    again = opened()
    expect(again.lesson.get_by_role("button")).to_have_text("Mark as completed")
    again.page.wait_for_function("() => localStorage.length === 0")
    assert marked(db) == set()


def test_what_is_kept_is_sent_only_after_an_answer_with_the_tag(opened, site, db):  # noqa: F811
    shown = opened()
    tick_offline(shown)
    close(shown)
    sign_in(shown, None)
    out = opened_as_is(shown, site)
    expect(out.course).to_contain_text("You are not signed in.")
    assert len(storage(out.page)) == 1  # nobody knows yet whose page it is
    sign_in(out, LEARNER)
    made = Calls(out.page)
    out.becomes_visible()
    assert made.wait(2)[:2] == [f"GET {OUTLINE} 200", "POST lessons 200"]
    assert len(times(db)) == 2


def test_a_session_that_ended_meanwhile_loses_nothing_that_is_kept(opened, db):
    shown = opened()
    tick_offline(shown)
    sign_in(shown, None)
    offline(shown, False)
    expect(shown.course).to_contain_text("You are not signed in.")
    expect(shown.notice).to_have_count(0)
    sign_in(shown, LEARNER)
    shown.becomes_visible()
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")
    assert len(times(db)) == 2


def test_what_is_kept_is_sent_also_from_the_page_of_another_course(opened, db):
    db.execute("insert into courses (id, title, position) values (%s, 'Practice', 1)", [uuid4(0xC1)])
    db.execute("update modules set course_id = %s where id = %s", [uuid4(0xC1), uuid4(3)])
    complete(db, CIPHER)
    shown = opened()
    shown.open("Basics")
    shown.open("Booleans")
    offline(shown)
    clicked(shown, "Lasagna", "Infiltration", "Cipher")  # the last one is an unmark
    is_waiting(shown, 3)
    close(shown)
    made: list[str] = []
    shown.page.context.on("request", lambda request: made.append(request.method))
    other = opened(f'<course-progress keep-offline course-id="{uuid4(0xC1)}"></course-progress>')
    expect(other.course.locator(".counts")).to_have_text("0 of 2 lessons")
    other.page.wait_for_function("() => localStorage.length === 0")
    assert [method for method in made if method in ("POST", "DELETE")] == ["POST", "DELETE"]
    assert marked(db) == {uuid4(LASAGNA), uuid4(INFILTRATION)}


@pytest.mark.parametrize("access", ["full", None], ids=["enrolled", "not enrolled"])
def test_what_is_kept_is_gone_when_another_learner_comes(opened, site, db, access):  # noqa: F811
    add_user(db, OTHER, access=access)
    shown = opened()
    tick_offline(shown)
    close(shown)
    sign_in(shown, OTHER)
    made: list[str] = []
    shown.page.context.on("request", lambda request: made.append(request.method))
    other = opened_as_is(shown, site)
    other.page.wait_for_function("() => localStorage.length === 0")
    assert "POST" not in made
    assert marked(db) == set()


def opened_as_is(shown: Shown, site: Site) -> Shown:  # noqa: F811
    """Open the page again in the same browser, with the session cookie that it has."""
    page = shown.page.context.new_page()
    page.goto(site.url)
    return Shown(page, shown.service)


# TAG is the tag of the learner.
MALFORMED = [
    "{",
    "1",
    '{"tag": "TAG"}',
    '{"tag": "TAG", "lessons": []}',
    '{"tag": "TAG", "lessons": {"<script>": null}}',
    '{"tag": "TAG", "lessons": {"' + uuid4(LASAGNA) + '": "yesterday"}}',
    '{"tag": "TAG", "lessons": {"' + uuid4(LASAGNA) + '": 5}}',
    '{"tag": 5, "lessons": {"' + uuid4(LASAGNA) + '": null}}',
]


def test_what_has_another_form_is_ignored_and_removed(opened, db):
    shown = opened()
    tag = tag_of(shown)
    for content in MALFORMED:
        shown.page.evaluate(
            "([key, value]) => { localStorage[key] = value }",
            [f"progress-ui {shown.service}/", content.replace("TAG", tag)],
        )
        made = Calls(shown.page)
        shown.page.reload()
        shown.page.wait_for_function("() => localStorage.length === 0")
        expect(shown.percent).to_have_text("0%")
        assert not any(call.startswith("POST") for call in made.asked), content
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")


STORAGES = {
    "forbidden": "Object.defineProperty(window, 'localStorage',"
    " { get() { throw new DOMException('', 'SecurityError') } })",
    "full": "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError') }",
}


@pytest.mark.parametrize("script", STORAGES.values(), ids=STORAGES)
def test_ticking_works_without_a_storage(visit, new_context, world, db, script):  # noqa: F811
    context = new_context()
    context.add_init_script(script)
    shown = visit(body=KEEPING, context=context)
    tick_offline(shown)
    offline(shown, False)
    expect(shown.notice).to_have_text("2 lessons are completed.")
    expect(shown.percent).to_have_text("40%")


def test_what_one_tab_has_sent_another_tab_does_not_send_again(opened, db):
    """The other tab would undo what the learner has done since."""
    one = opened()
    two = opened()
    offline(one)
    two.lesson.get_by_role("button").click()
    is_waiting(two)
    two.page.route(re.compile("/lessons"), lambda route: route.abort())  # this tab sleeps
    offline(one, False)
    three = opened()  # as after a reload
    expect(three.lesson.locator("[part=state]")).to_contain_text("Completed on")
    three.lesson.get_by_role("button").click()
    expect(three.lesson.get_by_role("status")).to_contain_text("is not completed any more")
    two.page.unroute_all()
    made = Calls(two.page)
    two.becomes_visible()
    made.wait(1)
    expect(two.lesson.locator("[part=state]")).to_have_text("Not completed yet")
    assert not any(call.startswith("POST") for call in made.asked)
    assert marked(db) == set()


def test_the_attribute_may_be_removed_and_with_it_what_is_kept(opened):
    shown = opened()
    tick_offline(shown)
    assert len(storage(shown.page)) == 1
    shown.page.evaluate("() => document.querySelector('course-progress').setAttribute('keep-offline', 'false')")
    assert storage(shown.page) == {}
    shown.page.evaluate("() => document.querySelector('course-progress').setAttribute('keep-offline', '')")
    assert len(storage(shown.page)) == 1


def test_the_store_removes_what_an_earlier_page_kept(opened, db):
    """A site that gives `keep-offline` up leaves nothing behind in the browsers of its learners."""
    shown = opened()
    tick_offline(shown)
    close(shown)
    again = opened("")
    use_store(again)
    again.page.evaluate("async () => { await store.refresh() }")
    assert len(storage(again.page)) == 1  # a page that does not say anything about it leaves it alone
    again.page.evaluate("() => { store.keepOffline = false }")
    assert storage(again.page) == {}
    again.page.evaluate("async () => { store.keepOffline = true; await store.refresh() }")
    assert marked(db) == set()


def test_a_reset_leaves_what_is_kept(opened, db):
    shown = opened()
    tick_offline(shown)
    shown.page.evaluate("() => document.querySelector('course-progress').reset()")
    expect(shown.course).to_contain_text("You are offline.")
    assert len(storage(shown.page)) == 1
    offline(shown, False)
    expect(shown.lesson.locator("[part=state]")).to_contain_text("Completed on")
    assert len(times(db)) == 2


def test_the_refusal_of_a_kept_tick_is_told(opened, db):
    shown = opened()
    tick_offline(shown)
    close(shown)
    require(db, LASAGNA, CIPHER)
    db.execute("delete from lesson_prerequisites where prerequisite_id = %s", [uuid4(LASAGNA)])
    db.execute("delete from lesson_prerequisites where lesson_id = %s", [uuid4(CIPHER)])
    again = opened()
    expect(again.page.locator(".notice:visible p")).to_have_text(
        "“Lasagna” was not saved. It is locked: complete “Cipher” first."
    )
    assert marked(db) == {uuid4(INFILTRATION)}
    assert storage(again.page) == {}


def test_the_store_keeps_what_waits_without_a_component(visit, world, db):  # noqa: F811
    shown = visit(body="")
    use_store(shown)
    shown.page.evaluate("async () => { store.keepOffline = true; await store.refresh() }")
    offline(shown)
    shown.page.evaluate("(id) => { store.want(id, true) }", uuid4(LASAGNA))
    shown.page.wait_for_function("() => store.view.waiting?.count === 1 && localStorage.length === 1")
    assert shown.page.evaluate("store.view.waiting") == {"count": 1, "code": "offline"}
    shown.page.route(re.compile("/lessons/"), lambda route: route.abort())
    offline(shown, False)
    shown.page.reload()
    use_store(shown)
    shown.page.evaluate("async () => { store.keepOffline = true; await store.refresh() }")
    shown.page.unroute_all()
    outcome = (
        "async () => { const [{ lessonId, settled }] = store.takeRestored(); store.refresh();"
        " return [lessonId, (await settled).answer.completed] }"
    )
    assert shown.page.evaluate(outcome) == [uuid4(LASAGNA), True]


def example(service: str, language: str, *parts: str) -> str:  # noqa: F811
    """Return a block of docs/front-end.md, with the address of the test's service."""
    text = block(language, *parts)
    return text.replace("http://127.0.0.1:8000", service).replace('SERVICE = ""', f'SERVICE = "{service}"')


@pytest.fixture
def load(visit, site, service, world) -> Callable[[str], Shown]:  # noqa: F811
    """Return a function that loads a page of the site, always in one browser that is signed in."""
    first: Shown = visit()

    def load(html: str) -> Shown:
        site.policy = ""
        head = "" if html.startswith("<!doctype") else '<!doctype html><html lang="en"><title>A course</title>'
        component = f'<script type="module" src="{service}/progress-ui/progress-ui.js"></script>'
        site.pages["/"] = html if html.startswith("<!doctype") else head + component + html
        first.page.goto(site.url)
        expect(first.page.locator("[aria-busy], .loading")).to_have_count(0)
        return first

    return load


def test_the_page_of_the_chapter_about_offline_keeps_ticks(load, service, db):  # noqa: F811
    page = example(service, "html", "<course-progress keep-offline>")
    shown = load(page)
    tick_offline(shown)
    assert len(storage(shown.page)) == 1
    shown.page.route(re.compile("/lessons$"), lambda route: route.abort())  # the network comes back, but only nearly
    offline(shown, False)
    shown.page.reload()
    is_waiting(shown, 2)
    shown.page.unroute_all()
    shown.becomes_visible()
    expect(shown.course.locator(".counts")).to_have_text("2 of 5 lessons")
    assert len(times(db)) == 2
    assert_axe_finds_nothing(shown.page)


def test_the_script_of_the_chapter_about_offline_says_what_waits(load, site, service, db):  # noqa: F811
    site.pages["/waiting.js"] = example(service, "js", "// waiting.js")
    html = (
        f'<p id="waiting"></p><button id="tick" value="{uuid4(HELLO)}">Tick</button>'
        '<script type="module" src="/waiting.js"></script>'
    )
    shown = load(html)
    line = shown.page.locator("#waiting")
    ready = "async (service) => (await import(`${service}/progress-ui/progress-ui.js`)).storeOf().refresh()"
    shown.page.evaluate(ready, service)
    offline(shown)
    shown.page.locator("#tick").click()
    expect(line).to_have_text("1 changes wait to be saved.")
    require(db, HELLO, LASAGNA)
    shown.page.route(re.compile("/lessons/"), lambda route: route.abort())
    offline(shown, False)
    shown.page.reload()
    expect(line).to_have_text("1 changes wait to be saved.")
    shown.page.unroute_all()
    shown.becomes_visible()
    expect(line).to_have_text("Hello World: not saved (lesson_locked)")
    assert storage(shown.page) == {}


@pytest.mark.parametrize("ahead", [False, True], ids=["the right time", "a clock that is ahead"])
def test_the_ticks_of_a_guest_come_along(load, site, service, db, ahead):  # noqa: F811
    numbers = [INFILTRATION, LASAGNA, LONG]
    boxes = "".join(f'<label><input type="checkbox" value="{uuid4(number)}"> {number}</label>' for number in numbers)
    guest = example(service, "html", "<!-- guest.html -->")
    guest = re.sub(r"<ul>.*</ul>", boxes, guest, flags=re.S)
    welcome = example(service, "html", "<!-- welcome.html -->")
    site.pages["/guest.js"] = example(service, "js", "// guest.js")
    require(db, LONG, CIPHER)
    shown = load(guest)
    sign_in(shown, None)
    if ahead:
        shown.page.clock.install(time=datetime.now(UTC) + timedelta(days=2))
        shown.page.reload()
    for number in numbers:
        shown.page.get_by_label(str(number)).check()
    shown.page.get_by_label(str(LONG)).uncheck()
    shown.page.get_by_label(str(LONG)).check()
    shown.page.reload()
    expect(shown.page.get_by_role("checkbox", checked=True)).to_have_count(3)
    assert list(storage(shown.page)) == ["guest-ticks"]
    sign_in(shown, LEARNER)
    load(welcome)
    made = Calls(shown.page)
    shown.page.route(re.compile("/lessons$"), FAILING["503"], times=1)
    shown.page.get_by_role("button", name="Yes").click()
    expect(shown.page.get_by_role("status").first).to_contain_text("Your lessons are not saved yet.")
    shown.page.reload()
    shown.page.get_by_role("button", name="Yes").click()
    expect(shown.page.get_by_role("status").first).to_have_text("1 lessons are not open to you yet.")
    posts = [call for call in made if call.startswith("POST")]
    assert posts == ["POST lessons 503", *(["POST lessons 400"] if ahead else []), "POST lessons 200"]
    expect(shown.course.locator(".counts")).to_have_text("2 of 4 lessons")
    assert marked(db) == {uuid4(LASAGNA), uuid4(INFILTRATION)}
    assert storage(shown.page) == {}


def test_a_guest_who_is_another_person_is_forgotten(load, site, service, db):  # noqa: F811
    site.pages["/guest.js"] = example(service, "js", "// guest.js")
    shown = load(example(service, "html", "<!-- guest.html -->"))
    shown.page.get_by_role("checkbox").check()
    load(example(service, "html", "<!-- welcome.html -->"))
    made = Calls(shown.page)
    shown.page.get_by_role("button", name="No").click()
    expect(shown.page.get_by_role("dialog")).to_have_count(0)
    assert storage(shown.page) == {}
    assert not any(call.startswith("POST") for call in made.asked)
    assert marked(db) == set()
