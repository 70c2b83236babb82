"""What Stripe says: its events, and the answers of its API, read and checked. What is checked here can be stored."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.settings import STRIPE_ID
from app.user_ids import learner_id

MAX_LEVELS = 64  # of lists and objects within each other

SUBSCRIPTION_EVENTS = tuple(
    f"customer.subscription.{what}" for what in ("created", "updated", "deleted", "paused", "resumed")
)
CHECKOUT_EVENT = "checkout.session.completed"


class MalformedError(Exception):
    """Stripe signed something that is not what its API describes. The text names what is missing or wrong."""


@dataclass(frozen=True)
class SubscriptionState:
    """A subscription as an event has it, or as Stripe's API answered. Times are seconds since 1970."""

    stripe_subscription_id: str
    customer_id: str
    claimed_user_id: str | None  # the learner whom its metadata names, None if that is no user id
    status: str
    current_period_end: float | None
    event_id: str
    event_type: str
    event_created: float
    object: dict[str, Any]
    previous_attributes: dict[str, Any]


@dataclass(frozen=True)
class Checkout:
    """A completed Checkout Session of mode `subscription` that names a learner. Times are seconds since 1970."""

    checkout_session_id: str
    customer_id: str
    stripe_subscription_id: str | None
    claimed_user_id: str | None  # None if the session names something that is no user id
    session_created: float


def read_subscription(event: dict[str, Any], user_id_key: str, namespace: UUID | None) -> SubscriptionState:
    """Read an event of a subscription, whose metadata has the learner's id under `user_id_key`.

    `namespace` is that of user ids that are not UUIDs (AUTH_USER_ID_NAMESPACE).

    Raises MalformedError, or ValueError for a value that JSON does not have (NaN).
    """
    data = event.get("data")
    subscription = data.get("object") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(subscription, dict):
        raise MalformedError("no data.object")
    created = _time(event.get("created"))
    if created is None:
        raise MalformedError("no created")
    _check_levels(data)
    json.dumps(data, allow_nan=False)
    kind = text(event, "type").rpartition(".")[2]
    previous = data.get("previous_attributes")
    return SubscriptionState(
        stripe_subscription_id=text(subscription, "id"),
        customer_id=text(subscription, "customer"),
        claimed_user_id=learner_id(named_user_id(subscription, user_id_key), namespace),
        status="canceled" if kind == "deleted" else text(subscription, "status"),
        current_period_end=_period_end(subscription),
        event_id=text(event, "id"),
        event_type=kind,
        event_created=created,
        object=subscription,
        previous_attributes=previous if isinstance(previous, dict) else {},
    )


def named_user_id(subscription: dict[str, Any], user_id_key: str) -> Any:
    """Return what the metadata of a subscription has as the learner's id, whatever it is; None if it has nothing."""
    metadata = subscription.get("metadata")
    return metadata.get(user_id_key) if isinstance(metadata, dict) else None


def read_checkout(event: dict[str, Any], namespace: UUID | None) -> Checkout | None:
    """Read the event of a completed Checkout Session. Return None if the session does not say who owns a subscription.

    `namespace` is that of user ids that are not UUIDs (AUTH_USER_ID_NAMESPACE).

    Raises MalformedError.
    """
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    created = _time(event.get("created"))
    if not isinstance(session, dict) or created is None:
        raise MalformedError("no data.object or no created")
    # In the modes payment and setup, the client_reference_id may mean anything: there is no subscription.
    if session.get("mode") != "subscription":
        return None
    if session.get("customer") is None or session.get("client_reference_id") is None:
        return None
    session_created = _time(session.get("created"))
    return Checkout(
        checkout_session_id=text(session, "id"),
        customer_id=text(session, "customer"),
        stripe_subscription_id=None if session.get("subscription") is None else text(session, "subscription"),
        claimed_user_id=learner_id(session["client_reference_id"], namespace),
        session_created=created if session_created is None else session_created,
    )


def text(document: Any, key: str) -> str:
    """Return a text that PostgreSQL can store, 1 to 255 printable characters, or raise MalformedError."""
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
        raise MalformedError(f"no {key}")
    return value


def _check_levels(value: Any, levels: int = MAX_LEVELS) -> None:
    # To compare two events takes one level of Python's stack for each of theirs, and that stack has a limit.
    if levels == 0:
        raise MalformedError("too many levels")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        _check_levels(each, levels - 1)


def _items(subscription: dict[str, Any]) -> Iterator[dict[str, Any]]:
    items = subscription.get("items")
    listed = items.get("data") if isinstance(items, dict) else None
    yield from (item for item in (listed if isinstance(listed, list) else ()) if isinstance(item, dict))


def read_items(event_id: str, subscription: dict[str, Any]) -> dict[str, Any]:
    """Return when the period of each price and product of a subscription ends, and the event that said so.

    The shape is { "event": event id, "ends": { price or product id: seconds since 1970 or None } }. Of several items
    with one price, the latest end counts.
    """
    ends: dict[str, float | None] = {}
    whole = _time(subscription.get("current_period_end"))
    for item in _items(subscription):
        end = _time(item.get("current_period_end"))
        end = whole if end is None else end
        price = item.get("price")
        names = (price.get("id"), price.get("product")) if isinstance(price, dict) else ()
        for name in names:
            # STRIPE_PRICES cannot name anything else, so it need not be kept.
            if isinstance(name, str) and STRIPE_ID.fullmatch(name):
                ends[name] = max((each for each in (end, ends.get(name)) if each is not None), default=None)
    return {"event": event_id, "ends": ends}


def _period_end(subscription: dict[str, Any]) -> float | None:
    # From API version 2025-03-31.basil on, the items have the end of the period; before, the subscription has it.
    ends = [_time(item.get("current_period_end")) for item in _items(subscription)]
    return max((end for end in ends if end is not None), default=_time(subscription.get("current_period_end")))


def _time(value: Any) -> float | None:
    # Up to the year 9999.
    return float(value) if type(value) in (int, float) and 0 <= value < 253402300800 else None
