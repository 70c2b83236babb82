"""What follows from an event: which state of a subscription is stored, who owns it, and who has full access.

All functions but apply_terms run in the transaction of their caller.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import DictRow

from app.database import statements
from app.settings import Settings
from app.stripe.events import Checkout, SubscriptionState, read_items
from app.stripe.order import latest_first, rank


class AccessTerms(NamedTuple):
    """Which subscriptions give access, for how long, and to whom: three settings of the service."""

    grace_seconds: int  # after the end of a period (SUBSCRIPTION_GRACE)
    prices: tuple[str, ...]  # ids of prices and products (STRIPE_PRICES); empty: every subscription gives access
    adds_learners: bool = False  # who pays and is not in users is added there (NEW_LEARNERS)


def access_terms(settings: Settings) -> AccessTerms:
    """Return the terms that the settings name."""
    return AccessTerms(settings.subscription_grace, settings.stripe_prices, settings.new_learners != "refuse")


def store_event(connection: psycopg.Connection[Any], state: SubscriptionState, terms: AccessTerms) -> str:
    """Store the state of a subscription if it is newer than the stored one, and give the owner the access that follows.

    Returns `applied`; `unattached`: stored, but no learner in users owns it; `stale`: a newer state is stored already.
    """
    subscription_id = state.stripe_subscription_id
    statements.run(connection, "stripe/lock", customer_id=state.customer_id)
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
    if subscription_id not in owned:
        return "unattached"
    return "applied" if states[0] is state else "stale"


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
    if (
        unknown
        and terms.adds_learners
        and statements.one(statements.run(connection, "learners/rights").fetchone())["own_users"]
    ):
        # The ids are sorted for the reason that _attach gives.
        for user_id in unknown:
            _add_if_that_gives_access(connection, customer_id, user_id, terms)
        rows = _attach(connection, customer_id, terms)
    return {row["stripe_subscription_id"] for row in rows if row["after"]}


def _add_if_that_gives_access(
    connection: psycopg.Connection[Any], customer_id: str, user_id: str, terms: AccessTerms
) -> None:
    """Add a learner whom a subscription names. Take that back if the learner is not enrolled afterwards.

    In this way the views of the database decide what gives access. The rule is not repeated here.
    """
    with connection.transaction() as attempt:
        statements.run(connection, "learners/add", user_id=user_id)
        _attach(connection, customer_id, terms)
        if not statements.one(statements.run(connection, "learners/missing", user_id=user_id).fetchone())["enrolled"]:
            raise psycopg.Rollback(attempt)


def lock_claimed_customers(connection: psycopg.Connection[Any], user_id: str) -> list[str]:
    """Lock each customer with a subscription or session that names this learner and has no owner yet.

    Returns the ids of the customers, sorted. The caller then adds the learner and attaches these customers.
    """
    rows = statements.run(connection, "stripe/claimed", user_id=user_id).fetchall()
    customers = [row["customer_id"] for row in rows]
    for customer_id in customers:
        statements.run(connection, "stripe/lock", customer_id=customer_id)
    return customers


def _attach(connection: psycopg.Connection[Any], customer_id: str, terms: AccessTerms) -> list[DictRow]:
    """Set the owners of a customer's subscriptions, if they are in users. Return the rows of stripe/attach.sql."""
    rows = statements.run(connection, "stripe/attach", customer_id=customer_id).fetchall()
    # Sorted, so that two transactions lock the same learners in the same order. Otherwise there may be a deadlock.
    learners = sorted({str(row[when]) for row in rows for when in ("before", "after") if row[when]})
    for learner in learners:
        # The learner exists, because a foreign key refers to the row in users. So row level security hides the row. The
        # statements below would then take the access away.
        if not statements.run(connection, "lock", user_id=learner).fetchone():
            raise psycopg.OperationalError("lock.sql found no row of the learner")
    # If no owner is in users, a row in subscriptions that was written by hand may be right. It stays.
    if learners:
        if terms.prices:
            _store_items(connection, _array(learners))
        statements.run(connection, "stripe/release", customer_id=customer_id, user_ids=_array(learners))
        _copy_best(connection, _array(learners), terms)
    return rows


def store_checkout(connection: psycopg.Connection[Any], checkout: Checkout, terms: AccessTerms) -> str:
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
    statements.run(connection, "stripe/lock", customer_id=checkout.customer_id)
    if checkout.stripe_subscription_id:
        subscription_id = checkout.stripe_subscription_id
        statements.run(connection, "stripe/checkout", stripe_subscription_id=subscription_id, **values)
    statements.run(connection, "stripe/tie", **values)
    attach_customer(connection, checkout.customer_id, terms)
    return "applied" if statements.run(connection, "lock", user_id=user_id).fetchone() else "unattached"


def apply_terms(connection: psycopg.Connection[Any], terms: AccessTerms) -> None:
    """Apply these terms to every row of `subscriptions` that the mirror wrote.

    The start of the service and make stripe-sync do this, since the terms may have changed. Rows that were written by
    hand stay as they are. All rows change in one transaction. Before it, items that are not stored yet are stored in
    transactions of their own.
    """
    # If the rest fails, these items stay stored, and the next attempt has less to do.
    while terms.prices and _store_items(connection, None):
        pass
    with connection.transaction():
        statements.run(connection, "stripe/apply_terms_lock")
        row = statements.one(statements.run(connection, "stripe/apply_terms_learners").fetchone())
        _copy_best(connection, row["user_ids"], terms)


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
    prices = _array(terms.prices)
    statements.run(connection, "stripe/copy", user_ids=user_ids, grace=str(terms.grace_seconds), prices=prices)


def _array(values: Iterable[str]) -> str:
    # The values have no quotation mark and no backslash: settings.py refuses both, and the others are UUIDs.
    return "{" + ",".join(f'"{value}"' for value in values) + "}"
