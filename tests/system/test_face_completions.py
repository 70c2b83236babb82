"""What the components show of modules and courses that a learner once completed, also when lessons are added later."""

import re

import psycopg
import pytest
from playwright.sync_api import Locator, Route, expect

from tests.system.conftest import OUTLINE, Calls, assert_axe_finds_nothing, screenshot

# Fixtures are found by their names.
from tests.system.test_face import (  # noqa: F401
    CIPHER,
    HELLO,
    INFILTRATION,
    LASAGNA,
    LONG,
    Shown,
    service,
    site,
    start,
    visit,
    world,
)
from tests.system.test_face_courses import EVERYTHING, HEADER, JAVASCRIPT, ONE, courses  # noqa: F401
from tests.system.test_face_learners import FAILING, OTHER, navigate, sign_in
from tests.system.test_face_site import heard, listen, use_store
from tests.world import LEARNER, add_lesson, add_module, add_user, complete, uuid4

NEW, SECOND_NEW = 0x23, 0x24
IN_JUNE = "2025-06-15T12:00:00Z"
JUNE = "Jun 15, 2025"
BOOLEANS = "Booleans and strings"


@pytest.fixture
def completed(world: None, db: psycopg.Connection) -> None:  # noqa: F811
    """In June, the learner has completed the modules Basics and Booleans and strings."""
    complete(db, LASAGNA, INFILTRATION, CIPHER, at=IN_JUNE)
    for module in (1, 2):
        completion(db, "module", module)


def completion(db: psycopg.Connection, kind: str, number: int, at: str = IN_JUNE) -> None:
    db.execute(
        f"insert into {kind}_completions (user_id, {kind}_id, completed_at) values (%s, %s, %s)".encode(),
        [LEARNER, uuid4(number), at],
    )


def line(shown: Shown, module: int) -> Locator:
    """Return the line below the bar of a module, by its place."""
    return shown.course.locator(".module").nth(module - 1).locator(".why")


def test_a_module_that_was_completed_shows_when(visit, completed):  # noqa: F811
    shown = visit()
    expect(line(shown, 1)).to_have_text(f"Completed on {JUNE}")
    expect(line(shown, 3)).to_have_text("")
    expect(shown.lesson.locator("[part=module] .completion")).to_have_text(f"Completed on {JUNE}")
    button = shown.course.get_by_role("button", name=BOOLEANS)
    expect(button).to_have_accessible_name(f"{BOOLEANS} 2 of 2 lessons, Completed on {JUNE}")
    button.click()
    expect(shown.course.locator(".about:visible")).to_have_text(f"Completed on {JUNE}")
    assert_axe_finds_nothing(shown.page)


def test_a_course_with_the_id_of_a_module_has_a_completion_of_its_own(visit, completed, db):  # noqa: F811
    db.execute("insert into courses (id, title, position) values (%s, 'JavaScript', 1)", [uuid4(1)])
    db.execute("update modules set course_id = %s where id = %s", [uuid4(1), uuid4(1)])
    shown = visit()
    expect(line(shown, 3)).to_have_text(f"Completed on {JUNE}")  # modules without a course come first
    use_store(shown)
    found = shown.page.evaluate("store.view.modules.map(({ completedAt }) => completedAt)")
    assert found.count(IN_JUNE.replace("Z", ".000Z")) == 2
    assert shown.page.evaluate("store.view.courses.map(({ completedAt }) => completedAt)") == [None]


def test_it_goes_on_showing_it_when_lessons_are_added(visit, completed, db):  # noqa: F811
    add_lesson(db, 2, NEW, title="New")
    shown = visit(body=HEADER.replace(uuid4(LASAGNA), uuid4(NEW)) + "<course-progress></course-progress>")
    expect(line(shown, 2)).to_have_text(f"Completed on {JUNE}, 1 new lesson")
    expect(shown.lesson.locator("[part=module] .completion")).to_have_text(f"Completed on {JUNE}, 1 new lesson")
    # Another one is added while the page is open.
    add_lesson(db, 2, SECOND_NEW, title="Newer")
    made = Calls(shown.page)
    shown.becomes_visible()
    expect(line(shown, 2)).to_have_text(f"Completed on {JUNE}, 2 new lessons")
    assert made.wait(1) == [f"GET {OUTLINE} 200"]
    shown.open(BOOLEANS)
    screenshot(shown.page, "new-lessons")
    assert_axe_finds_nothing(shown.page)
    shown.box("Newer").click()
    expect(line(shown, 2)).to_have_text(f"Completed on {JUNE}, 1 new lesson")
    # The completion stays that of June when everything is completed again. The tick moves nothing.
    before = [shown.course.locator(part).bounding_box() for part in (".panel:visible", ".lessons:visible")]
    with shown.page.expect_response(lambda answer: answer.request.method == "POST"):
        shown.lesson.get_by_role("button").click()
    expect(line(shown, 2)).to_have_text(f"Completed on {JUNE}")
    expect(shown.lesson.locator("[part=module] .completion")).to_have_text(f"Completed on {JUNE}")
    after = [shown.course.locator(part).bounding_box() for part in (".panel:visible", ".lessons:visible")]
    assert [(box["x"], box["y"]) for box in after if box] == [(box["x"], box["y"]) for box in before if box]


def test_a_write_that_completes_shows_it_is_an_event_and_needs_no_other_call(visit, courses, db):  # noqa: F811
    complete(db, INFILTRATION, CIPHER, at=IN_JUNE)
    shown = visit(body=EVERYTHING)
    listen(shown.page, "progress-complete")
    made = Calls(shown.page)
    with shown.page.expect_response(lambda answer: answer.request.method == "POST") as posted:
        shown.lesson.get_by_role("button").click()
    answer = posted.value.json()
    assert [list(one) for one in answer["completions"]] == [["moduleId", "completedAt"], ["courseId", "completedAt"]]
    expect(shown.lesson.get_by_role("status")).to_contain_text("is completed")
    for part in ("module", "course"):
        expect(shown.lesson.locator(f"[part={part}] .completion")).to_contain_text("Completed on ")
    expect(shown.course.locator("[part=course] p").nth(1)).to_contain_text("100% · 3 of 3 lessons · Completed on ")
    assert heard(shown.page) == [
        {"target": "lesson-progress", "detail": {"completions": answer["completions"]}, "cancelable": False}
    ]
    assert made == [f"POST lessons/{uuid4(LASAGNA)} 200"]
    # Taking the mark back and marking again completes nothing, so it is no event.
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.locator("[part=module] .completion")).to_contain_text("Last completed on ")
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.locator("[part=module] .completion")).to_contain_text("Completed on ")
    assert len(heard(shown.page)) == 1


def test_many_marks_that_complete_are_one_event(visit, world, db):  # noqa: F811
    shown = visit()
    listen(shown.page, "progress-complete")
    for title in ("Basics", "Practice"):
        shown.open(title)
    shown.page.context.set_offline(True)
    for lesson in ("Lasagna", "Hello World", "Donau"):
        shown.box(lesson).click()
    expect(shown.course.locator(".locked-count")).to_have_text("3 changes wait to be saved")
    expect(line(shown, 3)).to_have_text("")  # nothing is stored
    shown.page.context.set_offline(False)
    expect(shown.notice).to_have_text("3 lessons are completed.")
    for module in (1, 3):
        expect(line(shown, module)).to_contain_text("Completed on ")
    [event] = heard(shown.page)
    assert [one["moduleId"] for one in event["detail"]["completions"]] == [uuid4(1), uuid4(3)]


def test_after_starting_over_the_completion_stays_and_no_lesson_is_new(visit, completed, db):  # noqa: F811
    shown = visit(body="<course-progress start-over></course-progress>")
    shown.open(BOOLEANS)
    shown.course.get_by_role("button", name=f"Start over: {BOOLEANS}").click()
    shown.course.get_by_role("dialog").get_by_role("button", name="Start over").click()
    expect(shown.notice).to_contain_text("starts over")
    expect(line(shown, 2)).to_have_text(f"Last completed on {JUNE}")
    shown.page.reload()
    expect(line(shown, 2)).to_have_text(f"Last completed on {JUNE}")
    shown.open(BOOLEANS)
    shown.box("Infiltration").click()
    expect(shown.notice).to_contain_text("“Infiltration” is completed.")
    expect(line(shown, 2)).to_have_text(f"Last completed on {JUNE}")
    shown.box("Cipher").click()
    expect(shown.notice).to_contain_text("“Cipher” is completed.")
    expect(line(shown, 2)).to_contain_text("Completed on ")
    assert JUNE not in line(shown, 2).inner_text()


def test_a_lesson_that_the_page_unmarks_is_not_new(visit, completed):  # noqa: F811
    shown = visit()
    shown.open(BOOLEANS)
    shown.box("Cipher").click()
    expect(shown.notice).to_have_text("“Cipher” is not completed any more.")
    expect(line(shown, 2)).to_have_text(f"Last completed on {JUNE}")


def test_a_course_shows_its_own_completion(visit, courses, completed, db):  # noqa: F811
    completion(db, "course", JAVASCRIPT)
    shown = visit(body=ONE)
    expect(shown.course.locator(".locked-count")).to_have_text(f"Completed on {JUNE}")
    add_lesson(db, 2, NEW, title="New")
    shown.becomes_visible()
    expect(shown.course.locator(".locked-count")).to_have_text(f"Completed on {JUNE}, 1 new lesson")
    screenshot(shown.page, "course-new-lesson")
    assert_axe_finds_nothing(shown.page)


@pytest.mark.parametrize("width", [320, 700])
def test_the_words_have_room_on_narrow_pages(visit, courses, completed, db, width):  # noqa: F811
    completion(db, "course", JAVASCRIPT)
    add_lesson(db, 2, NEW, title="New")
    shown = visit(body=EVERYTHING, viewport={"width": width, "height": 900})
    shown.open(BOOLEANS)
    expect(shown.course.locator("[part=course] p").nth(1)).to_contain_text(f" · Completed on {JUNE}, 1 new lesson")
    words = [shown.lesson.locator(f"[part={part}] .completion") for part in ("module", "course")]
    for node in [*words, line(shown, 3), shown.course.locator(".about:visible")]:
        assert node.evaluate(
            "({ scrollWidth, clientWidth, scrollHeight, clientHeight }) =>"
            " scrollWidth <= clientWidth && scrollHeight <= clientHeight"
        )
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width
    assert_axe_finds_nothing(shown.page)
    screenshot(shown.page, f"completed-{width}")


def test_the_words_may_be_the_sites_own(visit, completed, db):  # noqa: F811
    add_lesson(db, 2, NEW, title="New")
    shown = visit(body='<course-progress lang="de"></course-progress>')
    shown.page.evaluate(
        "() => { document.querySelector('course-progress').labels = { completedOn: 'Abgeschlossen am {date}',"
        " completedNew: { one: 'Am {date}, {count} neue Lektion', other: 'Am {date}, {count} neue Lektionen' } } }"
    )
    expect(line(shown, 1)).to_have_text("Abgeschlossen am 15.06.2025")
    expect(line(shown, 2)).to_have_text("Am 15.06.2025, 1 neue Lektion")


def test_what_was_completed_comes_with_the_outline(visit, completed, db):  # noqa: F811
    shown = visit()
    made = Calls(shown.page)
    shown.becomes_visible()
    assert made.wait(1) == [f"GET {OUTLINE} 304"]
    complete(db, HELLO, LONG, at=IN_JUNE)
    completion(db, "module", 3)
    shown.becomes_visible()
    expect(line(shown, 3)).to_have_text(f"Completed on {JUNE}")
    assert made.wait(3)[1:] == [f"GET {OUTLINE} 200", "GET access 200"]
    # What was completed may change alone: make complete writes it later.
    add_module(db, 4, 0x41)
    shown.becomes_visible()
    expect(line(shown, 4)).to_have_text("")
    completion(db, "module", 4)
    shown.becomes_visible()
    expect(line(shown, 4)).to_have_text(f"Last completed on {JUNE}")


@pytest.fixture
def one_of_the_course(courses: None, db: psycopg.Connection) -> None:  # noqa: F811
    """In June, the learner has completed the module Basics, the first of two in the course JavaScript."""
    complete(db, LASAGNA, at=IN_JUNE)
    completion(db, "module", 1)


def test_with_one_course_it_is_asked_once_and_again_only_if_progress_has_changed(visit, one_of_the_course, db):  # noqa: F811
    shown = visit(body=ONE)
    made = Calls(shown.page)
    shown.becomes_visible()
    assert made.wait(1) == [f"GET courses/{uuid4(JAVASCRIPT)} 304"]
    add_lesson(db, 1, NEW, title="New")
    shown.becomes_visible()
    expect(line(shown, 1)).to_have_text(f"Completed on {JUNE}, 1 new lesson")
    assert made.wait(3)[1:] == [f"GET courses/{uuid4(JAVASCRIPT)} 200", "GET completions 304"]


@pytest.mark.parametrize("kind", FAILING)
def test_without_it_the_course_is_shown(visit, one_of_the_course, kind):  # noqa: F811
    shown = visit(body="")
    shown.page.route(re.compile("/completions$"), FAILING[kind])
    navigate(shown, ONE)
    expect(shown.percent).to_have_text("50%")
    expect(line(shown, 1)).to_have_text("")
    expect(shown.course.locator(".instead")).to_be_hidden()
    # What the last read did not bring is asked for again, although the course has not changed.
    made = Calls(shown.page)
    shown.page.unroute_all()
    shown.becomes_visible()
    expect(line(shown, 1)).to_have_text(f"Completed on {JUNE}")
    assert sorted(made.wait(2)) == ["GET completions 200", f"GET courses/{uuid4(JAVASCRIPT)} 304"]


def test_beside_one_course_everything_still_brings_it(visit, one_of_the_course):  # noqa: F811
    shown = visit(body="")
    made = Calls(shown.page)
    navigate(shown, ONE + "<course-progress></course-progress>")
    expect(shown.course.first.locator(".module .why").first).to_have_text(f"Completed on {JUNE}")
    assert sorted(made.wait(2)) == [f"GET courses/{uuid4(JAVASCRIPT)} 200", f"GET {OUTLINE} 200"]


def of_an_old_version(route: Route) -> None:
    """Answer as a version of the service does that does not know `include`."""
    route.continue_(url=route.request.url.partition("?")[0])


def test_an_old_host_brings_the_outline_alone_and_the_page_needs_no_second_call(visit, courses, completed, db):  # noqa: F811
    """While a new version is rolled out, a host of the old version may answer a page of the new one."""
    db.execute("delete from progress where lesson_id = %s", [uuid4(CIPHER)])
    shown = visit(body="")
    shown.page.route(re.compile(r"/outline\?"), of_an_old_version)
    made = Calls(shown.page)
    navigate(shown, EVERYTHING)
    expect(shown.percent).to_have_text("33%")
    expect(shown.course.get_by_role("heading")).to_have_count(0)
    expect(shown.course.locator(".module .why", has_text="ompleted on")).to_have_count(0)
    shown.becomes_visible()
    assert made.wait(2) == ["GET outline 200", "GET outline 304"]
    shown.page.unroute_all()
    shown.becomes_visible()
    expect(shown.course.get_by_role("heading")).to_have_count(3)
    expect(shown.lesson.locator("[part=module] .completion")).to_have_text(f"Completed on {JUNE}")
    # What a host of the new version has said stays.
    shown.page.route(re.compile(r"/outline\?"), of_an_old_version)
    complete(db, CIPHER)
    shown.becomes_visible()
    expect(shown.percent).to_have_text("50%")
    expect(shown.course.get_by_role("heading")).to_have_count(3)
    expect(shown.lesson.locator("[part=module] .completion")).to_have_text(f"Completed on {JUNE}")


def test_another_learner_sees_nothing_of_it(visit, completed, db):  # noqa: F811
    add_user(db, OTHER)
    complete(db, LASAGNA, user_id=OTHER)
    shown = visit()
    expect(line(shown, 1)).to_have_text(f"Completed on {JUNE}")
    sign_in(shown, OTHER)
    shown.becomes_visible()
    expect(shown.percent).to_have_text("25%")
    expect(line(shown, 1)).to_have_text("")
    expect(shown.lesson.locator("[part=module] .completion")).to_have_text("")


def test_the_store_has_it_too(visit, completed, db):  # noqa: F811
    add_lesson(db, 2, NEW, title="New")
    shown = visit()
    use_store(shown)
    found = shown.page.evaluate("() => store.view.modules.map(({ completedAt, newCount }) => [completedAt, newCount])")
    in_june = "2025-06-15T12:00:00.000Z"
    assert found == [[in_june, 0], [in_june, 1], [None, 0]]
