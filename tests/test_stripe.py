"""Stripe's webhook and its mirror: in whatever order events arrive, the right people have access."""

import copy
import functools
import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit

import hypothesis
import psycopg
import pytest
import stripe
from flask.testing import FlaskClient
from hypothesis import strategies as st
from psycopg.rows import dict_row

from app.database import statements
from app.database.connection import connect_options
from app.service import service_of
from app.settings import from_environ
from app.stripe import mirror
from app.stripe.events import SUBSCRIPTION_EVENTS, read_subscription
from tests.conftest import ROOT, SERVICE, Gunicorn, grant, running_gunicorn
from tests.test_cli import run as cli
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    STRANGER,
    add_module,
    add_user,
    assert_problem,
    bearer,
    completions,
    get,
    impatient,
    mark,
    ok,
    uuid4,
)

WEBHOOK = "/api/stripe/webhook"
SECRET = "whsec_of_the_tests"
EARLIER_SECRET = "whsec_from_before_the_rotation"
CUSTOMER = "cus_QXg1o8vEkE0"
OLD, NEW = "sub_1PgcOldA", "sub_1PgcNewB"
T0 = 1_900_000_000  # 2030-03-17: a period that ends a day later is still running
DAY = 86400
SHAPES = ["2024-06-20", "2025-03-31.basil"]


def subscription(
    status: str = "active",
    name: str = NEW,
    end: int | None = T0 + 30 * DAY,
    version: str = SHAPES[1],
    metadata: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a subscription as a version of Stripe's API has it. Since basil, the items have the end of the period."""
    basil = version == SHAPES[1]
    items = [
        {
            "id": f"si_{number}",
            "object": "subscription_item",
            **({"current_period_end": None if end is None else end - number * DAY} if basil else {}),
            "price": {"id": "price_1", "object": "price", "recurring": {"interval": "month"}, "unit_amount": 1900},
            "quantity": 1,
            "subscription": name,
        }
        for number in range(2)
    ]
    return {
        "id": name,
        "object": "subscription",
        "cancel_at_period_end": False,
        "customer": CUSTOMER,
        **({} if basil else {"current_period_end": end, "current_period_start": T0}),
        "default_payment_method": None,
        "items": {"object": "list", "data": items, "has_more": False, "url": "/v1/subscription_items"},
        "metadata": {"userId": LEARNER} if metadata is None else metadata,
        "pause_collection": None,
        "status": status,
        **more,
    }


NUMBERS = itertools.count(99_999, -1)


def event(
    what: str, document: dict[str, Any], created: int = T0, previous: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    kind = what if "." in what else f"customer.subscription.{what}"
    data: dict[str, Any] = {"object": copy.deepcopy(document)}
    if previous is not None:
        data["previous_attributes"] = previous
    return {
        # A later event gets a smaller id, so that the order of the ids cannot tell which event came first.
        "id": f"evt_{next(NUMBERS):05}",
        "object": "event",
        "created": created,
        "data": data,
        "livemode": False,
        "type": kind,
        **more,
    }


def checkout(
    user_id: Any = LEARNER,
    created: int = T0,
    customer: str | None = CUSTOMER,
    *,
    session: str = "cs_test_a1",
    subscription: str | None = NEW,
    mode: str = "subscription",
    event_created: int = T0,
) -> dict[str, Any]:
    """Return the event of a completed Checkout Session. `created` is the time of the session, not of the event."""
    document = {
        "id": session,
        "object": "checkout.session",
        "client_reference_id": user_id,
        "created": created,
        "customer": customer,
        "mode": mode,
        "payment_status": "paid",
        "subscription": subscription,
    }
    return event("checkout.session.completed", document, event_created)


def signed(payload: str, secret: str = SECRET, at: int | None = None) -> dict[str, str]:
    header = stripe.WebhookSignature.generate_signature_header(payload, secret, at)
    return {"Stripe-Signature": header, "Content-Type": "application/json; charset=utf-8"}


def deliver(api: FlaskClient, document: Any, **options: Any) -> Any:
    payload = document if isinstance(document, str) else json.dumps(document)
    return api.post(WEBHOOK, data=payload.encode(), headers=signed(payload, **options))


def outcome(api: FlaskClient, document: Any) -> str:
    answer = deliver(api, document)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert set(answer.json) - {"reason"} == {"outcome"}
    return str(answer.json["outcome"])


@pytest.fixture
def api(make_api) -> FlaskClient:
    api: FlaskClient = make_api(STRIPE_WEBHOOK_SECRET=f"{SECRET}, {EARLIER_SECRET}", SUBSCRIPTION_GRACE="0")
    return api


@pytest.fixture
def learner(db) -> str:
    add_module(db, 1, 2, 3)
    return add_user(db, access=None)


def copied(db: psycopg.Connection, user_id: str = LEARNER) -> Any:
    """Return the learner's row of `subscriptions`, with the end of the period in seconds since 1970."""
    return db.execute(
        "select stripe_subscription_id, status, extract(epoch from current_period_end)::bigint"
        " from subscriptions where user_id = %s",
        [user_id],
    ).fetchone()


def may_learn(api: FlaskClient, user_id: str = LEARNER) -> bool:
    return api.get("/api/progress/summary", headers=bearer(user_id)).status_code == 200


# Signatures and requests


def test_without_a_secret_there_is_no_webhook(make_api, db):
    assert_problem(make_api().post(WEBHOOK, data="{}"), "not_found")


def test_both_secrets_of_a_rotation_are_good(api, learner):
    for secret in (SECRET, EARLIER_SECRET):
        assert deliver(api, event("updated", subscription()), secret=secret).status_code == 200


def test_a_signature_may_be_five_minutes_old_and_one_of_several(api, learner):
    assert deliver(api, event("updated", subscription()), at=int(time.time()) - 290).status_code == 200
    # While a site rolls its secret, Stripe signs with both secrets.
    headers = signed(PAYLOAD)
    headers["Stripe-Signature"] = headers["Stripe-Signature"].replace(",v1=", f",v1={'0' * 64},v1=")
    assert api.post(WEBHOOK, data=PAYLOAD, headers=headers).status_code == 200


def refused(answer: Any, code: str = "invalid_signature", status: int = 400) -> None:
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert answer.json["code"] == code
    assert not {"Cache-Control", "Vary", "WWW-Authenticate"} & set(answer.headers.keys())


PAYLOAD = json.dumps(event("updated", subscription()))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Stripe-Signature": ""},
        {"Stripe-Signature": "nonsense"},
        {"Stripe-Signature": "t=,v1="},
        {"Stripe-Signature": f"t={'9' * 5000},v1=0"},
        {"Stripe-Signature": f"t={int(time.time())},v1=é"},
        {"Stripe-Signature": f"t={int(time.time())},v0=0"},
        signed(PAYLOAD, "whsec_of_somebody_else"),
        signed(PAYLOAD + " "),
        signed(PAYLOAD, at=int(time.time()) - 310),
    ],
)
def test_what_stripe_did_not_sign_just_now_is_refused(api, learner, db, headers):
    refused(api.post(WEBHOOK, data=PAYLOAD, headers=headers))
    assert copied(db) is None


def test_a_body_that_is_not_text_is_refused(api):
    refused(api.post(WEBHOOK, data=b"\xff\xfe", headers=signed("x")))
    refused(api.post(WEBHOOK, data=b""))


def test_a_body_may_have_512_kib(api, learner):
    document = event("updated", subscription(note="x"))
    spare = 512 * 1024 - len(json.dumps(document))
    document["data"]["object"]["note"] = "x" * (spare + 1)
    assert deliver(api, document).status_code == 200
    for more in ("x", "x" * 2**20):
        document["data"]["object"]["note"] += more
        answer = deliver(api, document)
        refused(answer, "body_too_large", 413)
        assert answer.json["detail"] == "Send a body of 512 KiB at most."


def test_it_needs_no_session_and_knows_no_write_limit(make_api, learner):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, RATE_LIMIT_WRITES="1 per minute")
    for _ in range(5):
        answer = deliver(api, event("updated", subscription()))
        assert answer.status_code == 200
        assert not {"Cache-Control", "Vary"} & set(answer.headers.keys())
    assert api.get(WEBHOOK).status_code == 405


@pytest.mark.parametrize("kind", ["invoice.paid", "customer.created", "customer.subscription.trial_will_end", "x"])
def test_any_other_event_is_left_alone(api, learner, db, kind):
    assert outcome(api, event(kind, subscription()) | {"type": kind}) == "ignored"
    assert copied(db) is None


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{",
        "null",
        "[" * 100_000,
        '{"type": 1}',
        {"type": "customer.subscription.updated", "id": "evt_1", "created": 1},
        {"type": "customer.subscription.updated", "id": "evt_1", "created": 1, "data": []},
        event("updated", subscription(), created="now"),  # type: ignore[arg-type]
        event("updated", subscription() | {"id": None}),
        event("updated", subscription() | {"customer": {"id": CUSTOMER}}),
        event("updated", subscription() | {"status": "a\0b"}),
        event("updated", subscription() | {"status": "\ud800"}),
        event("checkout.session.completed", []),  # type: ignore[arg-type]
    ],
    ids=range(14),
)
def test_what_is_signed_but_not_as_described_is_taken_and_changes_nothing(api, learner, db, document):
    assert outcome(api, document) == "malformed"
    assert db.execute("select count(*) from stripe_subscriptions").fetchone() == (0,)


def test_a_nul_or_half_a_character_in_what_is_kept_does_no_harm(api, learner, db):
    odd = subscription(description="a\0b \ud800", metadata={"userId": LEARNER, "note": "\0"})
    assert outcome(api, event("updated", odd)) == "applied"
    assert outcome(api, event("updated", odd, T0, previous={"status": "trialing"})) in ("applied", "stale")


@pytest.mark.parametrize("items", [1e18, {"data": 1e18}, {"data": {"a": 1}}, {"data": [1, None, "a"]}])
def test_items_that_are_none_have_no_end(api, learner, db, items):
    assert outcome(api, event("updated", subscription(items=items, current_period_end=None))) == "applied"
    assert db.execute("select current_period_end from stripe_subscriptions").fetchone() == (None,)


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "1e400"])
def test_what_is_no_json_is_malformed(api, learner, db, odd):
    payload = json.dumps(event("updated", subscription(note=0))).replace('"note": 0', f'"note": {odd}')
    assert outcome(api, payload) == "malformed"
    assert copied(db) is None


def test_what_is_nested_too_deeply_is_malformed(api, learner, db):
    deep: Any = "deep"
    for _ in range(400):
        deep = [deep]
    first = event("updated", subscription(note=deep), previous={"note": deep})
    assert outcome(api, first) == "malformed"
    assert outcome(api, event("updated", subscription(note=[[[["not deep"]]]]))) == "applied"


@pytest.mark.parametrize("part", ["stripe/lock", "stripe/save", "stripe/copy"])
def test_a_fault_of_the_services_own_is_500_and_stripe_sends_the_event_again(api, learner, db, monkeypatch, part):
    document = event("created", subscription())
    run = statements.run

    def broken(connection: Any, name: Any, /, **parameters: Any) -> Any:
        if name == part:
            raise ValueError("a fault of ours")
        return run(connection, name, **parameters)

    monkeypatch.setattr(statements, "run", broken)
    refused(deliver(api, document), "internal_error", 500)
    monkeypatch.undo()
    assert db.execute("select count(*) from stripe_subscriptions").fetchone() == (0,)
    assert outcome(api, document) == "applied"
    assert may_learn(api)


def thin(kind: str) -> dict[str, Any]:
    """Return a thin event: it names its object, and does not contain it."""
    return {
        "id": "evt_test_65RM8sQH2oXnebF5Rpc16RJyfa2xSQLHJJh1sxm7H0KI92",
        "object": "v2.core.event",
        "created": "2026-11-01T10:00:00.000Z",
        "livemode": False,
        "related_object": {"id": NEW, "type": "subscription", "url": f"/v1/subscriptions/{NEW}"},
        "type": kind,
    }


@pytest.mark.parametrize("kind", [*(f"v1.{kind}" for kind in SUBSCRIPTION_EVENTS), "v1.checkout.session.completed"])
def test_a_thin_event_of_ours_is_malformed_and_says_why(api, learner, db, caplog, kind):
    with caplog.at_level("INFO", "progress.requests"):
        assert outcome(api, thin(kind)) == "malformed"
    (fields,) = (record.__dict__["fields"] for record in caplog.records)
    reason = "a thin event: choose the payload style Snapshot for this endpoint at Stripe"
    assert fields["stripe"] == {"event": thin(kind)["id"], "type": kind, "outcome": "malformed", "reason": reason}


@pytest.mark.parametrize("kind", ["v1.invoice.paid", "v2.core.account.updated", "v1.customer.subscription.x", "v1."])
def test_any_other_thin_event_is_left_alone(api, learner, db, kind):
    assert outcome(api, thin(kind)) == "ignored"


# Which states of a subscription give access


@pytest.mark.parametrize("version", SHAPES)
def test_the_last_of_the_items_ends_the_period(api, learner, db, version):
    assert outcome(api, event("created", subscription(version=version))) == "applied"
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)
    assert may_learn(api)


@pytest.mark.parametrize("version", SHAPES)
@pytest.mark.parametrize(
    ("status", "access"),
    [
        ("active", True),
        ("trialing", True),
        *((status, False) for status in ("past_due", "unpaid", "incomplete", "incomplete_expired", "canceled")),
        ("paused", False),
        ("something_new", False),
        ("Active", False),
    ],
)
def test_a_status_gives_the_access_that_the_contract_says(api, learner, db, status, access, version):
    assert outcome(api, event("updated", subscription(status, version=version))) == "applied"
    assert may_learn(api) is access
    assert copied(db) == (NEW, status, T0 + 30 * DAY)


@pytest.mark.parametrize("version", SHAPES)
def test_a_period_without_an_end_is_no_access_and_no_error(api, learner, db, version):
    assert outcome(api, event("updated", subscription(end=None, version=version))) == "applied"
    assert copied(db) == (NEW, "active", None)
    assert not may_learn(api)


@pytest.mark.parametrize("end", [-1, 10**18, 1e300, True, "1900000000", [], {}])
def test_an_end_that_is_no_time_is_as_none(api, learner, db, end):
    document = subscription(version=SHAPES[0]) | {"current_period_end": end}
    assert outcome(api, event("updated", document)) == "applied"
    assert copied(db) == (NEW, "active", None)


def test_pausing_collection_and_canceling_at_the_end_leave_access(api, learner):
    changes: list[dict[str, Any]] = [{"pause_collection": {"behavior": "void"}}, {"cancel_at_period_end": True}]
    for at, more in enumerate(changes):
        assert outcome(api, event("updated", subscription(**more), T0 + at)) == "applied"
        assert may_learn(api)


@pytest.mark.parametrize(
    ("status", "more"), [("active", {}), ("trialing", {}), ("active", {"cancel_at_period_end": True})]
)
def test_a_period_ends_at_its_millisecond(api, learner, db, status, more):
    now = int(time.time())
    deliver(api, event("updated", subscription(status, end=now - 1, **more), T0))
    assert not may_learn(api)
    deliver(api, event("updated", subscription(status, end=now + 3600, **more), T0 + 1))
    assert may_learn(api)
    db.execute("update subscriptions set current_period_end = clock_timestamp() + '300 ms'")
    (end,) = db.execute("select extract(epoch from current_period_end)::float from subscriptions").fetchone()
    allowed = True
    while allowed:
        began = time.time()
        allowed = may_learn(api)
        # Access lasts until `end`, and no longer.
        assert began < end if allowed else time.time() >= end


def test_grace_is_added_where_there_is_access(make_api, learner, db):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, SUBSCRIPTION_GRACE="2 days")
    deliver(api, event("updated", subscription("active"), T0))
    assert copied(db) == (NEW, "active", T0 + 32 * DAY)
    deliver(api, event("updated", subscription("trialing"), T0 + 1))
    assert copied(db) == (NEW, "trialing", T0 + 32 * DAY)
    deliver(api, event("updated", subscription("past_due"), T0 + 2))
    assert copied(db) == (NEW, "past_due", T0 + 30 * DAY)


def test_an_hour_of_grace_unless_another_is_set(make_api, learner, db):
    deliver(make_api(STRIPE_WEBHOOK_SECRET=SECRET), event("updated", subscription()))
    assert copied(db) == (NEW, "active", T0 + 30 * DAY + 3600)


def test_progress_is_never_touched(api, learner, db):
    deliver(api, event("updated", subscription(), T0))
    ok(mark(api, 2))
    ok(mark(api, 3))
    before = completions(db)
    deliver(api, event("deleted", subscription("canceled"), T0 + 1))
    assert not may_learn(api)
    assert completions(db) == before
    deliver(api, event("created", subscription(name="sub_another"), T0 + 2))
    assert get(api, "summary")["completedCount"] == 2
    assert completions(db) == before


def test_the_events_of_the_demo_are_a_subscriptions_life(api, db):
    none = "00000000-0000-4000-8000-000000000003"
    add_module(db, 1, 2)
    add_user(db, none, access=None)
    for name, access in (("created", False), ("active", True), ("past_due", False), ("paid", True), ("deleted", False)):
        assert outcome(api, json.loads((ROOT / f"app/demo/stripe/{name}.json").read_text())) == "applied"
        assert may_learn(api, none) is access, name


# Which subscriptions count


NO_TIMES: list[Any] = ["1900000000", -5, 1e30, True, [], {}, 1e18]


def items(*given: tuple[str, str | None, Any]) -> dict[str, Any]:
    """Return the items of a subscription, each given as price, product and end of the period."""
    data = [
        {
            "id": f"si_{price}",
            "object": "subscription_item",
            "current_period_end": end,
            "price": {"id": price, "object": "price", "product": product},
        }
        for price, product, end in given
    ]
    return {"object": "list", "data": data}


@pytest.mark.parametrize("listed", ["price_course", "prod_school", "price_other, price_course", "prod_school,prod_x"])
def test_a_subscription_counts_whose_price_or_product_is_listed(make_api, learner, db, listed):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, SUBSCRIPTION_GRACE="0", STRIPE_PRICES=listed)
    donation = items(("price_donation", "prod_donation", T0 + 90 * DAY))
    assert outcome(api, event("created", subscription(name=OLD, items=donation))) == "applied"
    assert (copied(db), may_learn(api)) == (None, False)
    course = items(("price_course", "prod_school", T0 + 5 * DAY), ("price_donation", None, T0 + 90 * DAY))
    assert outcome(api, event("created", subscription(items=course))) == "applied"
    assert copied(db) == (NEW, "active", T0 + 5 * DAY)
    assert may_learn(api)
    # The subscription goes on without the item that gives access.
    assert outcome(api, event("updated", subscription(items=donation), T0 + 1)) == "applied"
    assert (copied(db), may_learn(api)) == (None, False)


@pytest.mark.parametrize(
    ("listed", "given", "end"),
    [
        (("price_1", "price_2"), items(("price_1", None, T0 + 1), ("price_2", None, T0 + 2), ("x", None, T0 + 3)), 2),
        (("prod_1",), items(("price_1", "prod_1", T0 + 4), ("price_2", "prod_1", None)), 4),
        (("price_2",), items(("price_1", None, T0 + 4), ("price_2", None, None)), None),
        # In API versions before basil, the items have no period of their own.
        (("price_1",), items(("price_1", None, None)) | {"old": True}, 7),
        (
            ("price_1",),
            {"data": [1, None, "a", [], {"price": "price_1"}, {"price": None}, {"price": {"id": 7}}]},
            "none",
        ),
        (("price_1",), {"data": {"price": {"id": "price_1"}}}, "none"),
        (("price_1",), 7, "none"),
        *((("price_1",), items(("price_1", None, odd)), None) for odd in NO_TIMES),
    ],
)
def test_the_last_of_the_listed_items_ends_the_period(make_api, learner, db, listed, given, end):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, SUBSCRIPTION_GRACE="0", STRIPE_PRICES=",".join(listed))
    old: dict[str, Any] = {"current_period_end": T0 + 7} if isinstance(given, dict) and given.pop("old", False) else {}
    assert outcome(api, event("updated", subscription(items=given, **old))) == "applied"
    assert copied(db) == (None if end == "none" else (NEW, "active", end and T0 + end))


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "é", "", "x" * 300, 7, None])
def test_the_prices_of_an_event_are_read_whatever_the_event_holds(make_api, learner, db, database_url, environ, odd):
    """PostgreSQL's text cannot store everything that JSON can. Neither the webhook nor a start may fail for that."""
    listed = {"STRIPE_PRICES": "price_1", "SUBSCRIPTION_GRACE": "0"}
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, **listed)
    given = items(("price_1", odd, T0 + DAY), (odd, None, T0 + 2 * DAY))
    assert outcome(api, event("updated", subscription(items=given, description=f"{odd}"))) == "applied"
    assert copied(db) == (NEW, "active", T0 + DAY)
    # Another version of the service stores an event without its items.
    db.execute("update stripe_subscriptions set items = null")
    apply_settings(environ, STRIPE_PRICES="price_1", SUBSCRIPTION_GRACE="1 day")
    assert copied(db) == (NEW, "active", T0 + 2 * DAY)
    assert len(access_lines(database_url, **listed)) == 5


def test_what_another_version_stored_is_read_at_the_next_event_of_its_learner(make_api, learner, db):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, SUBSCRIPTION_GRACE="0", STRIPE_PRICES="price_1")
    deliver(api, event("created", subscription(items=items(("price_1", None, T0 + 9 * DAY)))))
    # An earlier version of the service stores a new event, and leaves the items of the event before.
    renewed = json.dumps(subscription(items=items(("price_1", None, T0 + 40 * DAY))))
    db.execute("update stripe_subscriptions set event_id = 'evt_old', object = %s", [renewed])
    deliver(api, event("created", subscription("past_due", name=OLD)))
    assert copied(db) == (NEW, "active", T0 + 40 * DAY)


def test_a_row_that_was_moved_by_hand_stays_at_a_start_and_an_event_takes_it_back(api, environ, learner, db):
    deliver(api, event("created", subscription()))
    add_user(db, FREE_LEARNER, access=None)
    db.execute("update subscriptions set user_id = %s", [FREE_LEARNER])
    apply_settings(environ, SUBSCRIPTION_GRACE="1 day")
    assert copied(db) is None
    assert copied(db, FREE_LEARNER) == (NEW, "active", T0 + 30 * DAY)
    # An event of another customer's subscription makes the moved subscription the learner's best one.
    other = subscription("past_due", name=OLD, customer="cus_2")
    assert outcome(api, event("created", other)) == "applied"
    assert (copied(db), copied(db, FREE_LEARNER)) == ((NEW, "active", T0 + 30 * DAY), None)


def test_under_row_level_security_an_event_is_sent_again_and_takes_nothing(api, learner, db):
    deliver(api, event("created", subscription(), T0))
    db.execute("alter table users enable row level security")
    try:
        refused(deliver(api, event("updated", subscription(), T0 + 1)), "unavailable", 503)
    finally:
        db.execute("alter table users disable row level security")
    assert may_learn(api)
    assert outcome(api, event("updated", subscription(), T0 + 1)) == "applied"


def test_what_an_earlier_version_did_to_a_customers_row_is_mended_by_the_session(api, learner, db):
    """During a deploy, an earlier version runs too. It lets a session of any mode change the row."""
    deliver(api, checkout(subscription=None))
    db.execute(
        "update stripe_customers set claimed_user_id = %s, event_created = event_created + '1 hour'", [uuid4(0x0DE5)]
    )
    deliver(api, checkout(subscription=None))
    assert outcome(api, event("created", subscription(metadata={}))) == "applied"


def test_a_subscription_that_does_not_count_takes_nothing_that_was_written_by_hand(make_api, db):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, STRIPE_PRICES="price_course")
    add_module(db, 1, 2)
    add_user(db)
    before = copied(db)
    assert outcome(api, event("created", subscription())) == "applied"
    assert outcome(api, event("deleted", subscription("canceled"), T0 + 1)) == "applied"
    assert copied(db) == before
    assert may_learn(api)


# SUBSCRIPTION_GRACE and STRIPE_PRICES, when they change


def start(environ: dict[str, str], **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the check before a start. It applies the settings to the rows that the mirror wrote."""
    return subprocess.run(
        [sys.executable, "-m", "app.start", "--apply-terms"],
        cwd=ROOT,
        env=environ | {"STRIPE_WEBHOOK_SECRET": SECRET} | settings,
        capture_output=True,
        text=True,
    )


def apply_settings(environ: dict[str, str], **settings: str) -> None:
    """Apply the settings to the rows that the mirror wrote, as a start does, but in this process."""
    configured = from_environ(environ | {"STRIPE_WEBHOOK_SECRET": SECRET} | settings)
    options = connect_options(configured)
    with psycopg.Connection.connect(configured.database_url, **options) as connection:
        mirror.apply_terms(connection, mirror.access_terms(configured))


def test_a_changed_grace_holds_from_the_next_start_on(api, environ, learner, db):
    for number, status in enumerate(("active", "trialing", "past_due", "canceled")):
        user_id = add_user(db, uuid4(0xC0 + number), access=None)
        own: dict[str, Any] = {"name": f"sub_{number}", "customer": f"cus_{number}", "metadata": {"userId": user_id}}
        deliver(api, event("updated", subscription(status, **own)))
    for days in (2, 1, 0):
        apply_settings(environ, SUBSCRIPTION_GRACE=f"{days} days")
        ends = [copied(db, uuid4(0xC0 + number))[2] - T0 - 30 * DAY for number in range(4)]
        assert ends == [days * DAY, days * DAY, 0, 0]


def test_a_changed_list_of_prices_holds_from_the_next_start_on(api, environ, learner, db):
    given = items(("price_1", "prod_1", T0 + DAY), ("price_2", "prod_2", T0 + 2 * DAY))
    deliver(api, event("updated", subscription(items=given)))
    for listed, end in (("price_1", 1), ("prod_2", 2), ("price_3", None), ("price_1", 1), ("", 2)):
        apply_settings(environ, STRIPE_PRICES=listed, SUBSCRIPTION_GRACE="0")
        assert copied(db) == (end and (NEW, "active", T0 + end * DAY))


def test_what_was_written_by_hand_stays_at_a_start(api, environ, db):
    """One row is of a learner whom Stripe does not know. The mirror wrote the others, and somebody changed them."""
    hands = [add_user(db, uuid4(0xC0)), *(add_user(db, uuid4(0xC0 + number), access=None) for number in range(1, 5))]
    for number, user_id in enumerate(hands[1:]):
        own: dict[str, Any] = {"name": f"sub_{number}", "customer": f"cus_{number}", "metadata": {"userId": user_id}}
        deliver(api, event("updated", subscription("past_due", **own)))
    db.execute(
        "update subscriptions set current_period_end = '2099-01-01', status = 'active' where user_id = %s", [hands[1]]
    )
    db.execute("update subscriptions set current_period_end = '2099-01-01' where user_id = %s", [hands[2]])
    db.execute("update subscriptions set status = 'blocked' where user_id = %s", [hands[3]])
    db.execute("delete from subscriptions where user_id = %s", [hands[4]])
    db.execute(
        "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', '2099-01-01')",
        [hands[4]],
    )
    before = [copied(db, user_id) for user_id in hands]
    for settings in ({"SUBSCRIPTION_GRACE": "3 days"}, {"STRIPE_PRICES": "price_of_none"}):
        apply_settings(environ, **settings)
        assert [copied(db, user_id) for user_id in hands] == before


def test_a_start_without_a_change_writes_nothing(api, environ, learner, db):
    deliver(api, event("updated", subscription()))
    rows = "select xmin, ctid, * from subscriptions"
    before = db.execute(rows).fetchall()
    apply_settings(environ, SUBSCRIPTION_GRACE="0")
    assert db.execute(rows).fetchall() == before


def test_a_start_that_is_refused_changes_no_access(api, environ, learner, db):
    deliver(api, event("updated", subscription()))
    assert start(environ, SUBSCRIPTION_GRACE="2 days", AUTH_SESSION_TABLE="not_there").returncode == 1
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_an_event_that_comes_while_a_start_applies_the_terms_is_not_overwritten(api, learner, db, database_url):
    """The start waits for the event's transaction, and sees what it wrote."""
    deliver(api, event("updated", subscription(), T0))
    terms = mirror.AccessTerms(2 * DAY, ())
    options: dict[str, Any] = {"autocommit": True, "cursor_factory": psycopg.RawCursor, "row_factory": dict_row}
    with psycopg.connect(database_url, **options) as applying:
        thread = threading.Thread(target=mirror.apply_terms, args=(applying, terms))
        with psycopg.connect(database_url, **options) as delivering, delivering.transaction():
            newer = event("updated", subscription("past_due", end=T0 + 60 * DAY), T0 + 1)
            mirror.store_event(delivering, read_subscription(newer, "userId", None), mirror.AccessTerms(0, ()))
            thread.start()
            while not db.execute("select from pg_locks where not granted").rowcount:
                assert thread.is_alive()
        thread.join()
    assert copied(db) == (NEW, "past_due", T0 + 60 * DAY)


def test_a_start_applies_the_terms_and_warns_once_that_every_subscription_counts_and_a_reload_does_neither(
    api, environ, learner, db, capfd
):
    deliver(api, event("updated", subscription()))
    settings = {"STRIPE_WEBHOOK_SECRET": SECRET, "SUBSCRIPTION_GRACE": "1 day", "WEB_CONCURRENCY": "2"}
    with running_gunicorn(environ | settings) as service:
        assert copied(db) == (NEW, "active", T0 + 31 * DAY)
        db.execute("update subscriptions set current_period_end = '2031-01-01', mirrored_period_end = '2031-01-01'")
        before = copied(db)
        old = service.workers()
        service.process.send_signal(signal.SIGHUP)
        while service.workers() & old:
            time.sleep(0.05)
        assert copied(db) == before
    assert capfd.readouterr().err.count("STRIPE_PRICES is empty: ") == 1


@pytest.mark.parametrize("none", [{"STRIPE_PRICES": "price_1"}, {"LOG_LEVEL": "error"}, {"STRIPE_WEBHOOK_SECRET": ""}])
def test_a_start_says_nothing_of_it_where_there_is_nothing_to_say(environ, db, none):
    assert start(environ, **none).stderr == ""


def test_a_start_that_cannot_apply_the_terms_in_time_goes_on_and_says_so(api, environ, learner, db, database_url):
    deliver(api, event("updated", subscription()))
    with psycopg.connect(database_url) as other:
        other.execute("lock table stripe_subscriptions in row exclusive mode")
        done = start(environ, SUBSCRIPTION_GRACE="2 days", STRIPE_PRICES="price_1", DATABASE_TIMEOUT="0.3")
    assert done.returncode == 0
    assert done.stderr.endswith("run: make stripe-sync\n")
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_a_role_without_the_rights_of_this_version_is_told_so(environ, database_url, db):
    db.execute(f"revoke insert (mirrored_period_end) on subscriptions from {SERVICE}")
    try:
        refused = start(environ)
    finally:
        grant(database_url)
    assert refused.stderr == (
        "DATABASE_URL: permission denied for table subscriptions; was deploy/grants.sql run after make migrate?\n"
    )


# The order of events


def six_events(version: str) -> list[dict[str, Any]]:
    """Return events of an old subscription that ends while a new one begins.

    The first two events of the new one are of the same second.
    """
    old = subscription(name=OLD, end=T0 + 5 * DAY, version=version)
    new = subscription("incomplete", version=version)
    paid = new | {"status": "active", "default_payment_method": "pm_1"}
    return [
        event("created", old, T0 - 25 * DAY),
        event("updated", old | {"cancel_at_period_end": True}, T0 - 100, {"cancel_at_period_end": False}),
        event("deleted", old | {"status": "canceled"}, T0 + 60),
        event("created", new, T0),
        event("updated", paid, T0, {"status": "incomplete", "default_payment_method": None}),
        event("updated", paid | {"description": "Renewed"}, T0 + 90, {"description": None}),
    ]


@pytest.mark.parametrize("version", SHAPES)
def test_all_orders_of_six_events_with_any_duplicates_end_in_the_same_right_state(api, learner, db, version):
    """What comes of an event depends on what is stored. So each event is sent once for each state that can occur.

    Every order of the events, with any number of duplicates at any places, is a way through these states.
    """
    events = six_events(version)

    @functools.cache
    def after(state: tuple[str, ...], number: int) -> tuple[str, ...]:
        restore(db, state)
        assert outcome(api, events[number]) in ("applied", "stale")
        return stored(db)

    ways = [(frozenset[int](), stored(db))]
    for sent, state in ways:  # the list grows meanwhile
        following = [(sent | {number}, after(state, number)) for number in range(len(events))]
        ways += dict.fromkeys(way for way in following if way not in ways)
    [end] = {state for sent, state in ways if len(sent) == len(events)}
    restore(db, end)
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)
    latest = db.execute("select event_id from stripe_subscriptions order by stripe_subscription_id").fetchall()
    assert latest == [(events[number]["id"],) for number in (5, 2)]


def signed_payload(document: dict[str, Any]) -> tuple[str, dict[str, str]]:
    payload = json.dumps(document)
    return payload, signed(payload)


def ends(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"current_period_end": item["current_period_end"]} for item in document["items"]["data"]]


def same_second_updates() -> list[list[dict[str, Any]]]:
    first = subscription("incomplete")
    paid = subscription("active")
    with_card = paid | {"default_payment_method": "pm_1"}
    renewed = subscription("active", end=T0 + 60 * DAY)
    noted = {"userId": LEARNER, "a": "1"}
    return [
        # Events of one second: first paid, then a card; first a card, then paid; a renewal, which the items show; a
        # change of the metadata.
        [
            event("updated", paid, T0, {"status": "incomplete"}),
            event("updated", with_card, T0, {"default_payment_method": None}),
        ],
        [
            event("updated", first | {"default_payment_method": "pm_1"}, T0, {"default_payment_method": None}),
            event("updated", with_card, T0, {"status": "incomplete"}),
        ],
        [
            event("updated", paid, T0, {"status": "incomplete"}),
            event("updated", renewed, T0, {"items": {"data": paid["items"]["data"]}}),
        ],
        # A period that becomes shorter. The previous items have only the members that differ.
        [
            event("updated", renewed, T0, {"status": "incomplete"}),
            event("updated", paid, T0, {"items": {"data": ends(renewed)}}),
        ],
        [
            event("updated", paid | {"metadata": noted}, T0, {"metadata": {"a": None}}),
            event("updated", subscription("past_due", metadata=noted), T0, {"status": "active"}),
        ],
        [event("created", first, T0), event("updated", paid, T0, {"status": "incomplete"})],
        [event("updated", paid, T0, {"status": "incomplete"}), event("deleted", subscription("canceled"), T0)],
        [event("updated", paid, T0 + 5, {"status": "x"}), event("deleted", subscription("canceled"), T0)],
        [event("updated", paid, T0), event("updated", subscription("incomplete_expired"), T0 - 9)],
        [event("updated", paid, T0, {"status": "past_due"}), event("paused", subscription("paused"), T0 + 1)],
        [event("paused", subscription("paused"), T0), event("resumed", paid, T0 + 1)],
    ]


@pytest.mark.parametrize("pair", same_second_updates(), ids=range(11))
def test_of_two_events_the_later_holds_whichever_comes_first(api, learner, db, pair):
    later = pair[1]["data"]["object"]
    end = max(item["current_period_end"] for item in later["items"]["data"])
    for order in (pair, pair[::-1], [*pair, *pair], [*pair[::-1], *pair[::-1]]):
        forget(db)
        for document in order:
            outcome(api, document)
        assert copied(db) == (NEW, later["status"], end), order


def test_three_events_of_one_second_end_with_the_last_in_every_order(api, learner, db):
    """The first and the third event change the same member. Only the second one shows that the third came last."""
    events = [
        event("updated", subscription("active", end=T0 + 90 * DAY), T0, {"status": "incomplete"}),
        event("updated", subscription("past_due", end=T0 + 80 * DAY), T0, {"status": "active"}),
        event("updated", subscription("unpaid", end=T0 + 70 * DAY), T0, {"status": "past_due"}),
    ]
    for order in itertools.permutations(events):
        forget(db)
        for document in order:
            outcome(api, document)
        assert copied(db) == (NEW, "unpaid", T0 + 70 * DAY)


def test_of_two_events_that_end_a_subscription_the_later_holds(api, learner, db):
    events = [
        event("updated", subscription("canceled", end=T0 + DAY), T0),
        event("deleted", subscription("canceled", end=T0 + 2 * DAY), T0 + 1),
    ]
    for order in (events, events[::-1]):
        forget(db)
        for document in order:
            outcome(api, document)
        assert copied(db) == (NEW, "canceled", T0 + 2 * DAY)


def test_events_that_nothing_tells_apart_end_the_same_in_every_order(api, learner, db):
    events = [event("updated", subscription(status, end=T0 + DAY), T0) for status in ("active", "past_due", "unpaid")]
    there_and_back = [
        event("updated", subscription("past_due"), T0, {"status": "active"}),
        event("updated", subscription("active"), T0, {"status": "past_due"}),
    ]
    for told in (events, there_and_back):
        assert_the_same_in_every_order(api, db, told)


def assert_the_same_in_every_order(api: FlaskClient, db: psycopg.Connection, events: list[dict[str, Any]]) -> None:
    ends = set()
    for order in itertools.permutations(events):
        forget(db)
        for document in order:
            outcome(api, document)
        ends.add(copied(db))
    assert len(ends) == 1


def test_the_best_of_two_subscriptions_counts(api, learner, db):
    deliver(api, event("created", subscription("past_due", name=OLD, end=T0 + 90 * DAY)))
    assert copied(db) == (OLD, "past_due", T0 + 90 * DAY)
    deliver(api, event("created", subscription("active", end=T0 + DAY)))
    assert copied(db) == (NEW, "active", T0 + DAY)
    deliver(api, event("created", subscription("trialing", name="sub_third", end=T0 + 2 * DAY)))
    assert copied(db) == ("sub_third", "trialing", T0 + 2 * DAY)
    deliver(api, event("created", subscription("active", name="sub_endless", end=None)))
    assert copied(db) == ("sub_third", "trialing", T0 + 2 * DAY)


# The owner of a subscription


def test_the_metadata_may_have_another_name(make_api, learner, db):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, STRIPE_USER_ID_METADATA="learner")
    assert outcome(api, event("updated", subscription(metadata={"learner": LEARNER.upper()}))) == "applied"
    assert may_learn(api)


def test_without_metadata_the_customer_of_the_checkout_says_it(api, learner, db):
    assert outcome(api, checkout()) == "applied"
    assert outcome(api, event("created", subscription(metadata={}))) == "applied"
    assert may_learn(api)


def test_a_subscription_that_came_before_the_checkout_is_attached_by_it(api, learner, db):
    assert outcome(api, event("created", subscription(metadata={}))) == "unattached"
    assert not may_learn(api)
    assert outcome(api, checkout()) == "applied"
    assert may_learn(api)


def test_metadata_comes_before_the_checkout(api, learner, db):
    add_user(db, FREE_LEARNER, access=None)
    deliver(api, checkout(FREE_LEARNER))
    deliver(api, event("created", subscription()))
    assert (may_learn(api), may_learn(api, FREE_LEARNER)) == (True, False)


# The tables of what Stripe says of customers and subscriptions, and of what follows for learners.
MIRROR = ("stripe_subscriptions", "stripe_checkouts", "stripe_customers", "subscriptions")


def forget(db: psycopg.Connection) -> None:
    """Delete everything that Stripe said."""
    db.execute("; ".join(f"delete from {table}" for table in MIRROR).encode())


def stored(db: psycopg.Connection) -> tuple[str, ...]:
    """Return everything that Stripe said, as JSON, and 2000-01-01 as the time of each write. No statement reads it."""
    written = """'{"created_at": "2000-01-01", "updated_at": "2000-01-01"}'"""
    rows = (f"select jsonb_agg(to_jsonb(t) || {written} order by t::text)::text from {table} as t" for table in MIRROR)
    return tuple(db.execute(f"select {', '.join(f'({row})' for row in rows)}".encode()).fetchone() or ())


def restore(db: psycopg.Connection, state: tuple[str, ...]) -> None:
    """Store what `stored` has returned, in place of everything that Stripe said since."""
    forget(db)
    for table, rows in zip(MIRROR, state, strict=True):
        db.execute(f"insert into {table} select * from jsonb_populate_recordset(null::{table}, %s)".encode(), [rows])


def test_a_checkout_of_another_mode_says_nothing_of_a_subscription(api, learner, db):
    deliver(api, event("created", subscription(metadata={})))
    assert outcome(api, checkout()) == "applied"
    order_number = uuid4(0x0DE5)
    for mode in ("payment", "setup"):
        sold = checkout(order_number, T0 + 1, session="cs_test_b2", subscription=None, mode=mode, event_created=T0 + 1)
        assert outcome(api, sold) == "ignored"
        assert may_learn(api)
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_a_checkout_of_another_mode_names_nobody_for_later(api, learner, db):
    assert outcome(api, checkout(subscription=None, mode="payment")) == "ignored"
    assert outcome(api, event("created", subscription(metadata={}))) == "unattached"


def test_one_customer_may_pay_for_two_learners(api, learner, db):
    add_user(db, FREE_LEARNER, access=None)
    own = [event("created", subscription(metadata={})), checkout()]
    childs = [
        event("created", subscription(name=OLD, metadata={}, end=T0 + 5 * DAY), T0 + 1),
        checkout(FREE_LEARNER, T0 + 1, session="cs_test_b2", subscription=OLD),
    ]
    for order in itertools.permutations([*own, *childs]):
        forget(db)
        for document in order:
            deliver(api, document)
        assert copied(db) == (NEW, "active", T0 + 30 * DAY)
        assert copied(db, FREE_LEARNER) == (OLD, "active", T0 + 5 * DAY)


@pytest.mark.parametrize("tie", [0, 1])
def test_a_subscription_that_no_checkout_names_is_of_the_customers_first(api, learner, db, tie):
    """The first session is the one with the smallest `created`, then the smallest id.

    The time of the event, and the order of arrival, do not matter.
    """
    add_user(db, FREE_LEARNER, access=None)
    first = checkout(LEARNER, T0, session="cs_1", subscription="sub_1", event_created=T0 + 9)
    second = checkout(FREE_LEARNER, T0 + tie, session="cs_2", subscription=None)
    made_in_the_dashboard = event("created", subscription(metadata={}))
    for order in itertools.permutations([first, second, made_in_the_dashboard]):
        forget(db)
        for document in order:
            deliver(api, document)
        assert (may_learn(api), may_learn(api, FREE_LEARNER)) == (True, False)


def test_a_checkout_without_a_time_of_its_own_goes_by_its_events(api, learner, db):
    add_user(db, FREE_LEARNER, access=None)
    sessions = [
        checkout(LEARNER, session="cs_2", subscription=None, event_created=T0),
        checkout(FREE_LEARNER, session="cs_1", subscription=None, event_created=T0 + 1),
    ]
    for document in sessions[::-1]:
        del document["data"]["object"]["created"]
        deliver(api, document)
    deliver(api, event("created", subscription(metadata={})))
    assert (may_learn(api), may_learn(api, FREE_LEARNER)) == (True, False)


def test_whom_an_earlier_version_stored_counts_as_the_customers_first(api, learner, db):
    add_user(db, FREE_LEARNER, access=None)
    db.execute(
        "insert into stripe_customers (customer_id, claimed_user_id, user_id, event_created)"
        " values (%s, %s, %s, '2099-01-01')",
        [CUSTOMER, LEARNER, LEARNER],
    )
    assert outcome(api, event("created", subscription(name=OLD, metadata={}))) == "applied"
    assert outcome(api, checkout(FREE_LEARNER, T0 - DAY)) == "applied"
    assert outcome(api, event("created", subscription(metadata={}))) == "applied"
    assert outcome(api, event("updated", subscription(name=OLD, metadata={}), T0 + 1)) == "applied"
    assert (copied(db)[0], copied(db, FREE_LEARNER)[0]) == (OLD, NEW)


def test_when_a_learner_goes_whom_the_customer_was_the_next_checkout_is_the_first(api, learner, db):
    add_user(db, FREE_LEARNER, access=None)
    deliver(api, checkout())
    db.execute("delete from users where id = %s", [LEARNER])
    assert outcome(api, checkout(FREE_LEARNER, T0 + 1, session="cs_2", subscription=None)) == "applied"
    assert outcome(api, event("created", subscription(metadata={}))) == "applied"
    assert may_learn(api, FREE_LEARNER)


SUBSCRIPTIONS = [("sub_a", "cus_1"), ("sub_b", "cus_1"), ("sub_c", "cus_2")]
LEARNERS = [uuid4(0xC1), uuid4(0xC2)]
STATUSES = ["active", "past_due", "canceled"]


@st.composite
def event_sets(draw: st.DrawFn) -> tuple[list[dict[str, Any]], Callable[[str], str | None]]:
    """Draw events of three subscriptions and two customers. Also return a function that names each one's owner."""
    named = {name: draw(st.sampled_from(["", *LEARNERS])) for name, _ in SUBSCRIPTIONS}
    events, sessions = [], []
    for number in range(draw(st.integers(1, 4))):
        name, customer = draw(st.sampled_from(SUBSCRIPTIONS))
        created = T0 + draw(st.integers(0, 2))
        state = subscription(
            draw(st.sampled_from(STATUSES)),
            name=name,
            customer=customer,
            end=T0 + (number + 1) * DAY,
            metadata={"userId": named[name]} if named[name] else {},
        )
        previous = draw(st.sampled_from([None, *({"status": status} for status in STATUSES)]))
        events.append(event(draw(st.sampled_from(["created", "updated", "deleted"])), state, created, previous))
    for number in range(draw(st.integers(0, 3))):
        name, customer = draw(st.sampled_from(SUBSCRIPTIONS))
        mode = draw(st.sampled_from(["subscription", "subscription", "payment"]))
        of = draw(st.sampled_from([name, None])) if mode == "subscription" else None
        learner, created = draw(st.sampled_from(LEARNERS)), T0 + draw(st.integers(0, 1))
        events.append(checkout(learner, created, customer, session=f"cs_{number}", subscription=of, mode=mode))
        if mode == "subscription":
            sessions.append((created, f"cs_{number}", of, customer, learner))

    def owner(name: str) -> str | None:
        own = [learner for _, _, of, _, learner in sorted(sessions) if of == name]
        customers = [
            learner for _, _, _, customer, learner in sorted(sessions) if customer == dict(SUBSCRIPTIONS)[name]
        ]
        return named[name] or next(iter([*own, *customers]), None)

    return events, owner


def mirrored(db: psycopg.Connection) -> Any:
    """Return the owner and the state of every subscription, and the access of every learner."""
    return (
        db.execute(
            "select stripe_subscription_id, user_id::text, status, current_period_end, event_id"
            " from stripe_subscriptions order by 1"
        ).fetchall(),
        db.execute(
            "select user_id::text, stripe_subscription_id, status, current_period_end from subscriptions order by 1"
        ).fetchall(),
    )


def test_no_event_about_one_thing_changes_what_another_gives_whatever_the_order(api, db):
    """The stored state depends only on the set of events, and an owner only on the events about the subscription."""
    for learner in LEARNERS:
        add_user(db, learner, access=None)

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(event_sets(), st.randoms(use_true_random=False))
    def hold(drawn: Any, random: Any) -> None:
        events, owner = drawn
        states = []
        for _ in range(4):
            forget(db)
            random.shuffle(events)
            for document in [*events, random.choice(events)]:
                assert outcome(api, document) in ("applied", "stale", "unattached", "ignored")
            states.append(mirrored(db))
        assert all(state == states[0] for state in states)
        rows, copies = states[0]
        assert [(row[0], row[1]) for row in rows] == [(row[0], owner(row[0])) for row in rows]
        # A learner's copy is the best of the learner's own subscriptions.
        for learner in LEARNERS:
            theirs = [row for row in rows if row[1] == learner]
            best = max(theirs, key=lambda row: (row[2] == "active", row[3]), default=None)
            assert [copy[1:] for copy in copies if copy[0] == learner] == ([(best[0], *best[2:4])] if best else [])

    hold()


@pytest.mark.parametrize("user_id", ["1", "{6f9619ff-8b86-4d11-b42d-00c04fc964ff}", 7, {"a": 1}, "\0"])
def test_a_user_id_that_is_no_uuid_is_nobodys(api, learner, db, user_id, caplog):
    with caplog.at_level("INFO", "progress.requests"):
        assert outcome(api, event("created", subscription(metadata={"userId": user_id}))) == "unattached"
        assert outcome(api, checkout(user_id)) == "unattached"
    assert copied(db) is None
    reasons = [record.__dict__["fields"]["stripe"]["reason"] for record in caplog.records]
    assert reasons == ["the user id is not a UUID"] * 2


@pytest.mark.parametrize("user_id", [None, ""])
def test_a_checkout_that_names_nobody_is_left_alone(api, learner, db, user_id):
    assert outcome(api, checkout(None)) == "ignored"
    assert outcome(api, checkout(LEARNER, customer=None)) == "ignored"


def test_a_learner_who_appears_later_is_attached_at_the_next_event(api, db):
    add_module(db, 1, 2)
    assert outcome(api, event("created", subscription())) == "unattached"
    assert outcome(api, checkout()) == "unattached"
    add_user(db, access=None)
    assert not may_learn(api)
    assert outcome(api, event("updated", subscription(), T0 - 5)) == "stale"
    assert may_learn(api)


def test_a_subscription_that_changes_hands_leaves_the_first(api, learner, db):
    add_user(db, FREE_LEARNER, access=None)
    deliver(api, event("created", subscription(), T0))
    deliver(api, event("updated", subscription(metadata={"userId": FREE_LEARNER}), T0 + 1))
    assert (may_learn(api), may_learn(api, FREE_LEARNER)) == (False, True)
    assert copied(db) is None


def test_a_subscription_that_was_written_by_hand_for_another_is_taken_over(api, learner, db):
    add_user(db, FREE_LEARNER)
    db.execute("update subscriptions set stripe_subscription_id = %s", [NEW])
    assert outcome(api, event("created", subscription())) == "applied"
    assert (may_learn(api), may_learn(api, FREE_LEARNER)) == (True, False)


def test_what_was_written_by_hand_stays_while_stripe_says_nothing_of_them(api, learner, db):
    add_user(db, FREE_LEARNER)
    deliver(api, event("created", subscription()))
    assert may_learn(api, FREE_LEARNER)


def test_what_was_written_by_hand_stays_while_nobody_is_known_to_own_it(api, learner, db):
    db.execute(
        "insert into subscriptions (user_id, stripe_subscription_id, status, current_period_end)"
        " values (%s, %s, 'active', now() + '1 day')",
        [LEARNER, NEW],
    )
    assert outcome(api, event("updated", subscription("past_due", metadata={}))) == "unattached"
    assert may_learn(api)
    assert outcome(api, checkout()) == "applied"
    assert copied(db) == (NEW, "past_due", T0 + 30 * DAY)


def test_a_subscription_that_names_nobody_any_more_is_nobodys(api, learner, db):
    deliver(api, event("created", subscription(), T0))
    assert outcome(api, event("updated", subscription(metadata={"userId": "7"}), T0 + 1)) == "unattached"
    assert copied(db) is None


def test_of_a_customers_two_subscriptions_one_may_be_nobodys(api, learner, db):
    assert outcome(api, event("created", subscription())) == "applied"
    assert outcome(api, event("created", subscription(name=OLD, metadata={}, end=T0 + 90 * DAY))) == "unattached"
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_with_a_user_all_that_is_theirs_goes(api, learner, db):
    deliver(api, checkout())
    deliver(api, event("created", subscription()))
    db.execute("delete from users")
    for table in ("stripe_subscriptions", "stripe_checkouts", "stripe_customers", "subscriptions"):
        assert db.execute(f"select count(*) from {table}").fetchone() == (0,)


# Faults


def test_while_the_database_is_away_stripe_is_told_to_try_again(make_api, learner, db, database_url):
    api = impatient(make_api(STRIPE_WEBHOOK_SECRET=SECRET, WEB_THREADS="1"))
    document = event("created", subscription())
    with psycopg.connect(database_url) as other:
        other.execute("lock table stripe_subscriptions in access exclusive mode")
        answer = deliver(api, document)
    refused(answer, "unavailable", 503)
    assert int(answer.headers["Retry-After"]) >= 1
    assert outcome(api, document) == "applied"
    assert may_learn(api)


def test_a_transaction_that_stood_still_for_too_long_is_unavailable(make_api, learner, db, monkeypatch):
    # With PREPARE_THRESHOLD=off, as behind a PgBouncer, a connection has the timeouts of the role.
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, PREPARE_THRESHOLD="off", WEB_THREADS="1")
    db.execute(f"alter role {SERVICE} set idle_in_transaction_session_timeout = '50ms'")
    attach = mirror.attach_customer

    def late(connection, customer_id, grace):
        gone = "select from pg_stat_activity where pid = %s"
        while db.execute(gone, [connection.info.backend_pid]).rowcount:
            pass
        return attach(connection, customer_id, grace)

    monkeypatch.setattr(mirror, "attach_customer", late)
    try:
        service_of(api.application).pool.drain()
        refused(deliver(api, event("created", subscription())), "unavailable", 503)
    finally:
        db.execute(f"alter role {SERVICE} set idle_in_transaction_session_timeout = '5s'")
        monkeypatch.undo()
    # The pool may have replaced the lost connection before the role got its timeout back. Such a connection still has
    # the short timeout.
    service_of(api.application).pool.drain()
    assert outcome(api, event("created", subscription())) == "applied"


def test_a_learner_who_is_deleted_at_the_moment_is_nobody(api, learner, db, database_url):
    answers: list[str] = []
    with psycopg.connect(database_url) as other:
        other.execute("delete from users")
        thread = threading.Thread(target=lambda: answers.append(outcome(api, event("created", subscription()))))
        thread.start()
        while not db.execute("select from pg_locks where not granted").rowcount:
            assert thread.is_alive()
    thread.join()
    assert answers == ["unattached"]


@pytest.fixture(scope="module")
def service(environ) -> Iterator[Gunicorn]:
    """Yield a running service with two workers, for all tests that send events at the same time."""
    settings = {"STRIPE_WEBHOOK_SECRET": SECRET, "SUBSCRIPTION_GRACE": "0", "WEB_CONCURRENCY": "2"}
    with running_gunicorn(environ | settings) as service:
        yield service


@pytest.fixture
def post(service: Gunicorn) -> Callable[..., list[str]]:
    """Return a function that sends events at the same time, and returns their outcomes."""

    def post(*documents: dict[str, Any]) -> list[str]:
        def one(document: dict[str, Any]) -> str:
            payload, headers = signed_payload(document)
            request = urllib.request.Request(service.url + WEBHOOK, payload.encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return str(json.load(response)["outcome"])
            except OSError as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                return type(error).__name__

        with ThreadPoolExecutor(len(documents)) as pool:
            return list(pool.map(one, documents))

    return post


def test_two_deliveries_at_one_moment_leave_the_right_state(post, learner, db):
    other = "cus_other"
    for _ in range(15):
        forget(db)
        events = [
            event("created", subscription("incomplete", metadata={}), T0),
            event("updated", subscription("active", metadata={}), T0, {"status": "incomplete"}),
            checkout(),
            event("deleted", subscription("canceled", name=OLD, customer=other), T0 + 1),
            event("updated", subscription("active", name=OLD, customer=other), T0),
        ]
        assert set(post(*events)) <= {"applied", "stale", "unattached"}
        assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_two_subscriptions_of_one_learner_at_one_moment_wait_for_each_other(post, learner, db, database_url):
    ended = event("deleted", subscription("canceled", name=OLD, customer="cus_other"))
    with psycopg.connect(database_url) as other:
        other.execute("select from users for no key update")
        threads = [threading.Thread(target=post, args=[one]) for one in (event("created", subscription()), ended)]
        for thread in threads:
            thread.start()
        while db.execute("select count(*) from pg_stat_activity where wait_event_type = 'Lock'").fetchone() != (2,):
            assert any(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_a_kill_between_leaves_the_right_state_after_redelivery(service, post, learner, db, database_url):
    events = [event("created", subscription("incomplete"), T0), event("updated", subscription("active"), T0 + 1)]
    with psycopg.connect(database_url) as other:
        # Both events wait for a lock, in transactions that have not committed. Then the workers are killed.
        other.execute("select from users for update")
        threads = [threading.Thread(target=post, args=[document]) for document in events]
        for thread in threads:
            thread.start()
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while db.execute(waiting).fetchone() != (2,):
            assert any(thread.is_alive() for thread in threads)
        for worker in service.workers():
            os.kill(worker, signal.SIGKILL)
        for thread in threads:
            thread.join()
    while db.execute(
        waiting.replace("wait_event_type = 'Lock'", "state <> 'idle' and pid <> pg_backend_pid()")
    ).fetchone() != (0,):
        pass
    assert db.execute("select count(*) from stripe_subscriptions").fetchone() == (0,)
    while post(events[0]) != ["applied"]:
        pass
    assert post(events[1]) == ["applied"]
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


# make stripe-sync


class PlayedStripe(http.server.BaseHTTPRequestHandler):
    """A server in place of Stripe, with its lists as the API documents them, in pages of two."""

    lists: ClassVar[dict[str, list[dict[str, Any]]]] = {}
    asked: ClassVar[list[str]] = []  # the path of each request
    status = 200
    ahead = 0  # by how many seconds the server's clock is ahead

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.ahead)

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        path = urlsplit(self.path).path
        self.asked.append(path)
        if path == "/v1/subscriptions":
            assert asked["status"] == ["all"]
        if path == "/v1/checkout/sessions":
            assert (asked["status"], asked["expand[0]"]) == (["complete"], ["data.payment_intent.latest_charge"])
        if self.headers["Authorization"] != "Bearer rk_test_1":
            return self._answer(
                401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
            )
        if self.status != 200:
            return self._answer(self.status, {"error": {"type": "api_error", "message": "An error\non our side"}})
        listed = self.lists[path]
        names = [one["id"] for one in listed]
        first = names.index(asked["starting_after"][0]) + 1 if "starting_after" in asked else 0
        page = {
            "object": "list",
            "url": path,
            "has_more": first + 2 < len(names),
            "data": listed[first : first + 2],
        }
        return self._answer(200, page)

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def sync(database_url) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Return a function that runs `make stripe-sync` against PlayedStripe, and returns the exit code and the lines."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), PlayedStripe) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def run(
            *subscriptions: dict[str, Any],
            sessions: Iterable[dict[str, Any]] = (),
            disputes: Iterable[dict[str, Any]] = (),
            status: int = 200,
            **environ: str,
        ) -> tuple[int, list[str]]:
            PlayedStripe.lists = {
                "/v1/subscriptions": [*subscriptions],
                "/v1/checkout/sessions": [*sessions],
                "/v1/disputes": [*disputes],
            }
            PlayedStripe.asked.clear()
            PlayedStripe.status = status
            given = {
                "DATABASE_URL": database_url,
                "STRIPE_API_KEY": "rk_test_1",
                "STRIPE_API_BASE": f"http://127.0.0.1:{server.server_port}",
                "SUBSCRIPTION_GRACE": "0",
            }
            code, out, err = cli(None, "stripe-sync", **given | environ)
            return code, (out + err).splitlines()

        yield run
        server.shutdown()


def stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_sync_mends_what_differs_and_says_so(api, learner, db, sync):
    add_user(db, FREE_LEARNER, access=None)
    long_ago = 1_700_000_000
    deliver(api, event("created", subscription(), long_ago))
    deliver(api, event("created", subscription("active", name=OLD), long_ago))
    deliver(api, event("created", subscription("canceled", name="sub_gone"), long_ago))
    third = subscription(
        "trialing", name="sub_third", metadata={"userId": FREE_LEARNER}, version=SHAPES[0], customer="cus_3"
    )
    nobodys = subscription(name="sub_nobodys", metadata={"userId": "7"}, customer="cus_4")
    stripes = [
        subscription("past_due"),
        subscription("active", name=OLD),
        third,
        nobodys,
        {"id": "sub_odd", "object": "subscription"},
    ]
    end = stamp(T0 + 30 * DAY)
    status, said = sync(*stripes)
    assert (status, said) == (
        0,
        [
            f"{NEW}: active until {end}, {LEARNER} -> past_due until {end}, {LEARNER}",
            f"sub_third: unknown -> trialing until {end}, {FREE_LEARNER}",
            f"sub_nobodys: unknown -> active until {end}, of no known learner",
            "sub_odd: not stored, because it has no customer",
            "fetched 4 in all",
        ],
    )
    assert copied(db) == (OLD, "active", T0 + 30 * DAY)
    assert may_learn(api, FREE_LEARNER)
    assert sync(*stripes)[1] == ["sub_odd: not stored, because it has no customer", "fetched 4 in all"]


@pytest.mark.parametrize("option", ["timezone=Asia/Tokyo", "datestyle=German", "datestyle=SQL,DMY"])
def test_a_sync_shows_times_in_utc_up_to_the_year_9999_whatever_the_database_is_set_to(
    learner, database_url, sync, option
):
    last = 253_402_300_799
    status, said = sync(subscription(end=last), DATABASE_URL=f"{database_url}&options={quote(f'-c {option}')}")
    assert (status, said) == (
        0,
        [f"{NEW}: unknown -> active until 9999-12-31T23:59:59Z, {LEARNER}", "fetched 1 in all"],
    )


def test_a_sync_also_applies_the_terms_to_subscriptions_that_stripe_does_not_return(api, learner, db, sync):
    deliver(api, event("created", subscription()))
    assert sync(SUBSCRIPTION_GRACE="1 day") == (0, ["fetched 0 in all"])
    assert copied(db) == (NEW, "active", T0 + 31 * DAY)
    assert sync(STRIPE_PRICES="price_other") == (0, ["fetched 0 in all"])
    assert copied(db) is None
    assert sync(subscription(), STRIPE_PRICES="price_1")[0] == 0
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_a_sync_attaches_those_whose_learner_has_come(api, db, sync):
    deliver(api, event("created", subscription()))
    add_user(db, access=None)
    assert sync() == (0, [f"{CUSTOMER}: now belongs to a learner", "fetched 0 in all"])
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


def test_an_event_that_is_newer_than_what_was_fetched_holds(api, learner, db, sync):
    deliver(api, event("updated", subscription("past_due"), int(time.time()) + 100))
    assert sync(subscription("active"))[0] == 0
    assert copied(db) == (NEW, "past_due", T0 + 30 * DAY)


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_sync_goes_by_stripes_clock_whatever_ours_says(api, learner, db, sync, monkeypatch, ahead):
    monkeypatch.setattr(PlayedStripe, "ahead", ahead)
    began = int(time.time()) + ahead
    deliver(api, event("updated", subscription("past_due"), began - 60))
    assert sync(subscription("incomplete"))[0] == 0
    assert copied(db) == (NEW, "incomplete", T0 + 30 * DAY)
    assert outcome(api, event("updated", subscription("active"), int(time.time()) + ahead + 1)) == "applied"
    assert copied(db) == (NEW, "active", T0 + 30 * DAY)


@pytest.mark.parametrize(
    ("environ", "status", "line"),
    [
        (
            {"STRIPE_API_KEY": ""},
            200,
            "Error: STRIPE_API_KEY: is not set; it lets this read the subscriptions at Stripe",
        ),
        ({"STRIPE_API_KEY": "rk_wrong"}, 200, "Error: STRIPE_API_KEY: Stripe refuses it"),
        ({"SUBSCRIPTION_GRACE": "long"}, 200, "Error: SUBSCRIPTION_GRACE: 'long' is not a duration such as '1 hour', "),
        ({"STRIPE_PRICES": "a b"}, 200, "Error: STRIPE_PRICES: 'a b' is not the id of a price or product at Stripe, "),
        ({}, 400, "Error: Stripe: An error on our side"),
        ({"STRIPE_API_BASE": "http://127.0.0.1:1"}, 200, "Error: Stripe: Unexpected error communicating with Stripe."),
    ],
)
def test_a_sync_that_fails_is_one_line(db, sync, environ, status, line):
    code, said = sync(status=status, **environ)
    assert code == 1
    assert len(said) == 1
    assert said[0].startswith(line)


# make access


def access_lines(database_url: str, **settings: str) -> list[str]:
    _, out, err = cli(database_url, "access", LEARNER, **settings)
    return (out + err).splitlines()


def test_access_tells_what_stripe_says_of_every_subscription(api, learner, db, database_url):
    deliver(api, event("updated", subscription("past_due"), T0))
    deliver(api, event("created", subscription("active", name=OLD), T0 - DAY))
    deliver(api, checkout(customer="cus_2", subscription="sub_third"))
    deliver(api, event("created", subscription("trialing", name="sub_third", customer="cus_2", metadata={}, end=None)))
    deliver(api, event("created", subscription(name="sub_others", customer="cus_3", metadata={"userId": STRANGER})))
    end = stamp(T0 + 30 * DAY)
    assert access_lines(database_url) == [
        "full access: every published lesson",
        f"subscription: active, period ends {end}",
        "enrollment: none",
        f"Stripe said last, at {stamp(T0)}: {NEW} is past_due, period ends {end}",
        f"Stripe said last, at {stamp(T0)}: sub_third is trialing, period ends at no known time",
        f"Stripe said last, at {stamp(T0 - DAY)}: {OLD} is active, period ends {end}",
    ]


def test_access_tells_of_a_subscription_that_waits_for_its_learner(api, db, database_url):
    deliver(api, event("created", subscription()))
    deliver(api, checkout(customer="cus_2", subscription=OLD))
    deliver(api, event("created", subscription(name=OLD, customer="cus_2", metadata={})))
    deliver(api, event("created", subscription(name="sub_others", customer="cus_3", metadata={"userId": STRANGER})))
    add_user(db, access=None)
    waits = "; counts after its next event or make stripe-sync"
    assert access_lines(database_url)[3:] == [
        f"Stripe said last, at {stamp(T0)}: {name} is active, period ends {stamp(T0 + 30 * DAY)}{waits}"
        for name in (NEW, OLD)
    ]


def test_access_tells_which_prices_a_subscription_is_for_where_they_matter(make_api, learner, db, database_url):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, STRIPE_PRICES="price_9,prod_8")
    deliver(api, event("created", subscription(items=items(("price_1", "prod_1", T0), ("price_2", None, T0)))))
    deliver(api, event("created", subscription(name=OLD, items=None), T0 - DAY))
    assert access_lines(database_url, STRIPE_PRICES="price_9, prod_8") == [
        "no access: not enrolled",
        "subscription: none",
        "enrollment: none",
        f"Stripe said last, at {stamp(T0)}: {NEW} is active, period ends {stamp(T0)}, for price_1, price_2, prod_1",
        f"Stripe said last, at {stamp(T0 - DAY)}: {OLD} is active, period ends at no known time, for no price",
        "access is given by: price_9, prod_8 (STRIPE_PRICES)",
    ]


def test_what_came_of_an_event_is_logged_and_counted(make_api, learner, db, caplog):
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, METRICS="on")

    def counted(outcome: str) -> float:
        text = api.get("/metrics").text
        lines = [line for line in text.splitlines() if f'events_total{{outcome="{outcome}"}}' in line]
        return float(lines[0].rpartition(" ")[2]) if lines else 0

    before = {name: counted(name) for name in ("applied", "unattached")}
    document = event("created", subscription())
    nobodys = event("created", subscription(name=OLD, metadata={"userId": uuid4(0xBAD)}, customer="cus_2"))
    with caplog.at_level("INFO", "progress.requests"):
        deliver(api, document)
        deliver(api, nobodys)
    fields = [record.__dict__["fields"]["stripe"] for record in caplog.records]
    assert fields == [
        {"event": document["id"], "type": document["type"], "outcome": "applied"},
        {
            "event": nobodys["id"],
            "type": nobodys["type"],
            "outcome": "unattached",
            "reason": "the learner is not in users",
        },
    ]
    assert {name: counted(name) - before[name] for name in before} == {"applied": 1, "unattached": 1}
