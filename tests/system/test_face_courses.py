"""The two components on a site with courses: one course alone, and everything by course."""

import re
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Locator, expect

from tests.system.conftest import OUTLINE, Calls, Held, assert_axe_finds_nothing, screenshot

# Fixtures are found by their names.
from tests.system.test_face import (  # noqa: F401
    CIPHER,
    HELLO,
    INFILTRATION,
    LASAGNA,
    LONG,
    LONG_TITLE,
    Shown,
    service,
    site,
    start,
    visit,
    world,
)
from tests.system.test_face_learners import navigate
from tests.world import LEARNER, add_lesson, add_module, add_user, complete, cookie, require, uuid4

JAVASCRIPT, PRACTICE, OTHER = 0xC1, 0xC2, 0xBBB
ONE = f'<course-progress course-id="{uuid4(JAVASCRIPT)}"></course-progress>'
HEADER = f'<lesson-progress lesson-id="{uuid4(LASAGNA)}"></lesson-progress>'
EVERYTHING = HEADER + "<course-progress></course-progress>"
OFFER = '<a slot="offer" href="/buy">Buy the course</a>'


@pytest.fixture
def courses(world: None, db: psycopg.Connection) -> None:  # noqa: F811
    """Modules 1 and 2 are the course JavaScript, module 3 is the course Practice, and module 4 is in no course."""
    for number, title in ((JAVASCRIPT, "JavaScript"), (PRACTICE, "Practice course")):
        db.execute("insert into courses (id, title, position) values (%s, %s, 1)", [uuid4(number), title])
    for module, course in ((1, JAVASCRIPT), (2, JAVASCRIPT), (3, PRACTICE)):
        db.execute("update modules set course_id = %s where id = %s", [uuid4(course), uuid4(module)])
    add_module(db, 4, 0x41)


def give(db: psycopg.Connection, course: int, user_id: str = LEARNER) -> None:
    db.execute("insert into course_enrollments (user_id, course_id) values (%s, %s)", [user_id, uuid4(course)])


def names(locator: Locator) -> list[str]:
    return [text.strip() for text in locator.all_inner_texts()]


def numbers(shown: Shown) -> list[Any]:
    return [bar.get_attribute("aria-valuenow") for bar in shown.lesson.get_by_role("progressbar").all()]


def test_one_course_is_one_call_and_one_for_what_was_once_completed(visit, courses, db):  # noqa: F811
    complete(db, LASAGNA)
    made: list[str] = []
    shown = visit(body="", wait=False)
    shown.page.on("request", lambda request: made.append(request.url.partition("/api/progress/")[2]))
    shown.page.evaluate(
        "(id) => { const made = document.createElement('course-progress'); made.setAttribute('course-id', id);"
        " document.querySelector('main').append(made) }",
        uuid4(JAVASCRIPT).upper(),
    )
    expect(shown.percent).to_have_text("50%")
    assert made == [f"courses/{uuid4(JAVASCRIPT)}", "completions"]
    expect(shown.course.locator(".overall .eyebrow")).to_have_text("JavaScript")
    expect(shown.course.get_by_role("progressbar", name="Course JavaScript")).to_have_attribute(
        "aria-valuetext", "50%, 1 of 2 lessons"
    )
    expect(shown.course.locator(".next")).to_have_text("Infiltration")
    expect(shown.course.locator(".locks li")).to_have_text("“Cipher” opens after “Infiltration”")
    assert names(shown.course.locator(".module .name")) == ["Basics", "Booleans and strings"]
    expect(shown.course.get_by_role("heading")).to_have_count(0)
    screenshot(shown.page, "course")
    assert_axe_finds_nothing(shown.page)


def test_a_tick_in_a_course_needs_no_other_call(visit, courses):  # noqa: F811
    shown = visit(body=ONE)
    made = Calls(shown.page)
    for title, percent in (("Lasagna", "50%"), ("Infiltration", "66%")):
        shown.course.locator(".continue").get_by_role("button").click()
        expect(shown.notice).to_have_text(f"“{title}” is completed. 1 lesson opened up.")
        expect(shown.percent).to_have_text(percent)
        module = "Basics: 100%" if title == "Lasagna" else "Booleans and strings: 50%"
        expect(shown.course.get_by_role("status")).to_contain_text(f"{module}. JavaScript: {percent}.")
    expect(shown.course.locator(".next")).to_have_text("Cipher")
    assert made == [f"POST lessons/{uuid4(number)} 200" for number in (LASAGNA, INFILTRATION)]
    shown.becomes_visible()
    made.wait(4)
    assert made[2:] == [f"GET courses/{uuid4(JAVASCRIPT)} 200", "GET completions 200"]
    shown.becomes_visible()
    made.wait(5)
    assert made[4:] == [f"GET courses/{uuid4(JAVASCRIPT)} 304"]
    shown.course.locator(".continue").get_by_role("button").click()
    expect(shown.course.locator(".next")).to_have_text("You have completed this course.")
    expect(shown.percent).to_have_text("100%")


def test_what_to_continue_with_in_a_course_is_what_the_service_says_after_every_write(visit, courses, db):  # noqa: F811
    complete(db, HELLO)  # the latest of all is in another course
    shown = visit(body=ONE)
    path = f"courses/{uuid4(JAVASCRIPT)}"
    for _ in range(3):
        told = shown.api(path)
        titles = {one["lessonId"]: one["title"] for module in told["modules"] for one in module["lessons"]}
        expect(shown.course.locator(".next")).to_have_text(titles[told["next"]["lessonId"]])
        shown.course.locator(".continue").get_by_role("button").click()
        expect(shown.course.get_by_role("status")).to_contain_text(titles[told["next"]["lessonId"]])
    assert shown.api(path)["next"] == {"lessonId": None, "moduleId": None}


def test_a_lesson_shows_its_course_too(visit, courses):  # noqa: F811
    shown = visit(body=HEADER)
    made = Calls(shown.page)
    expect(shown.lesson.get_by_role("progressbar", name="Course JavaScript")).to_be_visible()
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.locator("[part=course-percent]")).to_have_text("50%")
    assert numbers(shown) == ["100", "50", "20"]
    assert made.wait(1) == [f"POST lessons/{uuid4(LASAGNA)} 200"]
    assert_axe_finds_nothing(shown.page)
    shown.page.evaluate(f"document.querySelector('lesson-progress').setAttribute('lesson-id', '{uuid4(0x41)}')")
    expect(shown.lesson.get_by_role("progressbar")).to_have_count(2)
    assert numbers(shown) == ["0", "20"]


def test_a_lesson_with_its_course_asks_for_the_course_alone(visit, courses):  # noqa: F811
    both = HEADER.replace(" lesson-id", f' course-id="{uuid4(JAVASCRIPT)}" lesson-id') + ONE
    shown = visit(body=both)
    made = Calls(shown.page)
    shown.lesson.get_by_role("button").click()
    expect(shown.percent).to_have_text("50%")
    expect(shown.lesson.get_by_role("status")).to_have_text(
        "“Lasagna” is completed. 1 lesson opened up. Basics: 100%. JavaScript: 50%."
    )
    assert numbers(shown) == ["100", "50"]
    shown.becomes_visible()
    made.wait(3)
    # The answer for the course is new to the page, so it also asks what was once completed.
    assert made == [
        f"POST lessons/{uuid4(LASAGNA)} 200",
        f"GET courses/{uuid4(JAVASCRIPT)} 200",
        "GET completions 200",
    ]
    assert_axe_finds_nothing(shown.page)


@pytest.mark.parametrize("width", [320, 700, 1000, 1080])
def test_the_meters_of_a_lesson_have_room(visit, courses, db, width):  # noqa: F811
    db.execute("update courses set title = %s", [LONG_TITLE])
    complete(db, LASAGNA)
    shown = visit(viewport={"width": width, "height": 700}, body=EVERYTHING + ONE)
    expect(shown.lesson.get_by_role("progressbar")).to_have_count(3)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    places = [meter.bounding_box() for meter in shown.lesson.locator(".meter").all()]
    # On a telephone, two have room for a date. The third has a row of its own.
    assert len({place["y"] for place in places if place}) == (2 if width == 320 else 1)
    assert all(place and place["width"] > 60 and place["x"] + place["width"] <= width for place in places)
    state = shown.lesson.locator("[part=state] span + span")
    assert state.evaluate("(node) => node.scrollHeight - node.clientHeight") <= 1
    cards = shown.course.locator(".card.overall").all()
    assert len(cards) == 2
    for card in cards:
        assert card.evaluate("(node) => node.scrollWidth - node.clientWidth") == 0
    screenshot(shown.page, f"course-titles-{width}")


def test_everything_is_listed_by_course_under_headings(visit, courses):  # noqa: F811
    shown = visit(body=EVERYTHING)
    headings = shown.course.get_by_role("heading", level=2)
    expect(headings).to_have_text(["Without a course", "JavaScript", "Practice course"])
    groups = [names(shown.course.get_by_role("list", name=name).locator(".module .name")) for name in names(headings)]
    assert groups == [["Module 4"], ["Basics", "Booleans and strings"], ["Practice"]]
    sums = shown.course.locator(".course p")
    expect(sums).to_have_text(["0% · 0 of 1 lesson", "0% · 0 of 1 lesson", "0% · 0 of 2 lessons"])
    made = Calls(shown.page)
    shown.lesson.get_by_role("button").click()
    expect(sums).to_have_text(["0% · 0 of 1 lesson", "50% · 1 of 2 lessons", "0% · 0 of 2 lessons"])
    assert made.wait(1) == [f"POST lessons/{uuid4(LASAGNA)} 200"]
    shown.becomes_visible()
    assert made.wait(2)[1:] == [f"GET {OUTLINE} 200"]
    shown.becomes_visible()
    assert made.wait(3)[2:] == [f"GET {OUTLINE} 304"]
    shown.open("Basics")
    screenshot(shown.page, "by-course")
    assert_axe_finds_nothing(shown.page)
    listed = f"{uuid4(1)} {uuid4(3)}"
    shown.page.evaluate(f"document.querySelector('course-progress').setAttribute('modules', '{listed}')")
    expect(headings).to_have_text(["JavaScript", "Practice course"])
    expect(shown.box("Lasagna")).to_be_checked()  # its module is still open


def test_without_courses_there_are_no_headings_and_no_further_calls(visit, courses, db):  # noqa: F811
    db.execute("update modules set course_id = null")
    shown = visit(body=EVERYTHING)
    expect(shown.course.get_by_role("heading")).to_have_count(0)
    expect(shown.lesson.get_by_role("progressbar")).to_have_count(2)
    made = Calls(shown.page)
    shown.becomes_visible()
    assert made.wait(1) == [f"GET {OUTLINE} 304"]


@pytest.mark.parametrize("body", [EVERYTHING, HEADER, "<course-progress></course-progress>"])
@pytest.mark.parametrize("has_courses", [True, False])
def test_a_page_is_one_call_with_the_names_of_its_courses(visit, courses, db, body, has_courses):  # noqa: F811
    if not has_courses:
        db.execute("update modules set course_id = null")
    shown = visit(body="")
    made = Calls(shown.page)
    navigate(shown, body)
    expect(shown.page.locator("[aria-busy], .loading")).to_have_count(0)
    assert made.wait(1) == [f"GET {OUTLINE} 200"]
    # So is what has changed elsewhere.
    db.execute("update courses set title = 'Another title'")
    complete(db, LASAGNA)
    shown.becomes_visible()
    assert made.wait(2)[1:] == [f"GET {OUTLINE} 200"]
    if has_courses:
        expect(shown.page.get_by_text("Another title").first).to_be_visible()


def test_a_lesson_that_another_course_keeps_locked_says_so_and_opens_with_it(visit, courses, db):  # noqa: F811
    require(db, CIPHER, HELLO)
    complete(db, LASAGNA, INFILTRATION)
    two = ONE + f'<course-progress course-id="{uuid4(PRACTICE)}"></course-progress>'
    shown = visit(body=two)
    first, second = shown.course.all()
    expect(first.locator(".locks li")).to_have_text("“Cipher” opens after a lesson that is not listed here")
    first.get_by_role("button", name=re.compile("^Booleans")).click()
    expect(first.locator(".lesson.locked .why")).to_have_text("Locked: complete a lesson that is not listed here first")
    expect(first.locator(".next")).to_have_text("Nothing more is open to you.")
    made = Calls(shown.page)
    second.locator(".continue").get_by_role("button").click()
    expect(first.locator(".next")).to_have_text("Cipher")
    expect(first.locator(".counts")).to_have_text("2 of 3 lessons")
    # A course that does not have the lesson may have changed with it, so it is read again.
    made.wait(3)
    assert made[0] == f"POST lessons/{uuid4(HELLO)} 200"
    # Taken back elsewhere, it locks again.
    db.execute("delete from progress where lesson_id = %s", [uuid4(HELLO)])
    shown.becomes_visible()
    expect(first.locator(".locks li")).to_have_text("“Cipher” opens after a lesson that is not listed here")


def test_a_course_that_is_not_loaded_any_more_does_not_keep_a_lesson_open(visit, courses, db):  # noqa: F811
    """What was known of another course is older than what the service says now."""
    require(db, CIPHER, HELLO)
    complete(db, LASAGNA, INFILTRATION, HELLO)
    shown = visit(body=ONE.replace(uuid4(JAVASCRIPT), uuid4(PRACTICE)))
    expect(shown.percent).to_have_text("50%")
    db.execute("delete from progress where lesson_id = %s", [uuid4(HELLO)])
    shown.page.evaluate(f"document.querySelector('course-progress').setAttribute('course-id', '{uuid4(JAVASCRIPT)}')")
    expect(shown.course.locator(".locks li")).to_have_text("“Cipher” opens after a lesson that is not listed here")
    expect(shown.course.locator(".overall .eyebrow")).to_have_text("JavaScript")


def test_a_course_that_is_not_the_learners_offers_it(visit, courses, db):  # noqa: F811
    db.execute("delete from subscriptions")
    give(db, PRACTICE)
    body = ONE.replace("></", '><a slot="no-access" href="/buy">Buy it</a></')
    shown = visit(body=body)
    expect(shown.course).to_contain_text("You have no access to this course.")
    expect(shown.page.get_by_role("link", name="Buy it")).to_be_visible()
    assert_axe_finds_nothing(shown.page)
    give(db, JAVASCRIPT)
    shown.becomes_visible()
    expect(shown.percent).to_have_text("0%")
    expect(shown.page.get_by_role("link", name="Buy it")).to_be_hidden()
    # A refund while the page is open.
    db.execute("delete from course_enrollments where course_id = %s", [uuid4(JAVASCRIPT)])
    shown.becomes_visible()
    expect(shown.course).to_contain_text("You have no access to this course.")
    shown.page.evaluate("document.querySelector('course-progress').setAttribute('course-id', 'x')")
    expect(shown.course).to_contain_text("Something went wrong")


def test_who_bought_one_course_is_offered_nothing_in_it_and_the_rest_of_another(visit, courses, db):  # noqa: F811
    db.execute("delete from subscriptions")
    db.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    db.execute("update lessons set is_free = id = %s", [uuid4(HELLO)])
    give(db, JAVASCRIPT)
    complete(db, LASAGNA, INFILTRATION, CIPHER, HELLO)
    pages = {
        ONE: "You have completed this course.",
        ONE.replace(uuid4(JAVASCRIPT), uuid4(PRACTICE)): "1 of 1 free lesson completed; full access opens the rest.",
        "<course-progress></course-progress>": "You have completed everything that is open to you.",
    }
    for body, words in pages.items():
        shown = visit(body=body.replace("></", f">{OFFER}</"))
        expect(shown.course.locator(".next")).to_have_text(words)
        expect(shown.page.get_by_role("link", name="Buy the course")).to_be_visible(visible="free" in words)
    db.execute(
        "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', now() + '1 month')",
        [LEARNER],
    )
    db.execute("insert into progress (user_id, lesson_id, completed_at) select %s, id, now() from lessons"
               " on conflict do nothing", [LEARNER])  # fmt: skip
    expect(visit(body="<course-progress></course-progress>").course.locator(".next")).to_have_text(
        "You have completed everything."
    )


def test_a_course_of_the_last_learner_is_forgotten_at_the_next_sign_in(visit, courses, db):  # noqa: F811
    complete(db, LASAGNA)
    add_user(db, uuid4(OTHER))
    shown = visit(body=ONE)
    expect(shown.percent).to_have_text("50%")
    name, _, value = cookie(uuid4(OTHER))["Cookie"].partition("=")
    shown.page.context.add_cookies(
        [{"name": name, "value": value, "url": shown.service, "httpOnly": True, "sameSite": "Lax"}]
    )
    # A click for the learner who is shown is not stored for the other one.
    shown.course.locator(".continue").get_by_role("button").click()
    expect(shown.notice).to_have_text("Your last change was not saved: the sign-in has changed.")
    expect(shown.percent).to_have_text("0%")
    assert db.execute("select count(*) from progress where user_id = %s", [uuid4(OTHER)]).fetchone() == (0,)
    db.execute("delete from subscriptions where user_id = %s", [uuid4(OTHER)])
    give(db, PRACTICE, uuid4(OTHER))
    shown.becomes_visible()
    expect(shown.course).to_contain_text("You have no access to this course.")
    expect(shown.course.locator(".module")).to_have_count(0)


def test_a_course_that_asks_while_another_writes_shows_what_is_newer(visit, courses):  # noqa: F811
    shown = visit(body=ONE + EVERYTHING)
    held = Held(shown.page, "/courses/")
    shown.becomes_visible()
    held.wait()
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.get_by_role("status")).to_contain_text("is completed")
    held.let_go()
    held.let_go()
    expect(shown.course.first.locator(".percent")).to_have_text("50%")
    expect(shown.course.last.locator(".percent")).to_have_text("20%")


def test_the_store_of_a_course_shares_the_changes(visit, courses):  # noqa: F811
    shown = visit(body="<course-progress></course-progress>")
    shown.page.evaluate(
        "async ([service, id]) => { const { storeOf } = await import(`${service}/progress-ui/progress-ui.js`);"
        " window.all = storeOf(); window.one = storeOf(undefined, id);"
        " window.same = storeOf(undefined, id.toUpperCase());"
        " window.called = 0; one.subscribe(() => called++); await one.refresh() }",
        [shown.service, uuid4(JAVASCRIPT)],
    )
    assert shown.page.evaluate("one === same && one !== all && called > 0")
    assert shown.page.evaluate("one.view.courses.map(({ title, percent }) => [title, percent])") == [["JavaScript", 0]]
    outcome = shown.page.evaluate(
        "async (id) => { const { answer, opened } = await one.want(id, true);"
        " return [answer.course.percent, opened.map(({ title }) => title)] }",
        uuid4(LASAGNA),
    )
    assert outcome == [50, ["Infiltration"]]
    assert shown.page.evaluate("[one.view.overall.percent, all.view.overall.percent]") == [50, 20]
    assert shown.page.evaluate("all.view.courses.map(({ percent }) => percent)") == [50, 0]
    expect(shown.percent).to_have_text("20%")


def test_a_store_without_listeners_can_be_read_and_changed(visit, courses):  # noqa: F811
    shown = visit(body="")
    views = shown.page.evaluate(
        "async ([service, course, lesson]) => {"
        " const { storeOf } = await import(`${service}/progress-ui/progress-ui.js`);"
        " const one = storeOf(undefined, course);"
        " const views = [one.view.status]; await one.refresh(); views.push(one.view.overall.totalCount);"
        " await one.want(lesson, true); views.push(one.view.overall.totalCount); return views }",
        [shown.service, uuid4(JAVASCRIPT), uuid4(LASAGNA)],
    )
    assert views == ["loading", 1, 2]


def test_with_count_all_the_locked_lessons_of_a_course_are_still_to_do(visit, courses):  # noqa: F811
    shown = visit(body=re.sub(r"(<\w+-progress)", r'\1 count="all"', HEADER + ONE))
    expect(shown.course.locator(".counts")).to_have_text("0 of 3 lessons")
    shown.lesson.get_by_role("button").click()
    expect(shown.percent).to_have_text("33%")
    assert numbers(shown) == ["100", "33", "16"]


def test_nothing_moves_while_a_lesson_of_a_course_loads(visit, courses, db):  # noqa: F811
    add_lesson(db, 1, 0x12, title="Second")
    shown = visit(body=HEADER.replace(" lesson-id", f' course-id="{uuid4(JAVASCRIPT)}" lesson-id'), wait=False)
    held = Held(shown.page, "/courses/")
    shown.page.reload()
    held.wait()
    meters = (
        "() => [...document.querySelector('lesson-progress').shadowRoot.querySelectorAll('.meter')]"
        ".map((node) => node.getBoundingClientRect().toJSON())"
    )
    before = shown.page.evaluate(meters)
    held.let_go()
    expect(shown.lesson.locator(".loading")).to_have_count(0)
    assert shown.page.evaluate(meters) == before
