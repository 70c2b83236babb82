"""`make stripe-sync`: fetch subscriptions and payments for courses from Stripe, and store what the webhook missed."""

import math
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import psycopg
import stripe
from psycopg.rows import DictRow

from app.database import statements
from app.stripe.events import MalformedError, Reversal, read_payment, read_reversal, read_subscription
from app.stripe.mirror import AccessTerms, apply_terms, attach_customer, store_event, store_payment, store_reversal

PAGE = 100  # objects in a trip; Stripe allows no more


def sync(
    connection: psycopg.Connection[Any],
    api_key: str,
    user_id_key: str,
    namespace: UUID | None,
    terms: AccessTerms,
    api_base: str | None = None,
) -> Iterator[str]:
    """Fetch every subscription from Stripe and store its state. Yield a line for each one that this changed.

    If the site has courses, do the same with each paid Checkout Session that names a course, with its refund, and with
    each lost dispute. `user_id_key` and `namespace` say how the metadata names a learner, as for read_subscription.

    Raises stripe.StripeError. Each subscription has a transaction of its own: what is stored before a failure stays.
    """
    # The terms also apply to subscriptions that Stripe does not return.
    apply_terms(connection, terms)
    client = stripe.StripeClient(api_key, base_addresses={"api": api_base} if api_base else {}, max_network_retries=2)
    fetched = 0
    for at, subscription in _pages(lambda: client.v1.subscriptions.list({"status": "all", "limit": PAGE})):
        event = _event("customer.subscription.fetched", at, subscription.to_dict())
        try:
            state = read_subscription(event, user_id_key, namespace)
        except (MalformedError, ValueError) as error:
            yield f"{subscription.id}: not stored, because it has {error}"
            continue
        with connection.transaction():
            subscription_id = state.stripe_subscription_id
            before = _owner(connection, subscription_id)
            store_event(connection, state, terms)
            after = _owner(connection, subscription_id)
        if before != after:
            yield f"{subscription_id}: {_described(before)} -> {_described(after)}"
        fetched += 1
        if fetched % 100 == 0:
            yield f"fetched {fetched}"
    for row in statements.run(connection, "admin/stripe_unattached").fetchall():
        with connection.transaction():
            if attach_customer(connection, row["customer_id"], terms):
                yield f"{row['customer_id']}: now belongs to a learner"
    yield f"fetched {fetched} in all"
    if statements.one(statements.run(connection, "admin/has_courses").fetchone())["has_courses"]:
        yield from _sync_payments(connection, client, namespace, terms)


def _sync_payments(
    connection: psycopg.Connection[Any], client: stripe.StripeClient, namespace: UUID | None, terms: AccessTerms
) -> Iterator[str]:
    """Fetch every completed Checkout Session, and every dispute. Yield a line for each payment that this changed."""
    fetched = 0
    # The session comes with the charge of its payment, which says whether it was refunded. So a page is one trip.
    charge = ["data.payment_intent.latest_charge"]
    for at, fetched_session in _pages(
        lambda: client.v1.checkout.sessions.list({"status": "complete", "limit": PAGE, "expand": charge})
    ):
        session = fetched_session.to_dict()
        intent = session.get("payment_intent")
        if isinstance(intent, dict):
            session["payment_intent"] = intent.get("id")
        try:
            payment = read_payment(_event("checkout.session.fetched", at, session), namespace)
        except MalformedError as error:
            yield f"{fetched_session.id}: not stored, because it has {error}"
            continue
        if payment is None:
            continue
        with connection.transaction():
            before = _given(connection, payment.source)
            charged = intent.get("latest_charge") if isinstance(intent, dict) else None
            if isinstance(charged, dict) and charged.get("refunded") is True:
                store_reversal(connection, Reversal(payment.source, refunded_at=at), terms)
            elif isinstance(charged, dict):
                # Any refund before `at` has failed. The event of a refund in this very second may still come.
                statements.run(connection, "stripe/lock", stripe_id=payment.source)
                said = {"payment_intent_id": payment.source, "refund_failed_at": str(at - 1)}
                statements.run(connection, "stripe/not_refunded", **said)
            outcome = store_payment(connection, payment, terms)
            after = _given(connection, payment.source)
        if before != after or outcome.reason:
            why = f": {outcome.reason}" if outcome.reason else ""
            yield f"{payment.source}: {_described_courses(before)} -> {_described_courses(after)}{why}"
        fetched += 1
    for at, dispute in _pages(lambda: client.v1.disputes.list({"limit": PAGE})):
        try:
            reversal = read_reversal(_event("charge.dispute.closed", at, dispute.to_dict()))
        except MalformedError as error:
            yield f"{dispute.id}: not stored, because it has {error}"
            continue
        if reversal is None:
            continue
        with connection.transaction():
            before = _given(connection, reversal.payment_intent_id)
            store_reversal(connection, reversal, terms)
            after = _given(connection, reversal.payment_intent_id)
        if before != after:
            yield f"{reversal.payment_intent_id}: {_described_courses(before)} -> {_described_courses(after)}"
    yield f"fetched {fetched} payments for courses"


def _event(kind: str, at: int, document: dict[str, Any]) -> dict[str, Any]:
    """Return what was fetched in the form of an event, for the functions that read events."""
    return {"id": f"fetched-{at}", "type": kind, "created": at, "data": {"object": document}}


def _pages(first: Callable[[], Any]) -> Iterator[tuple[int, Any]]:
    """Yield everything in a list at Stripe, with a time at which it had this state. `first` fetches the first page.

    The time is a whole second of Stripe's clock, because the clock of this machine may differ. An event of the same
    second counts as later than the state.
    """
    asked = time.monotonic()
    page = first()
    while True:
        # Stripe read the state between our request and its answer.
        answered = parsedate_to_datetime(page.last_response.headers["Date"]).timestamp()
        at = int(answered - math.ceil(time.monotonic() - asked))
        yield from ((at, each) for each in page.data)
        if not page.has_more:
            return
        asked = time.monotonic()
        page = page.next_page()


def _owner(connection: psycopg.Connection[Any], subscription_id: str) -> DictRow | None:
    return statements.run(connection, "admin/stripe_owner", stripe_subscription_id=subscription_id).fetchone()


def _given(connection: psycopg.Connection[Any], source: str) -> DictRow | None:
    payment = statements.run(connection, "stripe/payment", source=source).fetchone()
    if payment is None:
        return None
    user_id = payment["user_id"] and str(payment["user_id"])
    given = statements.one(statements.run(connection, "admin/stripe_given", user_id=user_id, source=source).fetchone())
    return {"user_id": user_id, **given}


def _described_courses(row: DictRow | None) -> str:
    if row is None:
        return "unknown"
    return f"{row['courses']}, {row['user_id'] or 'of no known learner'}"


def _described(row: DictRow | None) -> str:
    if row is None:
        return "unknown"
    end = row["current_period_end"]
    until = f" until {end}" if end else ""
    return f"{row['status']}{until}, {row['user_id'] or 'of no known learner'}"
