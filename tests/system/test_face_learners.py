"""The components on a page that stays open while another learner signs in, as on sites with today's frameworks."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.system.conftest import OUTLINE, Calls, Held

# Fixtures are found by their names.
from tests.system.test_face import (  # noqa: F401
    BOTH,
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
from tests.world import LEARNER, add_user, complete, completions, cookie, token, uuid4

OTHER = uuid4(0xB0B)

OTHER_LEARNER = "Your last change was not saved: the sign-in has changed."

# All text in the components, hidden or not.
TEXT = (
    "() => [...document.querySelectorAll('course-progress, lesson-progress')].map(({ shadowRoot }) =>"
    " shadowRoot.textContent + [...shadowRoot.querySelectorAll('*')].flatMap((node) =>"
    " [...node.attributes].map(({ value }) => value)).join(' ')).join(' ')"
)


@pytest.fixture
def two_learners(world, db):  # noqa: F811
    """LEARNER has full access and has completed Lasagna. OTHER has free access, and only Hello World is free."""
    complete(db, LASAGNA)
    add_user(db, OTHER, access="free")
    db.execute("update lessons set is_free = id = %s", [uuid4(HELLO)])


def sign_in(shown: Shown, user_id: str | None) -> None:
    """Change the session of the browser, as another tab or a form of the site does. None signs out."""
    context = shown.page.context
    if user_id is None:
        context.clear_cookies()
    else:
        # The new cookie replaces the old one. To clear the old one before would let a call of the page go without any.
        name, _, value = cookie(user_id)["Cookie"].partition("=")
        context.add_cookies([{"name": name, "value": value, "url": shown.service, "httpOnly": True, "sameSite": "Lax"}])


def navigate(shown: Shown, body: str = BOTH) -> None:
    """Show the next page without loading a document, as a router does: put new elements into the same document."""
    # Make each element by itself: the page's policy forbids HTML made from text.
    elements = re.findall(r"<(\w+-\w+)(?: ([\w-]+)=\"([^\"]+)\")?>", body)
    shown.page.evaluate(
        "(elements) => { const main = document.querySelector('main'); main.replaceChildren();"
        " for (const [name, attribute, value] of elements) { const element = document.createElement(name);"
        " if (attribute) element.setAttribute(attribute, value); main.append(element) } }",
        elements,
    )


def refresh(shown: Shown) -> None:
    """Make the components read again, and wait until they show the answers."""
    shown.page.evaluate("() => document.querySelector('course-progress').refresh()")


def text_of(page: Page) -> str:
    return str(page.evaluate(TEXT))


def is_the_first_learners(shown: Shown) -> None:
    expect(shown.percent).to_have_text("25%")
    expect(shown.lesson).to_contain_text("Completed on")


def is_the_other_learners(shown: Shown, counts: str = "0 of 1 lesson") -> None:
    expect(shown.course.locator(".counts")).to_have_text(counts)
    expect(shown.course.locator(".modules-head")).to_contain_text(counts)
    text = text_of(shown.page)
    for word in ("Completed on", "Lasagna", "Infiltration", "25%"):
        assert word not in text, text


@pytest.fixture
def shown(visit, two_learners) -> Shown:  # noqa: F811
    """Return the page of the first learner, with an open module and a notice about a change."""
    found: Shown = visit()
    is_the_first_learners(found)
    found.open("Booleans")
    found.box("Infiltration").click()
    expect(found.notice).to_contain_text("“Infiltration” is completed.")
    found.box("Infiltration").click()
    expect(found.notice).to_have_text("“Infiltration” is not completed any more.")
    is_the_first_learners(found)
    return found


def test_the_next_learner_sees_their_own_progress_and_nothing_of_the_last_one(shown):
    sign_in(shown, OTHER)
    navigate(shown)
    is_the_other_learners(shown)
    sign_in(shown, LEARNER)
    navigate(shown)
    is_the_first_learners(shown)


def test_elements_that_stay_on_the_page_forget_the_last_learner_too(shown):
    sign_in(shown, OTHER)
    shown.becomes_visible()
    is_the_other_learners(shown)
    expect(shown.notice).to_have_count(0)
    expect(shown.course.locator(".module.expanded")).to_have_count(0)


def test_who_has_signed_out_sees_nothing_of_what_was_shown(shown):
    for see in (navigate, Shown.becomes_visible):
        sign_in(shown, None)
        see(shown)
        for element in (shown.course, shown.lesson):
            # Do not look at the text: the element may keep an earlier text, hidden.
            expect(element.locator("[part=instead]")).to_be_visible()
        text = text_of(shown.page)
        for word in ("Completed on", "Lasagna", "Infiltration", "25%", "Basics"):
            assert word not in text, text
        sign_in(shown, LEARNER)
        navigate(shown)
        is_the_first_learners(shown)


def test_an_element_that_appears_asks_again(shown, db):
    complete(db, HELLO)  # as a button of the site does
    made = Calls(shown.page)
    navigate(shown)
    expect(shown.percent).to_have_text("50%")
    # Both components have appeared, and together they read once.
    assert made.wait(1) == [f"GET {OUTLINE} 200"]
    navigate(shown)
    assert made.wait(2)[1:] == [f"GET {OUTLINE} 304"]


def test_an_answer_that_was_asked_for_before_is_not_waited_for_and_not_shown(shown):
    outline = Held(shown.page, r"/outline\?", answered=True)
    shown.becomes_visible()
    outline.wait()
    outline.let_pass()
    sign_in(shown, OTHER)
    navigate(shown)
    is_the_other_learners(shown)
    made = Calls(shown.page)
    # Only now the first read is answered. Its answer is about the first learner.
    shown.page.evaluate("window.changes = []")
    shown.page.evaluate(
        "() => new MutationObserver((list) => changes.push(list.length)).observe("
        "document.querySelector('course-progress').shadowRoot, { subtree: true, childList: true, attributes: true })"
    )
    outline.let_go()
    made.wait(1)
    is_the_other_learners(shown)
    assert shown.page.evaluate("changes") == []


def test_a_write_on_its_way_is_not_stored_as_another_learners(shown, db):
    before = completions(db)
    shown.open("Practice")
    held = Held(shown.page, "/lessons/")
    made = Calls(shown.page)
    shown.box("Hello World").click()
    held.wait()
    shown.box("Infiltration").click()  # this write waits for the first one
    sign_in(shown, OTHER)  # in another tab, so this page does not know it
    held.let_go()
    is_the_other_learners(shown)
    expect(shown.notice).to_have_text(OTHER_LEARNER)
    expect(shown.course.get_by_role("status")).to_have_text(OTHER_LEARNER)
    assert made.asked == [f"POST lessons/{uuid4(HELLO)}", f"GET {OUTLINE}"]
    assert made[0] == f"POST lessons/{uuid4(HELLO)} 412"
    assert completions(db) == before
    # Now the page is the other learner's, and a change of theirs is stored for them.
    shown.page.unroute_all()
    shown.course.locator(".continue").get_by_role("button").click()
    expect(shown.notice).to_have_text("“Hello World” is completed.")
    assert [row[:2] for row in completions(db)] == [(OTHER, uuid4(HELLO)), (LEARNER, uuid4(LASAGNA))]


def test_the_next_learner_does_not_wait_for_the_last_ones_write(shown, db):
    before = completions(db)
    held = Held(shown.page, "/lessons/")
    shown.box("Infiltration").click()
    held.wait()
    shown.lesson.get_by_role("button").click()
    sign_in(shown, OTHER)
    navigate(shown)
    is_the_other_learners(shown)
    made = Calls(shown.page)
    held.let_go()
    made.wait(1)
    # The write that was sent names its learner, so it is refused. The write that waited is never sent.
    assert made == [f"POST lessons/{uuid4(INFILTRATION)} 412"]
    is_the_other_learners(shown)
    assert completions(db) == before


def test_a_next_learner_without_access_is_told_nothing_of_the_last_ones_change(shown, db):
    db.execute("delete from enrollments")
    held = Held(shown.page, "/lessons/")
    shown.box("Infiltration").click()
    held.wait()
    sign_in(shown, OTHER)
    shown.becomes_visible()
    expect(shown.course).to_contain_text("You have no access to these lessons.")
    expect(shown.notice).to_have_text(OTHER_LEARNER)
    assert "Infiltration" not in text_of(shown.page)
    held.let_go()


def test_a_session_that_changes_between_two_questions_is_one_learners(shown, db):
    """The outline is about one learner, and the access about another one. Then the page reads both again."""
    complete(db, HELLO, user_id=OTHER)  # nothing is left to do, so the page asks for the access
    access = Held(shown.page, "/access$")
    sign_in(shown, OTHER)
    navigate(shown)
    access.wait()
    access.let_pass()
    sign_in(shown, LEARNER)
    access.let_go()
    is_the_first_learners(shown)
    expect(shown.course.locator(".next")).to_have_text("Infiltration")


def test_a_click_before_the_answer_is_the_click_of_who_was_shown(shown, db):
    before = completions(db)
    outline = Held(shown.page, r"/outline\?")
    sign_in(shown, OTHER)
    made = Calls(shown.page)
    navigate(shown)
    outline.wait()
    shown.lesson.get_by_role("button").click()  # "Mark as not completed", while the page still shows the first learner
    made.wait(1)  # the write, which is refused and makes the page ask again
    outline.let_go()
    outline.let_go()
    is_the_other_learners(shown)
    assert completions(db) == before


def test_a_session_that_ends_gives_up_every_change(shown, db):
    before = completions(db)
    shown.open("Practice")
    held = Held(shown.page, "/lessons/")
    shown.box("Hello World").click()
    held.wait()
    shown.box("Infiltration").click()
    sign_in(shown, None)
    held.let_go()
    for element in (shown.course, shown.lesson):
        expect(element).to_contain_text("You are not signed in.")
    expect(shown.notice).to_contain_text("was not saved. You are not signed in any more: sign in, then try again.")
    assert held.methods == ["POST"]
    assert completions(db) == before


def test_two_learners_who_have_done_the_same_are_told_apart(visit, world, db):  # noqa: F811
    add_user(db, OTHER)
    shown = visit()
    sign_in(shown, OTHER)
    made = Calls(shown.page)
    refresh(shown)
    assert made == [f"GET {OUTLINE} 304"]
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is completed.")
    assert [row[:2] for row in completions(db)] == [(OTHER, uuid4(LASAGNA))]


def without_tag(route: Route) -> None:
    answer = route.fetch()
    headers = {name: value for name, value in answer.headers.items() if name != "learner-tag"}
    route.fulfill(response=answer, headers=headers)


def test_without_a_tag_nothing_is_sent(visit, world, db):  # noqa: F811
    """A proxy may remove the header, or an old release may not send it. Then nobody can tell whose session it is."""
    shown = visit(body="")
    shown.page.route(re.compile(r"/outline\?"), without_tag)
    navigate(shown)
    expect(shown.percent).to_have_text("0%")
    made = Calls(shown.page)
    shown.lesson.get_by_role("button").click()
    expect(shown.page.locator("lesson-progress .notice p")).to_have_text(
        "“Lasagna” was not saved. Something went wrong, and it was not your fault: try again."
    )
    made.wait(1)
    assert made.asked == [f"GET {OUTLINE}"]
    shown.page.unroute_all(behavior="wait")
    refresh(shown)
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is completed.")


# A token, and a later token of the same learner.
def tokens(user_id: str = LEARNER) -> tuple[str, str]:
    return token(user_id), token(user_id, jti="renewed")


SET = {
    "a text": "(token) => document.querySelector('course-progress').token = token",
    # With React, a page sets a new function at each render.
    "a function": "(token) => document.querySelector('course-progress').token = () => token",
    "a promise": "(token) => document.querySelector('course-progress').token = async () => token",
}


@pytest.mark.parametrize("kind", SET)
def test_a_renewed_token_of_the_same_learner_changes_nothing(visit, two_learners, db, kind):  # noqa: F811
    first, renewed = tokens()
    shown: Shown = visit(session={})
    shown.page.evaluate(SET[kind], first)
    is_the_first_learners(shown)
    shown.open("Practice")
    sent: list[Any] = []
    shown.page.on("request", lambda request: sent.append(request.headers.get("authorization")))
    held = Held(shown.page, "/lessons/")
    made = Calls(shown.page)
    shown.page.evaluate(
        "() => { window.loading = 0; new MutationObserver(() => loading += 1 *"
        " (document.querySelector('course-progress').shadowRoot.querySelector('.loading') !== null))"
        ".observe(document.querySelector('course-progress').shadowRoot, { subtree: true, attributes: true }) }"
    )
    shown.box("Hello World").click()
    held.wait()
    shown.lesson.get_by_role("button").click()
    for _ in range(3):
        shown.page.evaluate(SET[kind], first)
    # The store handles a new token in the next task, so wait for that.
    shown.page.evaluate("() => new Promise((done) => setTimeout(() => setTimeout(done)))")
    assert [call for call in made.asked if call.startswith("GET")] == []
    shown.page.evaluate(SET[kind], renewed)
    held.let_go()
    held.let_go()
    expect(shown.lesson.get_by_role("button")).to_have_text("Mark as completed")
    expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is not completed any more.")
    expect(shown.course.locator(".module.expanded")).to_have_count(1)
    assert shown.page.evaluate("loading") == 0
    assert [row[:2] for row in completions(db)] == [(LEARNER, uuid4(HELLO))]
    assert sent[-1] == f"Bearer {renewed}"


@pytest.mark.parametrize("kind", SET)
def test_a_token_of_another_learner_is_told_by_the_answers(visit, two_learners, db, kind):  # noqa: F811
    before = completions(db)
    shown: Shown = visit(session={})
    shown.page.evaluate(SET[kind], token())
    is_the_first_learners(shown)
    held = Held(shown.page, "/lessons/")
    shown.lesson.get_by_role("button").click()
    held.wait()
    shown.course.locator(".continue").get_by_role("button").click()
    shown.page.evaluate(SET[kind], token(OTHER))
    is_the_other_learners(shown)
    # The write that was sent had the first learner's token, so it is stored for the first learner.
    made = Calls(shown.page)
    held.let_go()
    made.wait(1)
    assert made == [f"DELETE lessons/{uuid4(LASAGNA)} 200"]
    is_the_other_learners(shown)
    assert completions(db) == before[1:]
    shown.page.evaluate("() => document.querySelector('course-progress').token = null")
    expect(shown.course).to_contain_text("You are not signed in.")


def test_a_question_does_not_wait_for_the_answer_to_an_earlier_one(visit, world, db):  # noqa: F811
    shown = visit()
    outline = Held(shown.page, r"/outline\?", answered=True)
    shown.page.evaluate("() => { window.first = document.querySelector('course-progress').refresh() }")
    outline.wait()
    outline.let_pass()
    complete(db, HELLO)
    shown.page.evaluate("() => document.querySelector('course-progress').refresh()")
    expect(shown.percent).to_have_text("33%")
    outline.let_go()
    shown.page.evaluate("() => window.first")
    expect(shown.percent).to_have_text("33%")


def test_reset_while_an_answer_is_awaited_forgets_it(shown):
    outline = Held(shown.page, r"/outline\?", answered=True)
    shown.page.evaluate("() => { window.first = document.querySelector('course-progress').refresh() }")
    outline.wait()
    outline.let_pass()
    sign_in(shown, OTHER)
    shown.page.evaluate("() => document.querySelector('course-progress').reset()")
    is_the_other_learners(shown)
    outline.let_go()
    shown.page.evaluate("() => window.first")
    is_the_other_learners(shown)


def test_what_became_of_a_change_is_not_told_by_an_element_that_has_left(shown):
    held = Held(shown.page, "/lessons/")
    shown.lesson.get_by_role("button").click()
    held.wait()
    shown.page.evaluate("() => { window.left = document.querySelector('main'); left.remove() }")
    made = Calls(shown.page)
    shown.page.evaluate("() => document.body.append(document.createElement('main'))")
    sign_in(shown, OTHER)
    held.let_go()
    made.wait(1)
    navigate(shown)
    is_the_other_learners(shown)
    shown.page.evaluate("() => { document.querySelector('main').replaceWith(left) }")
    is_the_other_learners(shown)
    expect(shown.notice).to_have_count(0)


FAILING = {
    "unreachable": lambda route: route.abort(),
    "503": lambda route: route.fulfill(
        status=503,
        headers={"Access-Control-Allow-Origin": route.request.headers["origin"], "Retry-After": "2"}
        | {"Access-Control-Allow-Credentials": "true", "Content-Type": "application/problem+json"},
        body='{"code": "unavailable"}',
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_while_the_service_is_away_the_page_shows_what_it_knows(visit, two_learners, db, kind):  # noqa: F811
    shown = visit()
    is_the_first_learners(shown)
    shown.page.route(re.compile(r"/outline\?"), FAILING[kind])
    complete(db, HELLO, at="2026-01-03T00:00:00Z")
    shown.page.evaluate("() => document.querySelector('course-progress').refresh()")
    is_the_first_learners(shown)
    expect(shown.course.locator(".instead")).to_be_hidden()
    shown.page.unroute_all()
    shown.becomes_visible()
    expect(shown.percent).to_have_text("50%")
