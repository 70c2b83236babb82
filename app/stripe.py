"""Stripe's webhook, and the mirror of its subscriptions that decides who has full access.

Events come in any order, more than once, and two of one second are usual. So each subscription has a row of its own
that only what is newer replaces, and the best of a learner's rows is copied into `subscriptions`, in the same
transaction.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import psycopg
import stripe
from flask import Blueprint, Response, current_app, g, request
from psycopg.rows import DictRow

from app import checks, database
from app.problems import Problem
from app.sessions import USER_ID
from app.settings import Settings

blueprint = Blueprint("stripe", __name__)

TOLERANCE = 300  # seconds between a signature's time and ours
LARGEST_BODY = 512 * 1024

# No event follows these (https://docs.stripe.com/api/subscriptions/object).
TERMINAL = ("canceled", "incomplete_expired")
# Of two events of one second, the one further to the right came later.
RANKS = ("fetched", "created", "updated", "deleted")
EVENTS = ("created", "updated", "deleted", "paused", "resumed")


NO_UUID = "the user id is not a UUID"


class MalformedError(Exception):
    """What Stripe signed is not what its API describes."""


@dataclass(frozen=True)
class Said:
    """What an event, or Stripe's API when it was asked, says of a subscription; times are seconds since 1970."""

    stripe_subscription_id: str
    customer_id: str
    claimed_user_id: str | None
    status: str
    current_period_end: float | None
    event_id: str
    event_type: str
    event_created: float
    object: dict[str, Any]
    previous_attributes: dict[str, Any]


@blueprint.post("/api/stripe/webhook")
def webhook() -> Response:
    """Take one event of Stripe's: 200 once it is kept or is none of ours."""
    request.max_content_length = LARGEST_BODY + 1
    payload = checks.body(LARGEST_BODY, "Send a body of 512 KiB at most.")
    _verify(payload or b"", current_app.extensions["settings"].stripe_webhook_secrets)
    try:
        event = json.loads(payload or b"")
        outcome = _take(event)
    except (MalformedError, ValueError, RecursionError) as error:
        # Stripe would send it for days, and then the events that matter no more.
        g.error = f"an event that is not as Stripe describes it: {error}"
        outcome = "malformed"
    g.setdefault("stripe", {})["outcome"] = outcome
    return Response(json.dumps({"outcome": outcome}) + "\n", mimetype="application/json")


def _verify(payload: bytes, secrets: tuple[str, ...]) -> None:
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(
                payload, request.headers.get("Stripe-Signature"), secret, tolerance=TOLERANCE
            )
            return
        # The library compares and decodes what it is given without a look at it.
        except (stripe.SignatureVerificationError, ValueError, TypeError):
            continue
    raise Problem("invalid_signature")


def _take(event: Any) -> str:
    settings: Settings = current_app.extensions["settings"]
    kind = _text(event, "type")
    g.stripe = {"event": _text(event, "id"), "type": kind}
    area, _, what = kind.rpartition(".")
    if area == "customer.subscription" and what in EVENTS:
        said = read(event, settings.stripe_user_id_metadata)
        metadata = said.object.get("metadata")
        if (
            said.claimed_user_id is None
            and isinstance(metadata, dict)
            and metadata.get(settings.stripe_user_id_metadata)
        ):
            g.stripe["reason"] = NO_UUID
        return database.transact("stripe", lambda connection: keep(connection, said, settings.subscription_grace))
    if kind == "checkout.session.completed":
        return database.transact("stripe", lambda connection: _tie(connection, event, settings.subscription_grace))
    return "ignored"


def read(event: dict[str, Any], user_id_metadata: str) -> Said:
    """Read an event of a subscription. Raises MalformedError."""
    data = event.get("data")
    subscription = data.get("object") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(subscription, dict):
        raise MalformedError("no data.object")
    created = _time(event.get("created"))
    if created is None:
        raise MalformedError("no created")
    kind = _text(event, "type").rpartition(".")[2]
    previous = data.get("previous_attributes")
    metadata = subscription.get("metadata")
    return Said(
        stripe_subscription_id=_text(subscription, "id"),
        customer_id=_text(subscription, "customer"),
        claimed_user_id=_user_id(metadata.get(user_id_metadata)) if isinstance(metadata, dict) else None,
        status="canceled" if kind == "deleted" else _text(subscription, "status"),
        current_period_end=_period_end(subscription),
        event_id=_text(event, "id"),
        event_type=kind,
        event_created=created,
        object=subscription,
        previous_attributes=previous if isinstance(previous, dict) else {},
    )


def _period_end(subscription: dict[str, Any]) -> float | None:
    # On the items since API version 2025-03-31.basil, on the subscription before.
    items = subscription.get("items")
    listed = items.get("data") if isinstance(items, dict) else None
    found = listed if isinstance(listed, list) else ()
    ends = [_time(item.get("current_period_end")) for item in found if isinstance(item, dict)]
    return max((end for end in ends if end is not None), default=_time(subscription.get("current_period_end")))


def keep(connection: psycopg.Connection[Any], said: Said, grace: int) -> str:
    """Keep what is said of a subscription if it is newer, and give its learner the access that follows.

    Returns `applied`; `unattached`: kept, but nobody in users is known to own it; `stale`: something newer is known.
    It must run in a transaction.
    """
    database.run(connection, "stripe_lock", customer_id=said.customer_id)
    stored = database.run(
        connection, "stripe_subscription", stripe_subscription_id=said.stripe_subscription_id
    ).fetchone()
    newer = stored is None or is_newer(said, stored)
    if newer:
        end = said.current_period_end
        database.run(
            connection,
            "stripe_save",
            stripe_subscription_id=said.stripe_subscription_id,
            customer_id=said.customer_id,
            claimed_user_id=said.claimed_user_id,
            status=said.status,
            current_period_end=None if end is None else str(end),
            event_id=said.event_id,
            event_type=said.event_type,
            event_created=str(said.event_created),
            object=json.dumps(said.object),
            previous_attributes=json.dumps(said.previous_attributes),
        )
    # In any case: the learner may have come in the meantime.
    attached = attach(connection, said.customer_id, grace)
    if said.stripe_subscription_id not in attached:
        return "unattached"
    return "applied" if newer else "stale"


def attach(connection: psycopg.Connection[Any], customer_id: str, grace: int) -> set[str]:
    """Give a customer's subscriptions to whose they are, and these the access that follows.

    Returns the ids of those that are somebody's.
    """
    rows = database.run(connection, "stripe_attach", customer_id=customer_id).fetchall()
    learners = {row[when] for row in rows for when in ("before", "after")} - {None}
    for learner in sorted(learners):  # so that two at once do not wait for each other
        database.run(connection, "lock", user_id=str(learner))
    if learners:  # else what was written by hand stays: it may be right
        database.run(connection, "stripe_release", customer_id=customer_id)
    for learner in learners:
        database.run(connection, "stripe_copy", user_id=str(learner), grace=str(grace))
    return {row["stripe_subscription_id"] for row in rows if row["after"]}


def _tie(connection: psycopg.Connection[Any], event: dict[str, Any], grace: int) -> str:
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    created = _time(event.get("created"))
    if not isinstance(session, dict) or created is None:
        raise MalformedError("no data.object or no created")
    if session.get("customer") is None or session.get("client_reference_id") is None:
        return "ignored"  # a checkout that says nothing of whose it is
    user_id = _user_id(session["client_reference_id"])
    if user_id is None:
        g.stripe["reason"] = NO_UUID
        return "unattached"
    customer_id = _text(session, "customer")
    database.run(connection, "stripe_lock", customer_id=customer_id)
    database.run(connection, "stripe_tie", customer_id=customer_id, claimed_user_id=user_id, event_created=str(created))
    attach(connection, customer_id, grace)
    return "applied" if database.run(connection, "lock", user_id=user_id).fetchone() else "unattached"


def sync(
    connection: psycopg.Connection[Any], api_key: str, user_id_metadata: str, grace: int, api_base: str | None = None
) -> Iterator[str]:
    """Fetch every subscription from Stripe, keep what it says, and yield a line for each difference that this mended.

    Raises stripe.StripeError. A subscription is a transaction of its own; what was mended before a failure stays so.
    """
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
            said = read(event, user_id_metadata)
        except MalformedError as error:
            yield f"{subscription.id}: left alone, it has {error}"
            continue
        with connection.transaction():
            name = {"stripe_subscription_id": said.stripe_subscription_id}
            before = database.run(connection, "admin/stripe_owner", **name).fetchone()
            keep(connection, said, grace)
            after = database.run(connection, "admin/stripe_owner", **name).fetchone()
        if before != after:
            yield f"{said.stripe_subscription_id}: {_described(before)} -> {_described(after)}"
        fetched += 1
        if fetched % 100 == 0:
            yield f"fetched {fetched}"
    for row in database.run(connection, "admin/stripe_unattached").fetchall():
        with connection.transaction():
            if attach(connection, row["customer_id"], grace):
                yield f"{row['customer_id']}: now has its learner"
    yield f"fetched {fetched} in all"


def _subscriptions(client: stripe.StripeClient) -> Iterator[tuple[int, stripe.Subscription]]:
    """Every subscription at Stripe, with a second of Stripe's clock in which it was so: ours may be another.

    An event of that second comes after it.
    """
    asked = time.monotonic()
    page = client.v1.subscriptions.list({"status": "all", "limit": 100})
    while True:
        # What it says was read after it was asked, and before it was answered.
        response: Any = page.last_response
        answered = parsedate_to_datetime(response.headers["Date"]).timestamp()
        at = int(answered - math.ceil(time.monotonic() - asked))
        yield from ((at, subscription) for subscription in page.data)
        if not page.has_more:
            return
        asked = time.monotonic()
        page = page.next_page()


def _described(row: DictRow | None) -> str:
    if row is None:
        return "unknown"
    end = row["current_period_end"]
    until = f" until {end}" if end else ""
    return f"{row['status']}{until}, {row['user_id'] or 'of nobody known'}"


def is_newer(said: Said, stored: DictRow) -> bool:
    """Whether something is said later of a subscription than what is stored, whichever came here first."""
    if stored["status"] in TERMINAL:
        return False
    if said.status in TERMINAL:
        return True
    if said.event_created != stored["event_created"]:
        return bool(said.event_created > stored["event_created"])
    if _rank(said.event_type) != _rank(stored["event_type"]):
        return _rank(said.event_type) > _rank(stored["event_type"])
    after = _had(json.loads(stored["object"]), said.previous_attributes)
    before = _had(said.object, json.loads(stored["previous_attributes"]))
    if after != before:
        return after
    # Nothing tells them apart, or both do, where one takes back what the other did. It must only not matter which comes
    # first.
    ours, theirs = said.current_period_end or 0, stored["current_period_end"] or 0
    return bool((ours, said.event_id) > (theirs, stored["event_id"]))


def _rank(event_type: str) -> int:
    return RANKS.index(event_type if event_type in RANKS else "updated")


def _had(subscription: dict[str, Any], previous: dict[str, Any]) -> bool:
    """Whether a subscription was what an event says that it was before the event."""

    def same(value: Any, before: Any) -> bool:
        if isinstance(before, dict) and isinstance(value, dict):
            return all(same(value.get(key), before[key]) for key in before)
        if isinstance(before, list) and isinstance(value, list):
            return len(value) == len(before) and all(map(same, value, before))
        return bool(value == before)

    return bool(previous) and same(subscription, previous)


def _text(document: Any, key: str) -> str:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
        raise MalformedError(f"no {key}")
    return value


def _time(value: Any) -> float | None:
    # Up to the year 9999.
    return float(value) if type(value) in (int, float) and 0 <= value < 253402300800 else None


def _user_id(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and USER_ID.fullmatch(value) else None
