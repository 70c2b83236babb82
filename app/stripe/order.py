"""Which state of a subscription came later, whatever the order in which the events arrive."""

from typing import Any

from app.stripe.events import SubscriptionState

# No event follows these statuses (https://docs.stripe.com/api/subscriptions/object).
FINAL_STATUSES = ("canceled", "incomplete_expired")
# If two events are of the same second, the type that comes later in this list came later.
TYPES_IN_ORDER = ("fetched", "created", "updated", "deleted")


def latest_first(states: list[SubscriptionState]) -> list[SubscriptionState]:
    """Return the latest of the states of one subscription, then its rivals: the states of the same second and rank.

    Each event is in the result once. The result depends on the set of the states and not on their order, so the order
    in which the events arrive does not matter.
    """
    last = max(map(rank, states))
    events = {state.event_id: state for state in reversed(states) if rank(state) == last}
    # Stripe gives events of one second no order, but an event says what it changed. So an event is not the last one if
    # another event came after it. If several events are left, or none because they contradict each other, the later end
    # of the period decides, and then the id of the event.
    final = [state for state in events.values() if not any(_came_after(other, state) for other in events.values())]
    latest = max(final or events.values(), key=lambda state: (state.current_period_end or 0, state.event_id))
    return [latest, *(events[id] for id in sorted(events) if id != latest.event_id)]


def rank(state: SubscriptionState) -> tuple[bool, float, int]:
    """Return the rank of a state: a state of a higher rank came later. States of one rank are rivals."""
    kind = state.event_type if state.event_type in TYPES_IN_ORDER else "updated"
    return state.status in FINAL_STATUSES, state.event_created, TYPES_IN_ORDER.index(kind)


def _came_after(one: SubscriptionState, other: SubscriptionState) -> bool:
    return _has_values(other.object, one.previous_attributes) and not _has_values(one.object, other.previous_attributes)


def _has_values(subscription: dict[str, Any], previous: dict[str, Any]) -> bool:
    """Return whether a subscription has the values that an event says were there before it; False if it says none."""

    def same(value: Any, before: Any) -> bool:
        if isinstance(before, dict) and isinstance(value, dict):
            return all(same(value.get(key), before[key]) for key in before)
        if isinstance(before, list) and isinstance(value, list):
            return len(value) == len(before) and all(map(same, value, before))
        return bool(value == before)

    return bool(previous) and same(subscription, previous)
