"""Reads and checks what Stripe sends: events, and the answers of its API. What passes the checks can be stored."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.formats import UUID4
from app.settings import STRIPE_ID
from app.user_ids import learner_id

MAX_LEVELS = 64  # of nested lists and objects

SUBSCRIPTION_EVENTS = tuple(
    f"customer.subscription.{what}" for what in ("created", "updated", "deleted", "paused", "resumed")
)
# The second one follows the first if the means of payment takes days, as a bank transfer does.
CHECKOUT_EVENTS = ("checkout.session.completed", "checkout.session.async_payment_succeeded")
REVERSAL_EVENTS = ("charge.refunded", "refund.updated", "refund.failed", "charge.dispute.closed")
EVENTS = (*SUBSCRIPTION_EVENTS, *CHECKOUT_EVENTS, *REVERSAL_EVENTS)
COURSES_KEY = "courseId"  # in the metadata of a Checkout Session or of a subscription
PAID = ("paid", "no_payment_required")  # of payment_status; the second: a coupon paid for everything


class MalformedError(Exception):
    """Stripe sent something that its API does not describe. The text names what is missing or wrong."""


@dataclass(frozen=True)
class SubscriptionState:
    """A subscription as an event or an answer of Stripe's API describes it. Times are seconds since 1970."""

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


@dataclass(frozen=True)
class NamedCourses:
    """The courses that metadata names: those of the ids that can be one, sorted, and whether there are other ids."""

    ids: list[str]
    malformed: bool


@dataclass(frozen=True)
class Payment:
    """A paid Checkout Session of mode `payment` that names courses. Times are seconds since 1970."""

    source: str  # Stripe's id of the payment intent; of the session, if nothing had to be paid
    checkout_session_id: str
    client_reference_id: Any
    claimed_user_id: str | None  # None if client_reference_id is no user id
    courses: NamedCourses
    event_created: float


@dataclass(frozen=True)
class Reversal:
    """A full refund of a payment, a refund that failed, or a lost dispute. One time is set, in seconds since 1970."""

    payment_intent_id: str
    refunded_at: float | None = None
    refund_failed_at: float | None = None
    dispute_lost_at: float | None = None


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
    """Return the learner's id in the metadata of a subscription, without a check. Return None if there is none."""
    metadata = subscription.get("metadata")
    return metadata.get(user_id_key) if isinstance(metadata, dict) else None


def read_checkout(event: dict[str, Any], namespace: UUID | None) -> Checkout | None:
    """Read the event of a completed Checkout Session. Return None if the session does not say who owns a subscription.

    `namespace` is that of user ids that are not UUIDs (AUTH_USER_ID_NAMESPACE).

    Raises MalformedError.
    """
    session, created = _object(event)
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


def read_payment(event: dict[str, Any], namespace: UUID | None) -> Payment | None:
    """Read the event of a Checkout Session. Return None if the session is not paid, or if it sells no course.

    `namespace` is that of user ids that are not UUIDs (AUTH_USER_ID_NAMESPACE).

    Raises MalformedError.
    """
    session, created = _object(event)
    courses = named_courses(session)
    if session.get("mode") != "payment" or session.get("payment_status") not in PAID or courses is None:
        return None
    return Payment(
        source=text(session, "id" if session.get("payment_intent") is None else "payment_intent"),
        checkout_session_id=text(session, "id"),
        client_reference_id=session.get("client_reference_id"),
        claimed_user_id=learner_id(session.get("client_reference_id"), namespace),
        courses=courses,
        event_created=created,
    )


def read_reversal(event: dict[str, Any]) -> Reversal | None:
    """Read an event of REVERSAL_EVENTS. Return None if it changes nothing: a partial refund, a dispute that was won.

    Raises MalformedError.
    """
    document, created = _object(event)
    kind = text(event, "type")
    # A charge without a payment intent was not made by a Checkout Session.
    if document.get("payment_intent") is None:
        return None
    if kind == "charge.refunded":
        return Reversal(text(document, "payment_intent"), refunded_at=created) if _is_refunded(document) else None
    status = text(document, "status")
    if kind == "charge.dispute.closed":
        return Reversal(text(document, "payment_intent"), dispute_lost_at=created) if status == "lost" else None
    failed = status in ("failed", "canceled")
    return Reversal(text(document, "payment_intent"), refund_failed_at=created) if failed else None


def _is_refunded(charge: dict[str, Any]) -> bool:
    # Stripe's `refunded` is true only if the whole charge was refunded.
    if not isinstance(charge.get("refunded"), bool):
        raise MalformedError("no refunded")
    return bool(charge["refunded"])


def named_courses(document: dict[str, Any]) -> NamedCourses | None:
    """Return the courses that the metadata of a Checkout Session or a subscription names, None if it names none."""
    metadata = document.get("metadata")
    named = metadata.get(COURSES_KEY) if isinstance(metadata, dict) else None
    if named is None:
        return None
    ids = [id.strip() for id in named.split(",") if id.strip()] if isinstance(named, str) else [""]
    if not ids:
        return None
    courses = {id.lower() for id in ids if UUID4.fullmatch(id)}
    return NamedCourses(sorted(courses), malformed=not all(UUID4.fullmatch(id) for id in ids))


def _object(event: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return what an event is about, and when Stripe made the event, in seconds since 1970."""
    data = event.get("data")
    document = data.get("object") if isinstance(data, dict) else None
    created = _time(event.get("created"))
    if not isinstance(document, dict) or created is None:
        raise MalformedError("no data.object or no created")
    return document, created


def text(document: Any, key: str) -> str:
    """Return a text that PostgreSQL can store, 1 to 255 printable characters, or raise MalformedError."""
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
        raise MalformedError(f"no {key}")
    return value


def _check_levels(value: Any, levels: int = MAX_LEVELS) -> None:
    # order.py compares two events by recursion, one call for each level, and Python limits the depth of calls.
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
    """Return when the period of each price and product of a subscription ends, its courses, and the event that said so.

    The shape is { "event": event id, "ends": { price or product id: seconds since 1970 or None }, "courses": [course
    id] or None }. Of several items with one price, the latest end counts. `courses` is None if the metadata names no
    course: then the subscription gives full access. If no id in it can be a course, the subscription gives nothing.
    """
    ends: dict[str, float | None] = {}
    whole = _time(subscription.get("current_period_end"))
    for item in _items(subscription):
        end = _time(item.get("current_period_end"))
        end = whole if end is None else end
        price = item.get("price")
        names = (price.get("id"), price.get("product")) if isinstance(price, dict) else ()
        for name in names:
            # STRIPE_PRICES cannot name any other id, so such an id need not be kept.
            if isinstance(name, str) and STRIPE_ID.fullmatch(name):
                ends[name] = max((each for each in (end, ends.get(name)) if each is not None), default=None)
    courses = named_courses(subscription)
    return {"event": event_id, "ends": ends, "courses": courses and courses.ids}


def _period_end(subscription: dict[str, Any]) -> float | None:
    # From API version 2025-03-31.basil on, the items have the end of the period; before, the subscription has it.
    ends = [_time(item.get("current_period_end")) for item in _items(subscription)]
    return max((end for end in ends if end is not None), default=_time(subscription.get("current_period_end")))


def _time(value: Any) -> float | None:
    # A time after the year 9999 is refused: Python's datetime ends there.
    return float(value) if type(value) in (int, float) and 0 <= value < 253402300800 else None
