"""`make stripe-event FILE=…`: sends an event to the service of `make run`, with a signature like Stripe's."""

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import stripe

from app.demo.__main__ import LOCAL


def main() -> None:
    """Send the file and print the answer of the service. Exit with 1 unless the status is 200."""
    file = os.environ.get("FILE", "")
    if not file:
        sys.exit("FILE is not given; say which event: FILE=app/demo/stripe/active.json")
    try:
        payload = Path(file).read_text("utf-8")
        url = (LOCAL / "run.lock").read_text()
        secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").split(",")[0].strip() or (LOCAL / "secret").read_text()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"FILE={file} cannot be read, or `make run` never ran here: {error}")
    try:
        print(send(url, payload, secret))
    except urllib.error.HTTPError as error:
        sys.exit(error.read().decode().strip())
    except OSError as error:
        sys.exit(f"nothing answers at {url}: {error}; start it with: make run")


def send(url: str, payload: str, secret: str) -> str:
    """Send a signed event to the service at `url`. Return its answer, or raise OSError if the status is not 200."""
    request = urllib.request.Request(  # noqa: S310 - the URL is ours
        f"{url}/api/stripe/webhook",
        payload.encode(),
        {"Stripe-Signature": stripe.WebhookSignature.generate_signature_header(payload, secret)},
    )
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return str(response.read().decode().strip())


if __name__ == "__main__":
    main()
