"""What follows from an event: what is stored of it, who owns that, and who has full access or access to a course.

All functions but apply_terms and give_waiting_courses run in the transaction of their caller.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import DictRow

from app.database import statements
from app.settings import Settings
from app.stripe.events import Checkout, NamedCourses, Payment, Reversal, SubscriptionState, named_courses, read_items
from app.stripe.order import latest_first, rank

# Why something is `unattached` or `malformed`.
UNKNOWN_LEARNER = "the learner is not in users"
UNKNOWN_COURSE = "a course that metadata.courseId names is not loaded"
NO_LEARNER = "the Checkout Session has no client_reference_id"
MALFORMED_COURSE = "metadata.courseId has an id that is not a UUID of version 4"


class Outcome(NamedTuple):
    """What came of an event, in the words of the API, and for some outcomes the reason."""

    name: str
    reason: str | None = None


class AccessTerms(NamedTuple):
    """Which subscriptions give access, for how long, and to whom: three settings of the service."""

    grace_seconds: int  # after the end of a period (SUBSCRIPTION_GRACE)
    prices: tuple[str, ...]  # ids of prices and products (STRIPE_PRICES); empty: every subscription gives access
    adds_learners: bool = False  # who pays and is not in users is added there (NEW_LEARNERS)


def access_terms(settings: Settings) -> AccessTerms:
    """Return the terms that the settings name."""
    return AccessTerms(settings.subscription_grace, settings.stripe_prices, settings.new_learners != "refuse")


def store_event(connection: psycopg.Connection[Any], state: SubscriptionState, terms: AccessTerms) -> Outcome:
    """Store the state of a subscription if it is newer than the stored one, and give the owner the access that follows.

    Returns `applied`; `malformed`: stored, but it names something that can be no course; `unattached`: stored, but no
    learner in users owns it, or a course that it names is not loaded; `stale`: a newer state is stored already.
    """
    subscription_id = state.stripe_subscription_id
    statements.run(connection, "stripe/lock", stripe_id=state.customer_id)
    row = statements.run(connection, "stripe/subscription", stripe_subscription_id=subscription_id).fetchone()
    stored = _stored(row) if row else []
    states = latest_first([*stored, state])
    if states != stored:
        latest, *rivals = states
        end = latest.current_period_end
        statements.run(
            connection,
            "stripe/save",
            stripe_subscription_id=latest.stripe_subscription_id,
            customer_id=latest.customer_id,
            claimed_user_id=latest.claimed_user_id,
            status=latest.status,
            current_period_end=None if end is None else str(end),
            event_id=latest.event_id,
            event_type=latest.event_type,
            event_created=str(latest.event_created),
            object=json.dumps(latest.object),
            previous_attributes=json.dumps(latest.previous_attributes),
            items=json.dumps(read_items(latest.event_id, latest.object)),
            rivals=json.dumps([asdict(rival) for rival in rivals]),
        )
    # Do this also if nothing was stored: the learner may have been added to users since the last event.
    owned = attach_customer(connection, state.customer_id, terms)
    courses = named_courses(states[0].object)
    return _what_is_missing(connection, courses, owned=subscription_id in owned) or Outcome(
        "applied" if states[0] is state else "stale"
    )


def _what_is_missing(connection: psycopg.Connection[Any], courses: NamedCourses | None, owned: bool) -> Outcome | None:
    """Return the outcome if something of what was paid for cannot be given yet, or never; None if all is given."""
    if courses and courses.malformed:
        return Outcome("malformed", MALFORMED_COURSE)
    if not owned:
        return Outcome("unattached", UNKNOWN_LEARNER)
    if courses:
        found = statements.run(
            connection, "stripe/unknown_courses", course_ids=statements.array(courses.ids)
        ).fetchone()
        if statements.one(found)["unknown"]:
            return Outcome("unattached", UNKNOWN_COURSE)
    return None


def _stored(row: DictRow) -> list[SubscriptionState]:
    """Return the stored states of a subscription: the latest one, then its rivals."""
    rivals = [SubscriptionState(**rival) for rival in json.loads(row.pop("rivals"))]
    latest = SubscriptionState(
        **row | {name: json.loads(row[name]) for name in ("object", "previous_attributes")},
    )
    # An earlier version of the service runs until this one has started. It replaces the latest state, and leaves rivals
    # of the state before.
    return [latest, *(rival for rival in rivals if rank(rival) == rank(latest))]


def attach_customer(connection: psycopg.Connection[Any], customer_id: str, terms: AccessTerms) -> set[str]:
    """Set the owners of a customer's subscriptions, and give the learners the access that follows.

    If NEW_LEARNERS allows it, this adds a learner who is not in users and who gets access by it. Returns the ids of
    the subscriptions that have an owner.
    """
    rows = _attach(connection, customer_id, terms)
    unknown = sorted({str(row["named"]) for row in rows if row["named"] and not row["after"]})
    if unknown and _may_add_learners(connection, terms):
        # The ids are sorted for the reason that _attach gives.
        for user_id in unknown:
            _add_if_that_gives_access(connection, user_id, lambda: _attach(connection, customer_id, terms))
        rows = _attach(connection, customer_id, terms)
    return {row["stripe_subscription_id"] for row in rows if row["after"]}


def _may_add_learners(connection: psycopg.Connection[Any], terms: AccessTerms) -> bool:
    if not terms.adds_learners:
        return False
    return bool(statements.one(statements.run(connection, "learners/rights").fetchone())["own_users"])


def _add_if_that_gives_access(connection: psycopg.Connection[Any], user_id: str, attach: Callable[[], object]) -> None:
    """Add a learner whom something at Stripe names. Take that back if the learner is not enrolled after `attach`.

    In this way the views of the database decide what gives access. The rule is not repeated here.
    """
    with connection.transaction() as attempt:
        statements.run(connection, "learners/add", user_id=user_id)
        attach()
        if not statements.one(statements.run(connection, "learners/missing", user_id=user_id).fetchone())["enrolled"]:
            raise psycopg.Rollback(attempt)


def lock_claimed(connection: psycopg.Connection[Any], user_id: str) -> list[str]:
    """Lock what Stripe keeps for a learner: customers with something that names the learner, and the payments.

    Returns the ids of the customers, sorted. The caller then adds the learner, and calls attach_claimed.
    """
    rows = statements.run(connection, "stripe/claimed", user_id=user_id).fetchall()
    customers = [row["customer_id"] for row in rows]
    # The learner comes last, as in store_payment. Otherwise there may be a deadlock.
    for stripe_id in (*customers, user_id):
        statements.run(connection, "stripe/lock", stripe_id=stripe_id)
    return customers


def attach_claimed(connection: psycopg.Connection[Any], customers: list[str], user_id: str, terms: AccessTerms) -> None:
    """Give a learner who was just added what lock_claimed has locked."""
    for customer_id in customers:
        attach_customer(connection, customer_id, terms)
    attach_payments(connection, user_id, terms)


def _attach(connection: psycopg.Connection[Any], customer_id: str, terms: AccessTerms) -> list[DictRow]:
    """Set the owners of a customer's subscriptions, if they are in users. Return the rows of stripe/attach.sql."""
    rows = statements.run(connection, "stripe/attach", customer_id=customer_id).fetchall()
    learners = _owners(rows)
    if learners:
        # A payment may wait for one of these learners. Most payments have no further event that could attach them.
        waiting = statements.run(connection, "stripe/attach_payments", user_ids=statements.array(learners))
        learners |= _owners(waiting.fetchall())
    _lock_owners(connection, learners)
    # If no owner is in users, a row in subscriptions that was written by hand may be right. It stays.
    if learners:
        _store_items(connection, statements.array(learners))
        statements.run(connection, "stripe/release", customer_id=customer_id, user_ids=statements.array(learners))
        _copy_best(connection, statements.array(learners), terms)
        _give_courses(connection, statements.array(learners), terms)
    return rows


def _owners(rows: list[DictRow]) -> set[str]:
    """Return the learners in the rows of stripe/attach.sql or stripe/attach_payments.sql."""
    return {str(row[when]) for row in rows for when in ("before", "after") if row[when]}


def _lock_owners(connection: psycopg.Connection[Any], learners: set[str]) -> None:
    # Sorted, so that two transactions lock the same learners in the same order. Otherwise there may be a deadlock.
    for learner in sorted(learners):
        # The learner exists, because a foreign key refers to the row in users. So row level security hides the row. The
        # statements that follow would then take the access away.
        if not statements.run(connection, "lock", user_id=learner).fetchone():
            raise psycopg.OperationalError("lock.sql found no row of the learner")


def store_checkout(connection: psycopg.Connection[Any], checkout: Checkout, terms: AccessTerms) -> Outcome:
    """Store which learner a Checkout Session names, and give that learner the access that follows.

    Returns `applied`, or `unattached` while the learner is not in users.
    """
    user_id = str(checkout.claimed_user_id)
    values = {
        "customer_id": checkout.customer_id,
        "claimed_user_id": user_id,
        "checkout_session_id": checkout.checkout_session_id,
        "session_created": str(checkout.session_created),
    }
    statements.run(connection, "stripe/lock", stripe_id=checkout.customer_id)
    if checkout.stripe_subscription_id:
        subscription_id = checkout.stripe_subscription_id
        statements.run(connection, "stripe/checkout", stripe_subscription_id=subscription_id, **values)
    statements.run(connection, "stripe/tie", **values)
    attach_customer(connection, checkout.customer_id, terms)
    known = statements.run(connection, "lock", user_id=user_id).fetchone()
    return Outcome("applied") if known else Outcome("unattached", UNKNOWN_LEARNER)


def store_payment(connection: psycopg.Connection[Any], payment: Payment, terms: AccessTerms) -> Outcome:
    """Store what a Checkout Session paid for, and give the learner the courses that follow.

    If NEW_LEARNERS allows it, this adds a learner who is not in users and who gets access by it. Returns the outcome
    as store_event does. A session without a learner, or without an id that can be a course, is not stored.
    """
    user_id = payment.claimed_user_id
    if not payment.courses.ids:
        return Outcome("malformed", MALFORMED_COURSE)
    if user_id is None:
        return Outcome("unattached", NO_LEARNER)
    for stripe_id in (payment.source, user_id):
        statements.run(connection, "stripe/lock", stripe_id=stripe_id)
    statements.run(
        connection,
        "stripe/save_payment",
        source=payment.source,
        checkout_session_id=payment.checkout_session_id,
        claimed_user_id=user_id,
        course_ids=statements.array(payment.courses.ids),
        event_created=str(payment.event_created),
    )
    owned = attach_payments(connection, user_id, terms)
    if not owned and _may_add_learners(connection, terms):
        _add_if_that_gives_access(connection, user_id, lambda: attach_payments(connection, user_id, terms))
        owned = attach_payments(connection, user_id, terms)
    return _what_is_missing(connection, payment.courses, owned) or Outcome("applied")


def store_reversal(connection: psycopg.Connection[Any], reversal: Reversal, terms: AccessTerms) -> Outcome:
    """Store that a payment was refunded or lost in a dispute, or that its refund failed, and let its courses follow."""
    payment_intent_id = reversal.payment_intent_id
    times = {
        name: None if at is None else str(at) for name, at in asdict(reversal).items() if name != "payment_intent_id"
    }
    statements.run(connection, "stripe/lock", stripe_id=payment_intent_id)
    statements.run(connection, "stripe/save_reversal", payment_intent_id=payment_intent_id, **times)
    payment = statements.run(connection, "stripe/payment", source=payment_intent_id).fetchone()
    if payment:
        attach_payments(connection, str(payment["claimed_user_id"]), terms)
    return Outcome("applied")


def attach_payments(connection: psycopg.Connection[Any], user_id: str, terms: AccessTerms) -> bool:
    """Set the owner of the payments that name a learner, and give the courses that follow. Return whether one is owned.

    The learner may be unknown in users.
    """
    rows = statements.run(connection, "stripe/attach_payments", user_ids=statements.array([user_id])).fetchall()
    learners = _owners(rows)
    _lock_owners(connection, learners)
    if learners:
        _give_courses(connection, statements.array(learners), terms)
    return any(row["after"] for row in rows)


def _give_courses(connection: psycopg.Connection[Any], user_ids: str, terms: AccessTerms) -> None:
    statements.run(connection, "stripe/take_courses", user_ids=user_ids)
    statements.run(connection, "stripe/give_courses", user_ids=user_ids, grace=str(terms.grace_seconds))


def give_waiting_courses(connection: psycopg.Connection[Any], terms: AccessTerms) -> None:
    """Give what Stripe sold for courses that were not loaded, or to learners who were not in users, when it was paid.

    For a task that has loaded courses. It also applies these terms to the courses that subscriptions give. A learner
    who is not in users stays waiting.
    """
    with connection.transaction():
        statements.run(connection, "stripe/apply_terms_lock")
        grace = str(terms.grace_seconds)
        row = statements.one(statements.run(connection, "stripe/course_learners", grace=grace).fetchone())
        statements.run(connection, "stripe/attach_payments", user_ids=row["user_ids"])
        _give_courses(connection, row["user_ids"], terms)


def apply_terms(connection: psycopg.Connection[Any], terms: AccessTerms) -> None:
    """Apply these terms to every row of `subscriptions` that the mirror wrote, and to the courses that Stripe gives.

    The start of the service and make stripe-sync do this, since the terms may have changed. Rows that were written by
    hand stay as they are. All rows change in one transaction. Before it, items that are not stored yet are stored in
    transactions of their own.
    """
    # If the rest fails, these items stay stored, and the next attempt has less to do.
    while _store_items(connection, None):
        pass
    with connection.transaction():
        statements.run(connection, "stripe/apply_terms_lock")
        row = statements.one(statements.run(connection, "stripe/apply_terms_learners").fetchone())
        _copy_best(connection, row["user_ids"], terms)
        give_waiting_courses(connection, terms)


def _store_items(connection: psycopg.Connection[Any], user_ids: str | None) -> bool:
    """Read and store the items of up to a thousand subscriptions that another version of the service stored without.

    `user_ids` is an array of learners, or None for all learners. Returns False if there is no such subscription.
    """
    rows = statements.run(connection, "stripe/unread", user_ids=user_ids).fetchall()
    read = [
        {
            "stripe_subscription_id": row["stripe_subscription_id"],
            "items": read_items(row["event_id"], json.loads(row["object"])),
        }
        for row in rows
    ]
    if read:
        statements.run(connection, "stripe/items", items=json.dumps(read))
    return bool(read)


def _copy_best(connection: psycopg.Connection[Any], user_ids: str, terms: AccessTerms) -> None:
    prices = statements.array(terms.prices)
    statements.run(connection, "stripe/copy", user_ids=user_ids, grace=str(terms.grace_seconds), prices=prices)
