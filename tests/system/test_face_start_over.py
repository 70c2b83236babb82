"""`<course-progress start-over>`: a learner starts a module over, after a question."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.system.conftest import OUTLINE, Calls, Held, assert_axe_finds_nothing, screenshot

# Fixtures are found by their names.
from tests.system.test_face import (  # noqa: F401
    BOTH,
    CIPHER,
    HELLO,
    INFILTRATION,
    LASAGNA,
    Shown,
    service,
    site,
    start,
    visit,
    world,
)
from tests.system.test_face_learners import OTHER, sign_in
from tests.system.test_face_site import heard, listen, use_store
from tests.world import add_user, complete, completions, uuid4

BODY = BOTH.replace("<course-progress", "<course-progress start-over")
BOOLEANS = "Booleans and strings"
QUESTION = f"Start “{BOOLEANS}” over? 2 completed lessons will count as not completed."


@pytest.fixture
def shown(visit, world, db) -> Shown:  # noqa: F811
    """Return a page of a learner who has completed three of five lessons, with an open module."""
    complete(db, LASAGNA, INFILTRATION, CIPHER)
    found: Shown = visit(body=BODY)
    found.open(BOOLEANS)
    return found


def opener(shown: Shown) -> Locator:
    return shown.course.get_by_role("button", name=f"Start over: {BOOLEANS}")


def dialog(shown: Shown) -> Locator:
    return shown.course.get_by_role("dialog")


def start_over(shown: Shown) -> None:
    opener(shown).click()
    dialog(shown).get_by_role("button", name="Start over").click()


def test_it_is_offered_only_if_the_page_asks_for_it(visit, world, db):  # noqa: F811
    complete(db, LASAGNA, INFILTRATION)
    for body in (BOTH, BODY.replace("start-over", 'start-over="false"')):
        shown = visit(body=body)
        shown.open(BOOLEANS)
        expect(opener(shown)).to_have_count(0)
    shown.page.evaluate("() => document.querySelector('course-progress').setAttribute('start-over', '')")
    expect(opener(shown)).to_be_visible()


def test_a_module_without_a_completed_lesson_has_nothing_to_start_over(shown):
    shown.open("Practice")
    expect(shown.course.get_by_role("button", name="Start over")).to_have_count(1)


def test_after_a_question_the_module_starts_over_and_the_numbers_are_those_of_the_answer(shown, db):
    listen(shown.page, "progress-start-over")
    assert_axe_finds_nothing(shown.page)
    opener(shown).click()
    expect(dialog(shown)).to_have_accessible_name(QUESTION)
    assert_axe_finds_nothing(shown.page)
    screenshot(shown.page, "start-over")
    made = Calls(shown.page)
    with shown.page.expect_response(re.compile("/modules/")) as deleted:
        dialog(shown).get_by_role("button", name="Start over").click()
    said = f"“{BOOLEANS}” starts over: 2 lessons are not completed any more."
    expect(shown.notice).to_have_text(said)
    expect(shown.course.get_by_role("status")).to_have_text(said)
    # The answer does not say what is locked now, so the page reads once more.
    assert made.wait(2) == [f"DELETE modules/{uuid4(2)} 200", f"GET {OUTLINE} 200"]
    expect(dialog(shown)).to_have_count(0)
    expect(opener(shown)).to_have_count(0)
    expect(shown.course.get_by_role("button", name=BOOLEANS).first).to_be_focused()
    answer = deleted.value.json()
    assert heard(shown.page) == [{"target": "course-progress", "detail": answer, "cancelable": False}]
    expect(shown.course.locator(".counts")).to_have_text("1 of 4 lessons")
    assert answer["overall"] == shown.api("summary")
    assert [row[1] for row in completions(db)] == [uuid4(LASAGNA)]
    expect(shown.box("Infiltration")).not_to_be_checked()
    expect(shown.box("Cipher")).to_have_attribute("aria-disabled", "true")


def test_who_cancels_loses_nothing_and_keeps_the_focus(shown, db):
    before = completions(db)
    made = Calls(shown.page)
    for cancel in ("Cancel", "Escape"):
        opener(shown).press("Enter")
        expect(dialog(shown).get_by_role("button", name="Cancel")).to_be_focused()  # the harmless one
        if cancel == "Escape":
            shown.page.keyboard.press("Escape")
        else:
            shown.page.keyboard.press("Enter")
        expect(dialog(shown)).to_have_count(0)
        expect(opener(shown)).to_be_focused()
    assert made.asked == []
    assert completions(db) == before


def test_a_change_that_was_made_before_comes_first(shown, db):
    held = Held(shown.page, "/lessons/")
    made = Calls(shown.page)
    shown.open("Practice")
    shown.box("Hello World").click()
    held.wait()
    shown.box("Infiltration").click()  # taken back
    start_over(shown)
    assert held.methods == ["POST"]
    held.let_go()
    held.let_go()
    expect(shown.notice).to_have_text(f"“{BOOLEANS}” starts over: 1 lesson is not completed any more.")
    assert [call.split("/")[0] for call in made[:3]] == ["POST lessons", "DELETE lessons", "DELETE modules"]
    assert {row[1] for row in completions(db)} == {uuid4(LASAGNA), uuid4(HELLO)}


def test_a_tick_meanwhile_waits_for_the_answer(shown, db):
    held = Held(shown.page, "/modules/")
    made = Calls(shown.page)
    start_over(shown)
    held.wait()
    shown.open("Practice")
    shown.box("Hello World").click()
    assert made.asked == [f"DELETE modules/{uuid4(2)}"]
    held.let_go()
    expect(shown.box("Hello World")).to_have_accessible_description(re.compile("Completed on"))
    assert {row[1] for row in completions(db)} == {uuid4(LASAGNA), uuid4(HELLO)}


REFUSED: dict[str, tuple[Any, str]] = {
    "offline": (
        lambda shown, db: shown.page.context.set_offline(True),
        "You are offline: try again when you have a connection.",
    ),
    "module_not_found": (
        lambda shown, db: db.execute("update lessons set published = false where module_id = %s", [uuid4(2)]),
        "You have no access to it.",
    ),
    "unauthenticated": (
        lambda shown, db: shown.page.context.clear_cookies(),
        "You are not signed in any more: sign in, then try again.",
    ),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_if_it_is_refused_it_says_why_and_does_not_wait(shown, db, change, words):
    before = completions(db)
    change(shown, db)
    start_over(shown)
    expect(shown.notice).to_have_text(f"“{BOOLEANS}” was not started over. {words}")
    shown.page.context.set_offline(False)
    shown.becomes_visible()
    expect(shown.course.locator(".loading")).to_have_count(0)
    assert completions(db) == before


def test_while_changes_wait_it_is_refused(shown, db):
    shown.page.context.set_offline(True)
    shown.box("Cipher").click()
    expect(shown.course.locator(".locked-count")).to_have_text("1 change waits to be saved")
    start_over(shown)
    expect(shown.notice).to_contain_text("was not started over. You are offline")


def test_one_too_many_is_a_countdown_and_a_tick_meanwhile_waits(visit, start, world, db):  # noqa: F811
    complete(db, LASAGNA, INFILTRATION)
    shown = visit(service=start(RATE_LIMIT_WRITES="1 per 3 seconds"), body=BODY)
    for module in (BOOLEANS, "Practice"):
        shown.open(module)
    shown.box("Cipher").click()
    expect(shown.notice).to_have_text("“Cipher” is completed.")
    made = Calls(shown.page)
    refused = re.compile(f"“{BOOLEANS}” was not started over. Too many changes: try again in [123] s.")
    for _ in range(2):
        start_over(shown)
        expect(shown.notice).to_have_text(refused)
    assert made.asked == [f"DELETE modules/{uuid4(2)}"]  # the second click knows it already
    expect(shown.notice).to_have_text("You can go on now.")
    start_over(shown)
    expect(shown.notice).to_have_text(f"“{BOOLEANS}” starts over: 2 lessons are not completed any more.")
    start_over_again = "async (id) => (await store.startOver(id)).code"
    use_store(shown)
    assert shown.page.evaluate(start_over_again, uuid4(2)) == "rate_limited"
    shown.box("Hello World").click()
    expect(shown.notice).to_contain_text("“Hello World” is waiting to be saved.")
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    assert {row[1] for row in completions(db)} == {uuid4(LASAGNA), uuid4(HELLO)}


def test_the_question_goes_with_its_learner(shown, db):
    add_user(db, OTHER)
    before = completions(db)
    opener(shown).click()
    sign_in(shown, OTHER)
    shown.becomes_visible()
    expect(dialog(shown)).to_have_count(0)
    assert completions(db) == before


def test_the_store_can_do_it_too(shown, db):
    use_store(shown)
    outcome = "async (id) => { const { startOver } = store; return startOver(id.toUpperCase()) }"
    assert shown.page.evaluate(outcome, uuid4(2))["answer"]["removedCount"] == 2
    assert shown.page.evaluate(outcome, uuid4(0xDEAD)) == {"code": "module_not_found", "seconds": 0}
    assert [row[1] for row in completions(db)] == [uuid4(LASAGNA)]
