"""`make stripe-sync`: fetch every subscription from Stripe, and store what the webhook missed."""

import math
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import psycopg
import stripe
from psycopg.rows import DictRow

from app.database import statements
from app.stripe.events import MalformedError, read_subscription
from app.stripe.mirror import AccessTerms, apply_terms, attach_customer, store_event


def sync(
    connection: psycopg.Connection[Any],
    api_key: str,
    user_id_key: str,
    namespace: UUID | None,
    terms: AccessTerms,
    api_base: str | None = None,
) -> Iterator[str]:
    """Fetch every subscription from Stripe and store its state. Yield a line for each one that this changed.

    `user_id_key` and `namespace` say how the metadata names a learner, as for read_subscription.

    Raises stripe.StripeError. Each subscription has a transaction of its own: what is stored before a failure stays.
    """
    # The terms also apply to subscriptions that Stripe does not return.
    apply_terms(connection, terms)
    client = stripe.StripeClient(api_key, base_addresses={"api": api_base} if api_base else {}, max_network_retries=2)
    fetched = 0
    for at, subscription in _subscriptions(client):
        event = {
            "id": f"fetched-{at}",
            "type": "customer.subscription.fetched",
            "created": at,
            "data": {"object": subscription.to_dict()},
        }
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


def _subscriptions(client: stripe.StripeClient) -> Iterator[tuple[int, stripe.Subscription]]:
    """Yield every subscription at Stripe, with a time at which it had this state.

    The time is a whole second of Stripe's clock, because the clock of this machine may differ. An event of the same
    second counts as later than the state.
    """
    asked = time.monotonic()
    page = client.v1.subscriptions.list({"status": "all", "limit": 100})
    while True:
        # Stripe read the state between our request and its answer.
        response: Any = page.last_response
        answered = parsedate_to_datetime(response.headers["Date"]).timestamp()
        at = int(answered - math.ceil(time.monotonic() - asked))
        yield from ((at, subscription) for subscription in page.data)
        if not page.has_more:
            return
        asked = time.monotonic()
        page = page.next_page()


def _owner(connection: psycopg.Connection[Any], subscription_id: str) -> DictRow | None:
    return statements.run(connection, "admin/stripe_owner", stripe_subscription_id=subscription_id).fetchone()


def _described(row: DictRow | None) -> str:
    if row is None:
        return "unknown"
    end = row["current_period_end"]
    until = f" until {end}" if end else ""
    return f"{row['status']}{until}, {row['user_id'] or 'of no known learner'}"
