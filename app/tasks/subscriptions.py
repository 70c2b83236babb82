"""make stripe-sync. Stripe's library, which this imports, takes longer to import than everything else."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import stripe

from app.stripe.mirror import AccessTerms
from app.stripe.sync import sync
from app.tasks import TaskError


def stripe_sync(
    connection: psycopg.Connection[Any],
    api_key: str,
    user_id_key: str,
    namespace: UUID | None,
    terms: AccessTerms,
    api_base: str | None,
) -> Iterator[str]:
    """Fetch every subscription from Stripe, and say in lines what this changed."""
    try:
        yield from sync(connection, api_key, user_id_key, namespace, terms, api_base)
    except stripe.AuthenticationError:
        raise TaskError("STRIPE_API_KEY: Stripe refuses it") from None
    except stripe.StripeError as error:
        raise TaskError(f"Stripe: {' '.join(str(error).split())}") from None
