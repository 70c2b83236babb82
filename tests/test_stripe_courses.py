"""Selling courses with Stripe: a buyer has the courses that are paid for, in whatever order the events come."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import psycopg
import pytest
from flask.testing import FlaskClient
from hypothesis import strategies as st
from psycopg.rows import dict_row

from app.demo.courses import JAVASCRIPT
from app.demo.learners import NONE
from app.stripe import mirror
from app.stripe.events import read_payment
from app.tasks import learners
from tests.conftest import ROOT
from tests.test_cli import run as cli
from tests.test_stripe import (
    DAY,
    NEW,
    SECRET,
    T0,
    PlayedStripe,
    apply_settings,
    copied,
    deliver,
    event,
    outcome,
    post,  # noqa: F401
    refused,
    service,  # noqa: F401
    stamp,
    subscription,
    sync,  # noqa: F401
    thin,
)
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    add_course,
    add_module,
    add_user,
    assert_problem,
    bearer,
    completions,
    get,
    give_course,
    impatient,
    mark,
    ok,
    uuid4,
)

A, B, C = uuid4(0xA), uuid4(0xB), uuid4(0xC)  # C is not loaded
PAID, DONE = "pi_1", "checkout.session.completed"
WAITS = "a course that metadata.courseId names is not loaded"


def session(
    courses: Any = A,
    user_id: Any = LEARNER,
    payment: str | None = PAID,
    name: str = "cs_test_1",
    status: str = "paid",
    **more: Any,
) -> dict[str, Any]:
    """A completed Checkout Session of mode payment, by a guest, who has no customer at Stripe."""
    return {
        "id": name,
        "object": "checkout.session",
        "client_reference_id": user_id,
        "created": T0,
        "customer": None,
        "metadata": {} if courses is None else {"courseId": courses},
        "mode": "payment",
        "payment_intent": payment,
        "payment_status": status,
        "status": "complete",
        "subscription": None,
        **more,
    }


def bought(*arguments: Any, at: int = T0, what: str = DONE, **more: Any) -> dict[str, Any]:
    return event(what, session(*arguments, **more), at)


def charge(payment: str | None = PAID, refunded: int = 4900) -> dict[str, Any]:
    return {
        "id": f"ch_{payment}",
        "object": "charge",
        "amount": 4900,
        "amount_refunded": refunded,
        "payment_intent": payment,
        "refunded": refunded == 4900,
    }


def refund(payment: str | None = PAID, refunded: int = 4900, at: int = T0 + 60) -> dict[str, Any]:
    return event("charge.refunded", charge(payment, refunded), at)


def refund_became(status: str, payment: str = PAID, at: int = T0 + 90) -> dict[str, Any]:
    document = {"id": "re_1", "object": "refund", "amount": 4900, "payment_intent": payment, "status": status}
    return event("refund.failed" if status == "failed" else "refund.updated", document, at)


def dispute(status: str = "lost", payment: str | None = PAID, name: str = "du_1") -> dict[str, Any]:
    return {"id": name, "object": "dispute", "charge": "ch_1", "payment_intent": payment, "status": status}


def closed(status: str = "lost", payment: str | None = PAID, at: int = T0 + 120) -> dict[str, Any]:
    return event("charge.dispute.closed", dispute(status, payment), at)


@pytest.fixture
def api(make_api: Callable[..., FlaskClient]) -> FlaskClient:
    return make_api(STRIPE_WEBHOOK_SECRET=SECRET, SUBSCRIPTION_GRACE="0")


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    """Two courses of one and two lessons, and a lesson of no course."""
    add_module(db, 1, 0x11)
    add_module(db, 2, 0x21, 0x22)
    add_module(db, 3, 0x31)
    add_course(db, 0xA, 1)
    add_course(db, 0xB, 2)
    return db


@pytest.fixture
def buyer(world: psycopg.Connection) -> str:
    return add_user(world, access=None)


def given(db: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Every row of course_enrollments: learner, course, source, seconds of its end since T0."""
    return db.execute(
        "select user_id::text, course_id::text, source, extract(epoch from expires_at)::bigint - %s"
        " from course_enrollments order by 1, 2, 3",
        [T0],
    ).fetchall()


def answer(api: FlaskClient, document: Any) -> Any:
    return deliver(api, document).json


def lessons(api: FlaskClient, user_id: str = LEARNER) -> int:
    """How many lessons a learner may take."""
    count: int = get(api, "summary", user_id)["totalCount"]
    return count


# What a payment gives


@pytest.mark.parametrize(
    ("what", "status", "gives"),
    [
        (DONE, "paid", True),
        (DONE, "no_payment_required", True),
        (DONE, "unpaid", False),
        (DONE, None, False),
        ("checkout.session.async_payment_succeeded", "paid", True),
    ],
)
def test_a_paid_session_gives_its_course_for_ever(api, world, buyer, what, status, gives):
    assert answer(api, bought(what=what, status=status)) == {"outcome": "applied" if gives else "ignored"}
    assert given(world) == ([(LEARNER, A, PAID, None)] if gives else [])
    if gives:
        assert lessons(api) == 1
        assert ok(mark(api, 0x11))["overall"] == {"percent": 100, "completedCount": 1, "totalCount": 1}
        assert_problem(mark(api, 0x21), "lesson_not_available")


def test_a_payment_that_takes_days_gives_the_course_when_it_is_paid(api, world, buyer):
    assert outcome(api, bought(status="unpaid")) == "ignored"
    assert given(world) == []
    assert outcome(api, bought(what="checkout.session.async_payment_failed", status="unpaid", at=T0 + 1)) == "ignored"
    assert outcome(api, bought(what="checkout.session.async_payment_succeeded", at=T0 + DAY)) == "applied"
    assert given(world) == [(LEARNER, A, PAID, None)]


def test_without_a_payment_the_session_is_the_source(api, world, buyer):
    assert outcome(api, bought(payment=None, status="no_payment_required")) == "applied"
    assert given(world) == [(LEARNER, A, "cs_test_1", None)]


@pytest.mark.parametrize("more", [{"courses": None}, {"courses": ""}, {"courses": " , "}, {"mode": "setup"}])
def test_a_session_that_sells_no_course_is_left_alone(api, world, buyer, more):
    assert outcome(api, bought(**more)) == "ignored"
    assert world.execute("select count(*) from stripe_payments").fetchone() == (0,)


def test_a_bundle_gives_each_of_its_courses(api, world, buyer):
    assert answer(api, bought(f" {B.upper()},{A} ,,{A}")) == {"outcome": "applied"}
    assert given(world) == [(LEARNER, A, PAID, None), (LEARNER, B, PAID, None)]
    assert lessons(api) == 3
    outcome(api, refund())
    assert given(world) == []


MALFORMED = "metadata.courseId has an id that is not a UUID of version 4"


@pytest.mark.parametrize("odd", ["javascript", "{" + A + "}", A.replace("-4000-", "-1000-"), "\0", 7, [A], True])
def test_an_id_that_can_be_no_course_is_malformed(api, world, buyer, odd):
    assert answer(api, bought(odd)) == {"outcome": "malformed", "reason": MALFORMED}
    assert given(world) == []


def test_of_a_bundle_with_a_malformed_id_the_other_courses_are_given(api, world, buyer):
    assert answer(api, bought(f"{A},javascript")) == {"outcome": "malformed", "reason": MALFORMED}
    assert given(world) == [(LEARNER, A, PAID, None)]


@pytest.mark.parametrize(
    ("user_id", "reason"),
    [(None, "the Checkout Session has no client_reference_id"), ("7", "the user id is not a UUID")],
)
def test_a_payment_that_names_no_learner_is_unattached_and_says_why(api, world, buyer, caplog, user_id, reason):
    document = bought(user_id=user_id)
    with caplog.at_level("INFO", "progress.requests"):
        assert answer(api, document) == {"outcome": "unattached", "reason": reason}
    (fields,) = (record.__dict__["fields"]["stripe"] for record in caplog.records)
    assert fields == {"event": document["id"], "type": DONE, "outcome": "unattached", "reason": reason}
    assert given(world) == []


@pytest.mark.parametrize(
    "document",
    [
        event(DONE, session() | {"id": None}),
        event(DONE, session(payment=7)),  # type: ignore[arg-type]
        event("charge.refunded", charge() | {"refunded": None}),
        event("charge.refunded", charge() | {"payment_intent": {}}),
        event("charge.refunded", charge(), created="now"),  # type: ignore[arg-type]
        event("charge.refunded", []),  # type: ignore[arg-type]
        event("refund.updated", {"payment_intent": PAID}),
        event("charge.dispute.closed", dispute() | {"status": 7}),
    ],
    ids=range(8),
)
def test_what_is_not_as_described_changes_nothing(api, world, buyer, document):
    assert outcome(api, document) == "malformed"
    for table in ("stripe_payments", "stripe_reversals"):
        assert world.execute(f"select count(*) from {table}").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["charge.refunded", "checkout.session.async_payment_succeeded", "refund.failed"])
def test_a_thin_event_of_a_payment_says_why_it_is_malformed(api, world, kind):
    reason = "a thin event: choose the payload style Snapshot for this endpoint at Stripe"
    assert answer(api, thin(f"v1.{kind}")) == {"outcome": "malformed", "reason": reason}


# What ends it


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("document", "said", "ends"),
    [
        (refund(), "applied", True),
        (refund(refunded=1), "ignored", False),
        (refund(None), "ignored", False),
        (refund("pi_2"), "applied", False),
        (closed(), "applied", True),
        (closed(payment="pi_2"), "applied", False),
        *((closed(status), "ignored", False) for status in ("won", "warning_closed", "prevented")),
        (refund_became("pending"), "ignored", False),
        (refund_became("succeeded"), "ignored", False),
        (refund_became("failed"), "applied", False),
        (event("charge.dispute.created", dispute("needs_response")), "ignored", False),
    ],
    ids=range(13),
)
def test_a_full_refund_ends_a_course_and_so_does_a_lost_dispute_also_if_they_come_first(
    api, world, buyer, document, said, ends, first
):
    for each in (document, bought()) if first else (bought(), document):
        assert outcome(api, each) == (said if each is document else "applied")
    assert given(world) == ([] if ends else [(LEARNER, A, PAID, None)])


def test_the_events_of_the_demo_sell_its_javascript_course_and_refund_it(api, world):
    none = add_user(world, NONE, access=None)
    world.execute("insert into courses values (%s, '', 1)", [JAVASCRIPT])
    for name, count in (("course_paid", 1), ("course_refunded", 0)):
        assert outcome(api, json.loads((ROOT / f"app/demo/stripe/{name}.json").read_text())) == "applied"
        rows = world.execute("select user_id::text, course_id::text from course_enrollments").fetchall()
        assert rows == [(none, JAVASCRIPT)] * count


def test_the_end_of_a_course_leaves_every_completion(api, world, buyer):
    outcome(api, bought())
    ok(mark(api, 0x11))
    before = completions(world)
    outcome(api, refund())
    assert_problem(api.get("/api/progress/summary", headers=bearer()), "not_enrolled")
    outcome(api, bought(payment="pi_2", name="cs_2"))
    assert get(api, "summary")["percent"] == 100
    assert completions(world) == before


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_refund_that_failed_gives_the_course_back_in_every_order(api, world, buyer, status):
    again = refund(at=T0 + 200)
    for events, ends in (
        ([bought(), refund(), refund_became(status)], False),
        ([bought(), refund(), refund_became(status, at=T0 + 60)], False),
        ([bought(), refund(), refund_became(status), again], True),
        ([bought(), refund(), refund_became(status), closed()], True),
    ):
        for order in itertools.permutations(events):
            forget(world)
            for document in order:
                outcome(api, document)
            assert given(world) == ([] if ends else [(LEARNER, A, PAID, None)]), order


def test_of_two_payments_for_one_course_the_refund_of_one_leaves_the_other(api, world, buyer):
    outcome(api, bought())
    outcome(api, bought(payment="pi_2", name="cs_2"))
    outcome(api, refund())
    assert given(world) == [(LEARNER, A, "pi_2", None)]
    assert lessons(api) == 1


def test_a_refund_takes_only_what_this_payment_gave(api, world, buyer):
    """By hand, by the site's own shop, to another learner whom somebody paid for."""
    add_user(world, FREE_LEARNER, access=None)
    give_course(world, 0xA)
    give_course(world, 0xA, source="shop-77", until="2099-01-01")
    outcome(api, bought())
    outcome(api, bought(payment="pi_2", name="cs_2", user_id=FREE_LEARNER))
    for document in (refund(), closed(), refund(), bought()):
        outcome(api, document)
    assert [row[:3] for row in given(world)] == [
        (FREE_LEARNER, A, "pi_2"),
        *((LEARNER, A, source) for source in ("", "shop-77")),
    ]


def forget(db: psycopg.Connection) -> None:
    """As if Stripe had never said anything."""
    for table in ("payments", "reversals", "subscriptions", "checkouts", "customers"):
        db.execute(f"delete from stripe_{table}")
    db.execute("delete from course_enrollments where source != ''; delete from subscriptions")


# In which order the events come

LEARNERS = [LEARNER, FREE_LEARNER]
PAYMENTS = ["pi_1", "pi_2", "pi_3"]


@st.composite
def event_sets(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """Some events of three payments and a subscription, and which courses follow from them."""
    events: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    for number, payment in enumerate(PAYMENTS):
        learner, courses = draw(st.sampled_from(LEARNERS)), draw(st.sampled_from([[A], [B], [A, B], [A, C]]))
        named = [",".join(courses), learner, payment, f"cs_{number}"]
        kinds = ["unpaid", "paid", "partial", "full", "failed", "lost", "won"]
        at = {kind: T0 + draw(st.integers(0, 3)) for kind in kinds}
        made = {
            "unpaid": bought(*named, at=at["unpaid"], status="unpaid"),
            "paid": bought(*named, at=at["paid"]),
            "partial": refund(payment, 100, at["partial"]),
            "full": refund(payment, at=at["full"]),
            "failed": refund_became("failed", payment, at["failed"]),
            "lost": closed("lost", payment, at["lost"]),
            "won": closed("won", payment, at["won"]),
        }
        drawn = draw(st.sets(st.sampled_from(kinds), max_size=6))
        events += [made[kind] for kind in kinds if kind in drawn]
        refunded = "full" in drawn and ("failed" not in drawn or at["full"] > at["failed"])
        if "paid" in drawn and not refunded and "lost" not in drawn:
            rows += [(learner, course, payment, None) for course in courses if course != C]
    states = [
        event("updated", subscription(status, metadata={"userId": LEARNER, "courseId": f"{B},{C}"}), T0 + second)
        for second, status in enumerate(draw(st.lists(st.sampled_from(["active", "past_due", "canceled"]), max_size=3)))
    ]
    final = next((state for state in states if state["data"]["object"]["status"] == "canceled"), None)
    if states and not final and states[-1]["data"]["object"]["status"] == "active":
        rows.append((LEARNER, B, NEW, 30 * DAY))
    return events + states, sorted(rows)


def test_the_courses_depend_on_the_set_of_the_events_and_not_on_their_order(api, world, buyer):
    add_user(world, FREE_LEARNER, access=None)
    give_course(world, 0xB, FREE_LEARNER)

    @hypothesis.settings(max_examples=80)
    @hypothesis.given(event_sets(), st.randoms(use_true_random=False))
    def hold(drawn: Any, random: Any) -> None:
        events, rows = drawn
        for _ in range(2):
            forget(world)
            random.shuffle(events)
            for document in [*events, *random.sample(events, min(2, len(events)))]:
                assert outcome(api, document) in ("applied", "stale", "ignored", "unattached")
            assert given(world) == sorted([*rows, (FREE_LEARNER, B, "", None)])
            assert copied(world) is None

    hold()


def test_all_orders_of_a_purchase_with_a_duplicate_end_without_the_course(api, world, buyer):
    life = [
        bought(status="unpaid"),
        bought(what="checkout.session.async_payment_succeeded", at=T0 + 10),
        refund(refunded=100, at=T0 + 20),
        refund(at=T0 + 30),
    ]
    for number, order in enumerate(itertools.permutations(life)):
        forget(world)
        for document in [*order, order[number % 4]]:
            outcome(api, document)
        assert given(world) == [], order


def test_of_two_events_of_one_session_the_newer_says_which_courses(api, world, buyer):
    """Somebody corrected the metadata at Stripe."""
    events = [bought(C), bought(A, at=T0 + 1), bought(B, user_id=FREE_LEARNER, at=T0 + 1)]
    add_user(world, FREE_LEARNER, access=None)
    for order in itertools.permutations(events):
        forget(world)
        for document in order:
            outcome(api, document)
        assert given(world) == [(LEARNER, A, PAID, None)], order


# What waits


def test_what_was_paid_for_a_course_that_is_not_loaded_is_given_when_it_is(api, world, buyer):
    assert answer(api, bought(f"{A},{C}")) == {"outcome": "unattached", "reason": WAITS}
    assert given(world) == [(LEARNER, A, PAID, None)]
    add_course(world, 0xC)
    assert answer(api, bought(f"{A},{C}")) == {"outcome": "applied"}
    assert given(world) == [(LEARNER, A, PAID, None), (LEARNER, C, PAID, None)]


@pytest.mark.parametrize(
    "next_event",
    [
        bought(B, payment="pi_2", name="cs_2"),
        event("created", subscription("past_due")),
        refund(refunded=1) | {"type": "x"},
    ],
)
def test_what_waits_is_given_with_the_next_event_of_the_learner(api, world, next_event):
    assert answer(api, bought()) == {"outcome": "unattached", "reason": "the learner is not in users"}
    add_user(world, access=None)  # by the site
    assert given(world) == []
    ignored = outcome(api, next_event) == "ignored"
    assert ((LEARNER, A, PAID, None) in given(world)) is not ignored


def test_make_add_user_gives_what_waits(api, world, database_url):
    outcome(api, bought())
    outcome(api, bought(B, payment="pi_2", name="cs_2"))
    outcome(api, refund("pi_2"))
    assert cli(database_url, "add-user", LEARNER)[0] == 0
    assert given(world) == [(LEARNER, A, PAID, None)]


@pytest.mark.parametrize("setting", ["add", "add-free"])
def test_new_learners_gives_what_waits_in_the_first_call(api, make_api, world, setting):
    outcome(api, bought())
    assert lessons(make_api(NEW_LEARNERS=setting)) == 1
    assert given(world) == [(LEARNER, A, PAID, None)]


def test_with_new_learners_a_payment_adds_its_learner_if_it_gives_access(make_api, world):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, NEW_LEARNERS="add")
    outcome(api, refund("pi_2"))
    for document in (bought(C, payment="pi_3", name="cs_3"), bought(payment="pi_2", name="cs_2")):
        assert outcome(api, document) == "unattached"
        assert world.execute("select count(*) from users").fetchone() == (0,)
    assert outcome(api, bought()) == "applied"
    assert given(world) == [(LEARNER, A, PAID, None)]
    owners = world.execute("select distinct user_id::text from stripe_payments").fetchall()
    assert owners == [(LEARNER,)]


def test_make_load_catalog_gives_what_waits(api, world, buyer, database_url, tmp_path):
    outcome(api, bought(C))
    outcome(api, bought(C, payment="pi_2", name="cs_2", user_id=FREE_LEARNER))
    outcome(api, event("created", course_subscription(courses=C)))
    add_user(world, FREE_LEARNER, access=None)  # by the site
    file = tmp_path / "catalog.json"
    file.write_text(json.dumps({"courses": [{"id": C, "title": "Course", "modules": []}]}))
    assert cli(database_url, "load-catalog", str(file), DRY_RUN="1", PARTIAL="1")[0] == 0
    assert given(world) == []
    assert cli(database_url, "load-catalog", str(file), PARTIAL="1", SUBSCRIPTION_GRACE="0")[0] == 0
    assert given(world) == [
        (FREE_LEARNER, C, "pi_2", None),
        (LEARNER, C, PAID, None),
        (LEARNER, C, NEW, 30 * DAY),
    ]


def test_with_a_learner_all_that_stripe_said_of_them_goes(api, world, buyer):
    outcome(api, bought())
    world.execute("delete from users")
    assert world.execute("select count(*) from stripe_payments").fetchone() == (0,)


# Subscriptions to a course


def course_subscription(status: str = "active", courses: str = A, **more: Any) -> dict[str, Any]:
    return subscription(status, metadata={"userId": LEARNER, "courseId": courses}, **more)


@pytest.mark.parametrize(
    ("status", "gives"), [("active", True), ("trialing", True), ("past_due", False), ("canceled", False)]
)
def test_a_subscription_that_names_a_course_gives_it_and_no_full_access(make_api, world, buyer, status, gives):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, SUBSCRIPTION_GRACE="2 days", STRIPE_PRICES="price_other")
    assert outcome(api, event("updated", course_subscription(status))) == "applied"
    assert given(world) == ([(LEARNER, A, NEW, 32 * DAY)] if gives else [])
    assert copied(world) is None
    if gives:
        assert lessons(api) == 1


def test_a_course_of_a_subscription_follows_its_events(api, world, buyer):
    changes = [
        (course_subscription("incomplete"), []),
        (course_subscription(), [(A, 30)]),
        (course_subscription(end=T0 + 60 * DAY), [(A, 60)]),
        (course_subscription(courses=f"{A},{B}", end=T0 + 60 * DAY), [(A, 60), (B, 60)]),
        (course_subscription("past_due", end=T0 + 60 * DAY), []),
        (course_subscription(courses=B, end=None), []),
        (course_subscription(courses=B, end=T0 + 90 * DAY), [(B, 90)]),
        (subscription(end=T0 + 90 * DAY), []),
        (course_subscription("canceled", end=T0 + 90 * DAY), []),
    ]
    for second, (state, courses) in enumerate(changes):
        assert outcome(api, event("updated", state, T0 + second)) == "applied"
        assert given(world) == [(LEARNER, course, NEW, days * DAY) for course, days in courses]
        # The last but one names no course, and gives full access.
        assert copied(world) == ((NEW, "active", T0 + 90 * DAY) if second == 7 else None)


def test_a_subscription_that_changes_hands_takes_its_course_along(api, world, buyer):
    add_user(world, FREE_LEARNER, access=None)
    outcome(api, event("created", course_subscription()))
    moved = subscription(metadata={"userId": FREE_LEARNER, "courseId": A})
    assert outcome(api, event("updated", moved, T0 + 1)) == "applied"
    assert given(world) == [(FREE_LEARNER, A, NEW, 30 * DAY)]


@pytest.mark.parametrize(
    ("courses", "said", "gives"),
    [
        (C, {"outcome": "unattached", "reason": WAITS}, False),
        ("javascript", {"outcome": "malformed", "reason": MALFORMED}, False),
        (f"javascript, {A}", {"outcome": "malformed", "reason": MALFORMED}, True),
    ],
)
def test_a_subscription_that_names_an_odd_course_gives_no_full_access(api, world, buyer, courses, said, gives):
    assert answer(api, event("created", course_subscription(courses=courses))) == said
    assert given(world) == ([(LEARNER, A, NEW, 30 * DAY)] if gives else [])
    assert copied(world) is None


def test_a_changed_grace_holds_for_courses_from_the_next_start_on(api, environ, world, buyer):
    outcome(api, event("created", course_subscription()))
    outcome(api, bought(B))
    for days in (2, 0):
        apply_settings(environ, SUBSCRIPTION_GRACE=f"{days} days")
        assert given(world) == [(LEARNER, A, NEW, (30 + days) * DAY), (LEARNER, B, PAID, None)]
    rows = "select xmin, ctid, * from course_enrollments"
    before = world.execute(rows).fetchall()
    apply_settings(environ, SUBSCRIPTION_GRACE="0")
    assert world.execute(rows).fetchall() == before


def test_a_start_reads_the_courses_of_what_an_earlier_version_stored(api, environ, world, buyer):
    outcome(api, event("created", course_subscription()))
    # An earlier version knew no courses, and gave full access.
    world.execute(
        "delete from course_enrollments;"
        " update stripe_subscriptions set items = json_build_object('event', event_id, 'ends', items -> 'ends');"
        " insert into subscriptions"
        " (user_id, stripe_subscription_id, status, created_at, current_period_end, mirrored_period_end)"
        " select user_id, stripe_subscription_id, status, now(), current_period_end, current_period_end"
        " from stripe_subscriptions"
    )
    assert copied(world) is not None
    apply_settings(environ, SUBSCRIPTION_GRACE="0")
    assert (copied(world), given(world)) == (None, [(LEARNER, A, NEW, 30 * DAY)])


# Faults, and two events at one moment


def test_under_row_level_security_an_event_is_sent_again_and_takes_nothing(api, world, buyer):
    outcome(api, bought())
    world.execute("alter table users enable row level security")
    try:
        for document in (refund(), bought()):
            refused(deliver(api, document), "unavailable", 503)
    finally:
        world.execute("alter table users disable row level security")
    assert given(world) == [(LEARNER, A, PAID, None)]
    assert outcome(api, refund()) == "applied"
    assert given(world) == []


def test_a_learner_who_is_deleted_at_the_moment_of_a_payment_is_unknown(api, world, buyer, database_url):
    answers: list[Any] = []
    with psycopg.connect(database_url) as other:
        other.execute("delete from users")
        thread = threading.Thread(target=lambda: answers.append(outcome(api, bought())))
        thread.start()
        while not world.execute("select from pg_locks where not granted").rowcount:
            assert thread.is_alive()
    thread.join()
    assert answers == ["unattached"]


def test_a_payment_and_its_refund_at_one_moment_end_without_the_course(post, world, buyer):  # noqa: F811
    for _ in range(15):
        forget(world)
        assert post(bought(), refund(), bought(B, payment="pi_2", name="cs_2")) == ["applied"] * 3
        assert given(world) == [(LEARNER, B, "pi_2", None)]


TERMS = mirror.AccessTerms(0, ())


def test_a_payment_and_the_task_that_adds_its_learner_wait_for_each_other(api, world, database_url):
    """Neither sees what the other has not committed. Without the lock, the course would wait for another event."""

    def while_held(work: Callable[[psycopg.Connection], Any], other: Callable[[], Any]) -> None:
        thread = threading.Thread(target=other)
        with raw(database_url) as connection, connection.transaction():
            work(connection)
            thread.start()
            while not world.execute("select from pg_locks where not granted").rowcount:
                assert thread.is_alive()
        thread.join()

    def task(connection: psycopg.Connection) -> None:
        learners.add_user(connection, LEARNER, None, None, TERMS)

    def store(connection: psycopg.Connection) -> None:
        payment = read_payment(bought(), None)
        assert payment
        mirror.store_payment(connection, payment, TERMS)

    while_held(task, lambda: outcome(api, bought()))
    assert given(world) == [(LEARNER, A, PAID, None)]
    world.execute("delete from users")
    while_held(store, lambda: cli(database_url, "add-user", LEARNER))
    assert given(world) == [(LEARNER, A, PAID, None)]


def test_a_payment_or_refund_that_comes_while_courses_are_given_waits(api, world, buyer, database_url):
    """Otherwise the event would not see the new course, and the task would not see the event."""
    outcome(api, bought(C))
    for document, gives in ((bought(C, payment="pi_2", name="cs_2"), True), (refund("pi_2"), False)):
        thread = threading.Thread(target=outcome, args=[api, document])
        with raw(database_url) as connection, connection.transaction():
            if gives:
                connection.execute(f"insert into courses values ('{C}', 'Course', 1)".encode())
            mirror.give_waiting_courses(connection, TERMS)
            thread.start()
            while not world.execute("select from pg_locks where not granted").rowcount:
                assert thread.is_alive()
        thread.join()
        assert given(world) == [(LEARNER, C, PAID, None), *[(LEARNER, C, "pi_2", None)] * gives]


def raw(database_url: str) -> Any:
    options: dict[str, Any] = {"autocommit": True, "cursor_factory": psycopg.RawCursor, "row_factory": dict_row}
    return psycopg.connect(database_url, **options)


def test_while_the_database_is_busy_stripe_is_told_to_try_again(make_api, world, buyer, database_url):
    api = impatient(make_api(STRIPE_WEBHOOK_SECRET=SECRET, WEB_THREADS="1"))
    with psycopg.connect(database_url) as other:
        other.execute("lock table stripe_payments in access exclusive mode")
        refused(deliver(api, bought()), "unavailable", 503)
    assert outcome(api, bought()) == "applied"
    assert given(world) == [(LEARNER, A, PAID, None)]


# make stripe-sync


def listed(*arguments: Any, refunded: int = 0, **more: Any) -> dict[str, Any]:
    """A session as Stripe lists it, with the charge of its payment."""
    document = session(*arguments, **more)
    payment = document["payment_intent"]
    if payment:
        latest = charge(payment, refunded)
        document["payment_intent"] = {"id": payment, "object": "payment_intent", "latest_charge": latest}
    return document


def test_a_sync_reads_what_was_paid_and_paid_back(api, world, buyer, sync):  # noqa: F811
    outcome(api, bought(payment="pi_2", name="cs_2"))  # refunded since
    outcome(api, bought(B, payment="pi_4", name="cs_4"))  # lost in a dispute since
    outcome(api, refund("pi_5", at=1_700_000_000))  # which failed since
    outcome(api, bought(B, payment="pi_5", name="cs_5"))
    sessions = [
        listed(f"{A},{B}", payment="pi_1", name="cs_1"),
        listed(payment="pi_2", name="cs_2", refunded=4900),
        listed(payment="pi_3", name="cs_3", refunded=4900),
        listed(B, payment="pi_4", name="cs_4"),
        listed(B, payment="pi_5", name="cs_5"),
        listed(payment=None, name="cs_6", status="no_payment_required"),
        listed(C, payment="pi_7", name="cs_7", refunded=100),
        listed(payment="pi_8", name="cs_8", user_id=FREE_LEARNER),
        listed(None, payment="pi_9", name="cs_9"),
        listed(payment="pi_10", name="cs_10", mode="subscription"),
        listed(payment="pi_11", name="cs_11", status="unpaid"),
        listed("javascript", payment="pi_12", name="cs_12"),
        listed(payment="p" * 300, name="cs_13"),
    ]
    disputes = [
        dispute("won", "pi_1", "du_1"),
        dispute("lost", "pi_4", "du_2"),
        dispute("lost", None, "du_3"),
        dispute(name="du_4") | {"status": None},
    ]
    code, said = sync(sessions=sessions, disputes=disputes)
    assert (code, said) == (
        0,
        [
            "fetched 0 in all",
            f"pi_1: unknown -> {A}, {B}, {LEARNER}",
            f"pi_2: {A}, {LEARNER} -> no course, {LEARNER}",
            f"pi_3: unknown -> no course, {LEARNER}",
            f"pi_5: no course, {LEARNER} -> {B}, {LEARNER}",
            f"cs_6: unknown -> {A}, {LEARNER}",
            f"pi_7: unknown -> no course, {LEARNER}: {WAITS}",
            "pi_8: unknown -> no course, of no known learner: the learner is not in users",
            f"pi_12: unknown -> unknown: {MALFORMED}",
            "cs_13: not stored, because it has no payment_intent",
            f"pi_4: {B}, {LEARNER} -> no course, {LEARNER}",
            "du_4: not stored, because it has no status",
            "fetched 9 payments for courses",
        ],
    )
    rows = [
        (LEARNER, A, "cs_6", None),
        (LEARNER, A, "pi_1", None),
        (LEARNER, B, "pi_1", None),
        (LEARNER, B, "pi_5", None),
    ]
    assert given(world) == rows
    # A page is one trip: no payment costs a trip of its own.
    assert PlayedStripe.asked == ["/v1/subscriptions", *["/v1/checkout/sessions"] * 7, *["/v1/disputes"] * 2]
    again = sync(sessions=sessions, disputes=disputes)[1]
    assert [line for line in again if "->" in line and "unknown" not in line and WAITS not in line] == [
        "pi_8: no course, of no known learner -> no course, of no known learner: the learner is not in users"
    ]
    assert given(world) == rows


def test_a_refund_that_came_after_what_was_fetched_holds(api, world, buyer, sync):  # noqa: F811
    outcome(api, refund(at=int(time.time()) + 100))
    sync(sessions=[listed()])
    assert given(world) == []


def test_a_sync_gives_what_waits_for_a_course_or_a_learner(api, world, sync):  # noqa: F811
    outcome(api, bought())
    add_user(world, access=None)
    sync()
    assert given(world) == [(LEARNER, A, PAID, None)]


def test_without_courses_a_sync_reads_no_payments(db, sync):  # noqa: F811
    assert sync(sessions=[listed()]) == (0, ["fetched 0 in all"])
    assert PlayedStripe.asked == ["/v1/subscriptions"]


def test_with_new_learners_a_sync_adds_who_paid(world, sync):  # noqa: F811
    sync(
        sessions=[listed(), listed(payment="pi_2", name="cs_2", user_id=FREE_LEARNER, refunded=4900)],
        NEW_LEARNERS="add",
    )
    assert given(world) == [(LEARNER, A, PAID, None)]
    assert world.execute("select id::text from users").fetchall() == [(LEARNER,)]


def test_a_key_that_may_not_read_payments_is_told_so(world, sync, monkeypatch):  # noqa: F811
    get_list = PlayedStripe.do_GET

    def refuse(self: Any) -> None:
        if "sessions" in self.path:
            message = "The provided key does not have the required permissions (rak_checkout_session_read)"
            self._answer(403, {"error": {"type": "invalid_request_error", "message": message}})
        else:
            get_list(self)

    monkeypatch.setattr(PlayedStripe, "do_GET", refuse)
    code, said = sync()
    assert code == 1
    assert said[-1].startswith("Error: Stripe: ")
    assert "rak_checkout_session_read" in said[-1]


# make access


def told(database_url: str) -> list[str]:
    _, out, err = cli(database_url, "access", LEARNER)
    return [line for line in (out + err).splitlines() if line.startswith("Stripe said")]


def test_access_tells_what_stripe_says_of_every_payment(api, world, database_url):
    outcome(api, bought(f"{A},{C}"))
    outcome(api, bought(B, payment="pi_2", name="cs_2", at=T0 + 1))
    outcome(api, bought(user_id=FREE_LEARNER, payment="pi_3", name="cs_3"))
    outcome(api, refund("pi_2"))
    add_user(world, access=None)
    waits = "; counts after the learner's next event or make stripe-sync"
    lines = [
        f"Stripe said last, at {stamp(T0 + 1)}: pi_2 paid for {B}; it was refunded or lost in a dispute",
        f"Stripe said last, at {stamp(T0)}: pi_1 paid for {A}, {C}; not loaded yet: {C}",
    ]
    assert told(database_url) == [line + waits for line in lines]
    outcome(api, bought(f"{A},{C}"))
    assert told(database_url) == lines
