"""Stripe's webhook, and the mirror of its subscriptions that decides who has full access.

Events come in any order, more than once, and two of one second are usual. So each subscription has a row of its own
that only what is newer replaces, and the best of a learner's rows is copied into `subscriptions`, in the same
transaction.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import psycopg
import stripe
from flask import Blueprint, Response, request
from psycopg.rows import DictRow

from app import checks
from app.call import current_call
from app.checks import USER_ID
from app.database import statements
from app.database.connection import Connection
from app.problems import Problem
from app.service import current_service
from app.settings import Settings

blueprint = Blueprint("stripe", __name__)

TOLERANCE = 300  # seconds between a signature's time and ours
LARGEST_BODY = 512 * 1024
MAX_DEPTH = 64  # levels of lists and objects within each other

# No event follows these (https://docs.stripe.com/api/subscriptions/object).
TERMINAL = ("canceled", "incomplete_expired")
# Of two events of one second, the one further to the right came later.
RANKS = ("fetched", "created", "updated", "deleted")
SUBSCRIPTION_EVENTS = tuple(
    f"customer.subscription.{what}" for what in ("created", "updated", "deleted", "paused", "resumed")
)
CHECKOUT_EVENT = "checkout.session.completed"
# Before the type of a thin event (https://docs.stripe.com/webhooks#thin-events), which has no object in it.
THIN = "v1."


NO_UUID = "the user id is not a UUID"


class MalformedError(Exception):
    """What Stripe signed is not what its API describes."""


class Terms(NamedTuple):
    """What a subscription must be to give access, and for how long: two settings of the service."""

    grace: int  # seconds (SUBSCRIPTION_GRACE)
    prices: tuple[str, ...]  # ids of prices and products (STRIPE_PRICES); empty: every subscription gives access


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


@dataclass(frozen=True)
class Checkout:
    """A completed Checkout Session of mode `subscription` that names a learner; times are seconds since 1970."""

    checkout_session_id: str
    customer_id: str
    stripe_subscription_id: str | None
    claimed_user_id: str | None  # None: what it names is no UUID
    session_created: float


@blueprint.post("/api/stripe/webhook")
def webhook() -> Response:
    """Take one event of Stripe's: 200 once it is kept or is none of ours."""
    settings = current_service().settings
    request.max_content_length = LARGEST_BODY + 1
    payload = checks.body(LARGEST_BODY, "Send a body of 512 KiB at most.")
    _verify(payload or b"", settings.stripe_webhook_secrets)
    try:
        store = _read_event(payload or b"", settings)
    except (MalformedError, ValueError, RecursionError) as error:
        # Stripe would send it again for days, and later the events that matter with less and less vigour.
        current_call().error = f"an event that is not as Stripe describes it: {error}"
        outcome = "malformed"
    else:
        # Outside the try: a fault of the service's own is 500, so that Stripe sends the event again.
        outcome = current_service().pool.transact("stripe", store) if store else "ignored"
    current_call().stripe["outcome"] = outcome
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


def terms(settings: Settings) -> Terms:
    """The service's terms."""
    return Terms(settings.subscription_grace, settings.stripe_prices)


def _read_event(payload: bytes, settings: Settings) -> Callable[[Connection], str] | None:
    """Read and check an event; return what stores it in a transaction, None for an event that is none of ours.

    Raises MalformedError, ValueError or RecursionError. What stores it has nothing left to check.
    """
    event = json.loads(payload)
    kind = _text(event, "type")
    told = current_call().stripe
    told |= {"event": _text(event, "id"), "type": kind}
    if kind.removeprefix(THIN) != kind and kind.removeprefix(THIN) in (*SUBSCRIPTION_EVENTS, CHECKOUT_EVENT):
        told["reason"] = "a thin event: choose the payload style Snapshot for this endpoint at Stripe"
        raise MalformedError(told["reason"])
    if kind in SUBSCRIPTION_EVENTS:
        said = read(event, settings.stripe_user_id_metadata)
        if said.claimed_user_id is None and _named(said.object, settings.stripe_user_id_metadata):
            told["reason"] = NO_UUID
        return lambda connection: keep(connection, said, terms(settings))
    if kind == CHECKOUT_EVENT:
        checkout = _read_checkout(event)
        if checkout is None:
            return None
        if checkout.claimed_user_id is None:
            told["reason"] = NO_UUID
            return lambda connection: "unattached"
        return lambda connection: _tie(connection, checkout, terms(settings))
    return None


def read(event: dict[str, Any], user_id_metadata: str) -> Said:
    """Read an event of a subscription. Raises MalformedError, or ValueError for what is no JSON (NaN)."""
    data = event.get("data")
    subscription = data.get("object") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(subscription, dict):
        raise MalformedError("no data.object")
    created = _time(event.get("created"))
    if created is None:
        raise MalformedError("no created")
    _check_depth(data)
    for item in _items(subscription):
        price = item.get("price")
        for name in ("id", "product"):
            # PostgreSQL has no text with a NUL or half a character in it, and stripe/copy.sql compares these as text.
            if isinstance(price, dict) and isinstance(price.get(name), str) and not price[name].isprintable():
                raise MalformedError("an item whose price has no id")
    json.dumps(data, allow_nan=False)
    kind = _text(event, "type").rpartition(".")[2]
    previous = data.get("previous_attributes")
    return Said(
        stripe_subscription_id=_text(subscription, "id"),
        customer_id=_text(subscription, "customer"),
        claimed_user_id=_user_id(_named(subscription, user_id_metadata)),
        status="canceled" if kind == "deleted" else _text(subscription, "status"),
        current_period_end=_period_end(subscription),
        event_id=_text(event, "id"),
        event_type=kind,
        event_created=created,
        object=subscription,
        previous_attributes=previous if isinstance(previous, dict) else {},
    )


def _named(subscription: dict[str, Any], user_id_metadata: str) -> Any:
    metadata = subscription.get("metadata")
    return metadata.get(user_id_metadata) if isinstance(metadata, dict) else None


def _check_depth(value: Any, levels: int = MAX_DEPTH) -> None:
    # Comparing two events goes as deep as they do, and Python's stack is not endless.
    if levels == 0:
        raise MalformedError("too many levels")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        _check_depth(each, levels - 1)


def _items(subscription: dict[str, Any]) -> Iterator[dict[str, Any]]:
    items = subscription.get("items")
    listed = items.get("data") if isinstance(items, dict) else None
    yield from (item for item in (listed if isinstance(listed, list) else ()) if isinstance(item, dict))


def _period_end(subscription: dict[str, Any]) -> float | None:
    # On the items since API version 2025-03-31.basil, on the subscription before.
    ends = [_time(item.get("current_period_end")) for item in _items(subscription)]
    return max((end for end in ends if end is not None), default=_time(subscription.get("current_period_end")))


def _read_checkout(event: dict[str, Any]) -> Checkout | None:
    """Read a completed Checkout Session; None if it says nothing of whose a subscription is."""
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    created = _time(event.get("created"))
    if not isinstance(session, dict) or created is None:
        raise MalformedError("no data.object or no created")
    # A session of mode payment or setup says nothing of a subscription, whatever its client_reference_id means there.
    if session.get("mode") != "subscription":
        return None
    if session.get("customer") is None or session.get("client_reference_id") is None:
        return None
    session_created = _time(session.get("created"))
    return Checkout(
        checkout_session_id=_text(session, "id"),
        customer_id=_text(session, "customer"),
        stripe_subscription_id=None if session.get("subscription") is None else _text(session, "subscription"),
        claimed_user_id=_user_id(session["client_reference_id"]),
        session_created=created if session_created is None else session_created,
    )


def keep(connection: psycopg.Connection[Any], said: Said, terms: Terms) -> str:
    """Keep what is said of a subscription if it is newer, and give its learner the access that follows.

    Returns `applied`; `unattached`: kept, but nobody in users is known to own it; `stale`: something newer is known.
    It must run in a transaction.
    """
    statements.run(connection, "stripe/lock", customer_id=said.customer_id)
    row = statements.run(
        connection, "stripe/subscription", stripe_subscription_id=said.stripe_subscription_id
    ).fetchone()
    known = _known(row) if row else []
    contenders = latest_first([*known, said])
    if contenders != known:
        latest, *rivals = contenders
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
            rivals=json.dumps([asdict(rival) for rival in rivals]),
        )
    # In any case: the learner may have come in the meantime.
    attached = attach(connection, said.customer_id, terms)
    if said.stripe_subscription_id not in attached:
        return "unattached"
    return "applied" if contenders[0] is said else "stale"


def attach(connection: psycopg.Connection[Any], customer_id: str, terms: Terms) -> set[str]:
    """Give a customer's subscriptions to whose they are, and these the access that follows.

    Returns the ids of those that are somebody's.
    """
    rows = statements.run(connection, "stripe/attach", customer_id=customer_id).fetchall()
    # Sorted, so that two transactions do not wait for each other.
    learners = sorted({str(row[when]) for row in rows for when in ("before", "after") if row[when]})
    for learner in learners:
        statements.run(connection, "lock", user_id=learner)
    if learners:  # else what was written by hand stays: it may be right
        statements.run(connection, "stripe/release", customer_id=customer_id)
        _copy(connection, learners, terms)
    return {row["stripe_subscription_id"] for row in rows if row["after"]}


def _copy(connection: psycopg.Connection[Any], user_ids: list[str] | str, terms: Terms) -> None:
    if not isinstance(user_ids, str):
        user_ids = _array(user_ids)
    statements.run(connection, "stripe/copy", user_ids=user_ids, grace=str(terms.grace), prices=_array(terms.prices))


def _array(values: Iterable[str]) -> str:
    # The values are ids: settings.py and USER_ID let no quote and no backslash through.
    return "{" + ",".join(f'"{value}"' for value in values) + "}"


def judge(connection: psycopg.Connection[Any], terms: Terms) -> None:
    """Judge again, by these terms, every row of `subscriptions` that the mirror wrote.

    For the service's start and make stripe-sync, since the terms may have changed. What was written by hand stays.
    """
    with connection.transaction():
        statements.run(connection, "stripe/judge_lock")
        user_ids = statements.one(statements.run(connection, "stripe/judge").fetchone())["user_ids"]
        _copy(connection, user_ids, terms)


def _tie(connection: psycopg.Connection[Any], checkout: Checkout, terms: Terms) -> str:
    """Keep whom a Checkout Session names, and give its learner the access that follows.

    Returns `applied`, or `unattached` while the learner is not in users. It must run in a transaction.
    """
    user_id = str(checkout.claimed_user_id)
    said = {
        "customer_id": checkout.customer_id,
        "claimed_user_id": user_id,
        "checkout_session_id": checkout.checkout_session_id,
        "session_created": str(checkout.session_created),
    }
    statements.run(connection, "stripe/lock", customer_id=checkout.customer_id)
    if checkout.stripe_subscription_id:
        statements.run(connection, "stripe/checkout", stripe_subscription_id=checkout.stripe_subscription_id, **said)
    statements.run(connection, "stripe/tie", **said)
    attach(connection, checkout.customer_id, terms)
    return "applied" if statements.run(connection, "lock", user_id=user_id).fetchone() else "unattached"


def sync(
    connection: psycopg.Connection[Any], api_key: str, user_id_metadata: str, terms: Terms, api_base: str | None = None
) -> Iterator[str]:
    """Fetch every subscription from Stripe, keep what it says, and yield a line for each difference that this mended.

    Raises stripe.StripeError. A subscription is a transaction of its own; what was mended before a failure stays so.
    """
    # First: what Stripe is not asked of, or does not answer, is judged by these terms all the same.
    judge(connection, terms)
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
        except (MalformedError, ValueError) as error:
            yield f"{subscription.id}: left alone, it has {error}"
            continue
        with connection.transaction():
            name = {"stripe_subscription_id": said.stripe_subscription_id}
            before = statements.run(connection, "admin/stripe_owner", **name).fetchone()
            keep(connection, said, terms)
            after = statements.run(connection, "admin/stripe_owner", **name).fetchone()
        if before != after:
            yield f"{said.stripe_subscription_id}: {_described(before)} -> {_described(after)}"
        fetched += 1
        if fetched % 100 == 0:
            yield f"fetched {fetched}"
    for row in statements.run(connection, "admin/stripe_unattached").fetchall():
        with connection.transaction():
            if attach(connection, row["customer_id"], terms):
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


def _known(row: DictRow) -> list[Said]:
    """What is stored of a subscription: what was said last, then what was said in the same second."""
    rivals = [Said(**rival) for rival in json.loads(row.pop("rivals"))]
    stored = Said(
        **row | {name: json.loads(row[name]) for name in ("object", "previous_attributes")},
    )
    # An earlier version, which still runs while this one starts, replaces the first and leaves the others.
    return [stored, *(rival for rival in rivals if _order(rival) == _order(stored))]


def latest_first(contenders: list[Said]) -> list[Said]:
    """Of what is said of one subscription, what was said last, then what was said at the same time; no event twice.

    The result depends on the set alone, and not on its order, so that it does not matter in which order events come.
    """
    last = max(map(_order, contenders))
    events = {said.event_id: said for said in reversed(contenders) if _order(said) == last}
    # Events of one second carry no order, but an event tells what it changed. An event that another one followed was
    # not the last. Where that leaves several events, or none, the period's end and the event's id decide.
    final = [said for said in events.values() if not any(_follows(other, said) for other in events.values())]
    latest = max(final or events.values(), key=lambda said: (said.current_period_end or 0, said.event_id))
    return [latest, *(events[name] for name in sorted(events) if name != latest.event_id)]


def _order(said: Said) -> tuple[bool, float, int]:
    return said.status in TERMINAL, said.event_created, _rank(said.event_type)


def _follows(one: Said, other: Said) -> bool:
    return _had(other.object, one.previous_attributes) and not _had(one.object, other.previous_attributes)


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
