"""What a site's own script can use of the components: events, links for its router, properties, and the store."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

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
    Shown,
    service,
    site,
    start,
    visit,
    world,
)
from tests.world import LEARNER, complete, token, uuid4

NOT_FOUND = uuid4(0xDEAD)


def listen(page: Page, name: str) -> None:
    """Record each event of this name that reaches the document."""
    page.evaluate(
        "(name) => { window.heard ??= []; document.addEventListener(name, (event) =>"
        " heard.push({ target: event.target.localName, detail: event.detail, cancelable: event.cancelable })) }",
        name,
    )


def heard(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("heard")
    return found


def use_store(shown: Shown) -> None:
    """Make the store available to the page's own script, as `window.store`."""
    shown.page.evaluate(
        "async (service) => { window.store = (await import(`${service}/progress-ui/progress-ui.js`)).storeOf() }",
        shown.service,
    )


def test_a_stored_change_is_one_event_with_the_answer(visit, world):  # noqa: F811
    shown = visit()
    listen(shown.page, "progress-change")
    with shown.page.expect_response(re.compile("/lessons/")) as posted:
        shown.lesson.get_by_role("button").click()
    expect(shown.lesson.get_by_role("status")).to_contain_text("is completed")
    assert heard(shown.page) == [{"target": "lesson-progress", "detail": posted.value.json(), "cancelable": False}]
    with shown.page.expect_response(re.compile("/lessons/")) as posted:
        shown.course.locator(".continue").get_by_role("button").click()
    expect(shown.notice).to_contain_text("“Infiltration” is completed.")
    assert heard(shown.page)[1:] == [{"target": "course-progress", "detail": posted.value.json(), "cancelable": False}]


def test_a_change_that_is_not_stored_is_no_event(visit, world, db):  # noqa: F811
    shown = visit()
    listen(shown.page, "progress-change")
    db.execute("insert into lesson_prerequisites values (%s, %s)", [uuid4(HELLO), uuid4(LASAGNA)])
    shown.open("Practice")
    shown.box("Hello World").click()
    expect(shown.notice).to_contain_text("was not saved")
    assert heard(shown.page) == []


def test_each_of_two_writes_of_a_lesson_is_an_event(visit, world):  # noqa: F811
    shown = visit()
    listen(shown.page, "progress-change")
    shown.open("Practice")
    held = Held(shown.page, "/lessons/")
    shown.box("Hello World").click()
    held.wait()
    shown.box("Hello World").press("Space")  # before the first write is answered
    held.let_go()
    held.let_go()
    expect(shown.notice).to_have_text("“Hello World” is not completed any more.")
    assert [event["detail"]["completed"] for event in heard(shown.page)] == [True, False]


def test_a_router_may_take_a_link(visit, world):  # noqa: F811
    shown = visit(body='<course-progress lesson-href="/learn/{lessonId}"></course-progress>')
    page = shown.page
    listen(page, "progress-navigate")
    page.evaluate("() => document.addEventListener('progress-navigate', (event) => event.preventDefault())")
    before = page.url
    link = shown.course.locator(".continue").get_by_role("link", name="Lasagna")
    link.click()
    # The card now shows another lesson, and its link leads there.
    shown.course.locator(".continue").get_by_role("button").click()
    expect(shown.notice).to_be_visible()
    shown.course.locator(".continue").get_by_role("link", name="Infiltration").press("Enter")
    assert page.url == before
    assert heard(page) == [
        {
            "target": "course-progress",
            "detail": {"lessonId": uuid4(number), "href": f"/learn/{uuid4(number)}"},
            "cancelable": True,
        }
        for number in (LASAGNA, INFILTRATION)
    ]
    with page.context.expect_page() as opened:  # the router must not prevent that the browser opens a tab
        shown.course.get_by_role("link").first.click(modifiers=["Control"])
    opened.value.close()
    assert len(heard(page)) == 2


def test_a_link_that_no_router_takes_is_followed(visit, world, site):  # noqa: F811
    site.pages[f"/learn/{uuid4(LASAGNA)}"] = "<title>The lesson</title>"
    shown = visit(body='<course-progress lesson-href="/learn/{lessonId}"></course-progress>')
    shown.course.locator(".continue").get_by_role("link").click()
    expect(shown.page).to_have_title("The lesson")


def test_links_may_come_from_a_function(visit, world):  # noqa: F811
    shown = visit(body='<course-progress lesson-href="/learn/{lessonId}"></course-progress>')
    link = shown.course.locator(".continue").get_by_role("link")
    hrefs = {
        "() => ({ title, module }) => `/${module.title}/${title}`": "/Basics/Lasagna",
        "() => () => null": None,
        "() => () => 'javascript:alert(1)'": None,
        "() => () => 'http://['": None,
        "() => null": f"/learn/{uuid4(LASAGNA)}",
    }
    for function, href in hrefs.items():
        shown.page.evaluate(f"() => {{ document.querySelector('course-progress').href = ({function})() }}")
        if href:
            expect(link).to_have_attribute("href", href)
        else:
            expect(link).to_have_count(0)


def test_a_property_that_is_written_as_an_attribute_is_warned_of(visit, browser, world):  # noqa: F811
    secret = token()
    names = "token", "labels", "href"
    with browser.new_context() as context:
        said: list[str] = []
        context.on("console", lambda message: said.append(message.text))
        sent: list[dict[str, str]] = []
        context.on("request", lambda request: sent.append(request.headers))
        attributes = f'token="{secret}" labels="[object Object]" href="/lessons"'
        shown = visit(body=f"<course-progress {attributes}></course-progress>", session={}, context=context, wait=False)
        expect(shown.course).to_contain_text("You are not signed in.")
        said = [text for text in said if "status of 401" not in text]
        assert [re.sub(r"property \.\w+\.", "", text)[:62] for text in said] == [
            f'<course-progress>: the attribute "{name}" has no effect. Set the '[:62] for name in names
        ]
        assert "Everybody who sees the page's HTML can read the attribute." in said[0]
        assert not any(secret in text for text in said)
        assert not any("authorization" in headers for headers in sent)


def test_with_count_all_locked_lessons_are_still_to_do_and_a_mark_never_lowers_the_percent(visit, world):  # noqa: F811
    shown = visit(body=re.sub(r"(<\w+-progress)", r'\1 count="all"', BOTH))
    expect(shown.course.locator(".counts")).to_have_text("0 of 5 lessons")
    expect(shown.course.locator(".modules-head")).to_contain_text("0% · 0 of 5 lessons")
    expect(shown.bar("Booleans and strings")).to_have_attribute("aria-valuetext", "0%, 0 of 2 lessons")
    continues = shown.course.locator(".continue").get_by_role("button")
    for percent in (20, 40, 60, 80, 100):
        continues.click()
        expect(shown.percent).to_have_text(f"{percent}%")
        expect(shown.course.get_by_role("status")).to_contain_text(f"Overall: {percent}%.")
        expect(shown.lesson.locator("[part=overall-percent]")).to_have_text(f"{percent}%")
        if percent == 40:
            # Infiltration is completed, and Cipher is not.
            expect(shown.bar("Booleans and strings")).to_have_attribute("aria-valuetext", "50%, 1 of 2 lessons")
            expect(shown.course.locator(".number").nth(1)).to_have_text("1/2")
    expect(shown.course.locator(".next")).to_have_text("You have completed everything.")
    shown.page.evaluate("() => document.querySelector('course-progress').removeAttribute('count')")
    expect(shown.course.locator(".counts")).to_have_text("5 of 5 lessons")


def test_by_default_the_first_of_two_lessons_that_follow_one_another_is_half(visit, world, db):  # noqa: F811
    db.execute("update lessons set published = module_id = %s", [uuid4(2)])
    both = "<course-progress></course-progress><course-progress count='all'></course-progress>"
    shown = visit(body=both, wait=False)
    expect(shown.course.locator(".counts")).to_have_text(["0 of 1 lesson", "0 of 2 lessons"])


OFFER = '<a slot="offer" href="/buy">Get full access</a>'
FREE = "3 of 3 free lessons completed; full access opens the rest."


@pytest.fixture
def free(world, db):  # noqa: F811
    """Make a learner with free access, who has one of three free lessons left."""
    db.execute("delete from subscriptions")
    db.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    db.execute("update lessons set is_free = id = any(%s)", [[uuid4(LASAGNA), uuid4(INFILTRATION), uuid4(HELLO)]])
    complete(db, LASAGNA, INFILTRATION)


def test_a_learner_who_completed_every_free_lesson_is_offered_the_rest(visit, free, db):  # noqa: F811
    shown = visit(body=f"<course-progress>{OFFER}</course-progress>")
    offer = shown.page.get_by_role("link", name="Get full access")
    expect(offer).to_be_hidden()
    made = Calls(shown.page)
    shown.course.locator(".continue").get_by_role("button").click()
    expect(shown.course.locator(".next")).to_have_text(FREE)
    expect(offer).to_be_visible()
    assert made.wait(3) == [f"POST lessons/{uuid4(HELLO)} 200", f"GET {OUTLINE} 200", "GET access 200"]
    screenshot(shown.page, "offer")
    assert_axe_finds_nothing(shown.page)
    shown.page.reload()
    expect(shown.course.locator(".next")).to_have_text(FREE)
    # The learner buys full access.
    db.execute(
        "insert into subscriptions (user_id, stripe_subscription_id, status, current_period_end)"
        " values (%s, 'sub_1', 'active', now() + interval '1 day')",
        [LEARNER],
    )
    shown.becomes_visible()
    expect(offer).to_be_hidden()
    expect(shown.percent).to_have_text("60%")
    expect(shown.course.locator(".next")).not_to_contain_text("free")


def test_free_lessons_that_only_full_access_unlocks_are_offered_too(visit, free, db):  # noqa: F811
    db.execute("update lessons set is_free = id = any(%s)", [[uuid4(HELLO), uuid4(INFILTRATION)]])
    db.execute("delete from progress")
    complete(db, HELLO)
    shown = visit(body=f"<course-progress>{OFFER}</course-progress>")
    expect(shown.course.locator(".next")).to_have_text("1 of 1 free lesson completed; full access opens the rest.")
    expect(shown.course.locator(".locks")).to_contain_text("1 lesson is locked")
    expect(shown.page.get_by_role("link", name="Get full access")).to_be_visible()


def test_what_the_learner_may_do_is_asked_only_when_no_lesson_is_left(visit, world, db):  # noqa: F811
    made: list[str] = []
    shown = visit(body="", wait=False)
    shown.page.on("request", lambda request: made.append(request.url.rpartition("/")[2]))
    add = "() => document.querySelector('main').append(document.createElement('course-progress'))"
    shown.page.evaluate(add)
    expect(shown.percent).to_have_text("0%")
    assert made == [OUTLINE]
    complete(db, LASAGNA, INFILTRATION, CIPHER, HELLO, LONG)
    shown.becomes_visible()
    expect(shown.course.locator(".next")).to_have_text("You have completed everything.")
    assert made == [OUTLINE, OUTLINE, "access"]


def test_if_access_cannot_be_read_the_rest_is_shown(visit, free, db):  # noqa: F811
    complete(db, HELLO)
    shown = visit(body="")
    shown.page.route(re.compile("/access$"), lambda route: route.abort())
    shown.page.evaluate("() => document.querySelector('main').append(document.createElement('course-progress'))")
    expect(shown.percent).to_have_text("100%")
    expect(shown.course.locator(".next")).to_have_text("You have completed everything.")


@pytest.mark.parametrize("width", [320, 420, 560, 800, 1000])
def test_the_offer_has_room(visit, free, db, width):  # noqa: F811
    complete(db, HELLO)
    shown = visit(
        body=f"<course-progress>{OFFER}</course-progress>",
        viewport={"width": width, "height": 700},
        color_scheme="dark",
    )
    expect(shown.course.locator(".next")).to_have_text(FREE)
    screenshot(shown.page, f"offer-{width}")
    # No line of the sentence is cut off, and the offer is inside of its card.
    assert shown.course.locator(".next").evaluate("(node) => node.scrollHeight - node.clientHeight") <= 1
    card = shown.course.locator(".continue").bounding_box()
    offer = shown.page.get_by_role("link", name="Get full access").bounding_box()
    assert card
    assert offer
    assert card["y"] < offer["y"]
    assert offer["y"] + offer["height"] < card["y"] + card["height"]
    assert offer["x"] + offer["width"] < card["x"] + card["width"]


def test_the_store_is_the_one_that_the_components_use(visit, world):  # noqa: F811
    shown = visit()
    use_store(shown)
    outcome = shown.page.evaluate(
        "async (id) => { const { answer, opened } = await store.want(id.toUpperCase(), true);"
        " const { percent } = store.view.overall;"
        " return [answer.lessonId, answer.overall.percent, opened.map(({ title }) => title), percent] }",
        uuid4(LASAGNA),
    )
    assert outcome == [uuid4(LASAGNA), 25, ["Infiltration"], 25]
    expect(shown.percent).to_have_text("25%")
    expect(shown.lesson).to_contain_text("Completed on")
    # The functions of the store work without `this`.
    nothing = "async (id) => { const { want } = store; return want(id, true) }"
    assert shown.page.evaluate(nothing, uuid4(LASAGNA)) == {}


def test_a_change_that_the_store_cannot_make_says_why(visit, world):  # noqa: F811
    shown = visit()
    use_store(shown)
    want = "async (id) => { const { code, prerequisites } = await store.want(id, true); return [code, prerequisites] }"
    assert shown.page.evaluate(want, uuid4(CIPHER)) == ["lesson_locked", [uuid4(LASAGNA), uuid4(INFILTRATION)]]
    assert shown.page.evaluate(want, NOT_FOUND)[0] == "lesson_not_found"
    out = visit(session={})
    use_store(out)
    assert out.page.evaluate(want, uuid4(LASAGNA))[0] == "unauthenticated"
    # The store has no answer yet.
    early = visit(body="", wait=False)
    use_store(early)
    assert early.page.evaluate(want, uuid4(LASAGNA))[0] == "loading"


def test_the_view_is_the_same_object_until_something_changes(visit, world, db):  # noqa: F811
    shown = visit()
    use_store(shown)
    made = Calls(shown.page)
    shown.page.evaluate(
        "() => { window.called = 0; window.before = store.view; store.subscribe(() => called++) }",
    )
    made.wait(1)  # a subscription makes the store read
    shown.page.evaluate("() => store.refresh()")
    assert shown.page.evaluate("[called, store.view === before]") == [0, True]
    complete(db, HELLO)
    shown.page.evaluate("() => store.refresh()")
    assert shown.page.evaluate("[called, store.view === before, store.view.overall.percent]") == [1, False, 33]


def test_a_listener_that_subscribes_anew_at_each_change_comes_to_an_end(visit, world):  # noqa: F811
    """A component does this if it gives React a new function at each render."""
    shown = visit(body="")
    use_store(shown)
    made = Calls(shown.page)
    shown.page.evaluate(
        "() => { const again = () => { window.stop?.(); window.stop = store.subscribe(again) }; again() }"
    )
    # One read for the first subscription, and one for the subscription after its answer.
    made.wait(2)
    # A third read, which is the page's own, changes nothing, so no listener is called.
    shown.page.evaluate("() => store.refresh()")
    assert made.asked == [f"GET {OUTLINE}"] * 3


def test_a_listener_that_fails_or_stops_leaves_the_others_alone(visit, browser, world):  # noqa: F811
    with browser.new_context() as context:
        said: list[str] = []
        context.on("weberror", lambda error: said.append(str(error.error)))
        shown = visit(context=context)
        use_store(shown)
        shown.page.evaluate(
            "() => { window.called = 0; const count = () => called++;"
            " store.subscribe(() => { throw new Error('the site’s own fault') });"
            " const stop = store.subscribe(count); store.subscribe(count); stop() }"
        )
        shown.page.evaluate("(id) => store.want(id, true)", uuid4(LASAGNA))
        expect(shown.percent).to_have_text("25%")
        shown.lesson.get_by_role("button").click()
        expect(shown.percent).to_have_text("0%")
        expect(shown.lesson.get_by_role("status")).to_contain_text("is not completed any more")
        assert shown.page.evaluate("called") == len(said) > 0
        assert {text.splitlines()[0] for text in said} == {"the site’s own fault"}


def test_a_second_copy_of_the_script_has_the_same_stores(visit, world):  # noqa: F811
    shown = visit()
    assert shown.page.evaluate(
        "async (service) => { const [one, two] = await Promise.all(['', '?v=2'].map((query) =>"
        " import(`${service}/progress-ui/progress-ui.js${query}`))); return one.storeOf() === two.storeOf() }",
        shown.service,
    )


def test_a_link_and_a_function_of_the_page_store_the_export_as_a_file(visit, world, service, db):  # noqa: F811
    complete(db, LASAGNA)
    shown = visit()
    function = block("js", "downloadMyProgress").replace("https://progress.example.org", service)
    with shown.page.expect_download() as by_function:
        shown.page.evaluate(f"(token) => {{ {function} return downloadMyProgress(token) }}", token())
    # The link needs a page of the service's own origin, as behind a proxy or with the rewrites of Next.js.
    html = f"<!doctype html><title>Account</title>{block('html', 'download=')}"
    shown.page.route("**/account", lambda route: route.fulfill(body=html, content_type="text/html"))
    shown.page.goto(f"{service}/account")
    with shown.page.expect_download() as by_link:
        shown.page.get_by_role("link").click()
    for download in (by_function.value, by_link.value):
        assert download.suggested_filename == "my-progress.json"
        document = json.loads(download.path().read_text("utf-8"))
        assert (document["userId"], document["lessons"][0]["lessonId"]) == (LEARNER, uuid4(LASAGNA))
