"""Stripe's webhook: POST /api/stripe/webhook, one signed event in a call."""

import json
from collections.abc import Callable

import stripe
from flask import Blueprint, Response, request

from app import checks
from app.call import current_call
from app.database.connection import Connection
from app.problems import Problem
from app.service import current_service
from app.settings import Settings
from app.stripe.events import (
    CHECKOUT_EVENTS,
    EVENTS,
    REVERSAL_EVENTS,
    SUBSCRIPTION_EVENTS,
    MalformedError,
    named_user_id,
    read_checkout,
    read_payment,
    read_reversal,
    read_subscription,
    text,
)
from app.stripe.mirror import Outcome, access_terms, store_checkout, store_event, store_payment, store_reversal
from app.user_ids import MAX_CHARACTERS

blueprint = Blueprint("stripe", __name__)

SIGNATURE_TOLERANCE_SECONDS = 300  # between the time in a signature and our clock
MAX_EVENT_BYTES = 512 * 1024
# The type of a thin event begins with this (https://docs.stripe.com/webhooks#thin-events). A thin event has no object.
THIN_PREFIX = "v1."
# Why an event names nobody: without AUTH_USER_ID_NAMESPACE, and with it.
NOT_A_UUID = "the user id is not a UUID"
UNUSABLE_USER_ID = f"the user id is not a text of 1 to {MAX_CHARACTERS} characters"


@blueprint.post("/api/stripe/webhook")
def webhook() -> Response:
    """Store one event. The answer is 200 also for an event that the service does not use."""
    service = current_service()
    call = current_call()
    payload = checks.body(MAX_EVENT_BYTES, "Send a body of 512 KiB at most.") or b""
    _verify(payload, service.settings.stripe_webhook_secrets)
    try:
        store = _read_event(payload, service.settings)
    except (MalformedError, ValueError, RecursionError) as error:
        # The answer is not a 4xx: after a 4xx, Stripe repeats the event for days, and then slows down all later ones.
        call.error = f"the event does not have the form that Stripe describes: {error}"
        outcome = Outcome("malformed")
    else:
        # Outside of the try, because an error of the service itself must be a 500. Then Stripe repeats the event.
        outcome = service.pool.transact("stripe", store) if store else Outcome("ignored")
    call.stripe["outcome"] = outcome.name
    if outcome.reason:
        call.stripe.setdefault("reason", outcome.reason)
    # Stripe's dashboard shows the answer, so whoever looks there sees what to do.
    told = ("outcome", "reason") if outcome.name in ("unattached", "malformed") else ("outcome",)
    answer = {key: call.stripe[key] for key in told if key in call.stripe}
    return Response(json.dumps(answer) + "\n", mimetype="application/json")


def _verify(payload: bytes, secrets: tuple[str, ...]) -> None:
    """Raise Problem invalid_signature unless one of the secrets signed the payload."""
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(
                payload, request.headers.get("Stripe-Signature"), secret, tolerance=SIGNATURE_TOLERANCE_SECONDS
            )
            return
        # Stripe's library compares and decodes the header and the payload without checking them first.
        except (stripe.SignatureVerificationError, ValueError, TypeError):
            continue
    raise Problem("invalid_signature")


def _read_event(payload: bytes, settings: Settings) -> Callable[[Connection], Outcome] | None:
    """Read and check an event. Return the work that stores it in a transaction, or None if the event is not used.

    Raises MalformedError, ValueError or RecursionError. The returned work has nothing left to check.
    """
    event = json.loads(payload)
    kind = text(event, "type")
    logged = current_call().stripe
    logged |= {"event": text(event, "id"), "type": kind}
    if kind.startswith(THIN_PREFIX) and kind.removeprefix(THIN_PREFIX) in EVENTS:
        logged["reason"] = "a thin event: choose the payload style Snapshot for this endpoint at Stripe"
        raise MalformedError(logged["reason"])
    terms = access_terms(settings)
    namespace = settings.auth_user_id_namespace
    names_nobody = UNUSABLE_USER_ID if namespace else NOT_A_UUID
    if kind in SUBSCRIPTION_EVENTS:
        state = read_subscription(event, settings.stripe_user_id_metadata, namespace)
        if state.claimed_user_id is None and named_user_id(state.object, settings.stripe_user_id_metadata):
            logged["reason"] = names_nobody
        return lambda connection: store_event(connection, state, terms)
    if kind in CHECKOUT_EVENTS:
        payment = read_payment(event, namespace)
        if payment:
            if payment.claimed_user_id is None and payment.client_reference_id is not None:
                logged["reason"] = names_nobody
            return lambda connection: store_payment(connection, payment, terms)
        checkout = read_checkout(event, namespace)
        if checkout is None:
            return None
        if checkout.claimed_user_id is None:
            return lambda _: Outcome("unattached", names_nobody)
        return lambda connection: store_checkout(connection, checkout, terms)
    if kind in REVERSAL_EVENTS:
        reversal = read_reversal(event)
        return (lambda connection: store_reversal(connection, reversal, terms)) if reversal else None
    return None
