"""GET /metrics for Prometheus, with METRICS=on: the counts of all workers of this service."""

import os
from time import perf_counter

import prometheus_client
from flask import Blueprint, Flask, Response, current_app, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess

from app.call import current_call
from app.service import current_service

blueprint = Blueprint("metrics", __name__)

# In seconds. The steps are small around the 95th percentiles that the contract promises: 100 ms, and 150 ms for writes.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)
STATEMENT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.5, 1, 2.5, 5)

REQUESTS = Counter("progress_requests", "Requests answered.", ["endpoint", "status"])
DURATION = Histogram(
    "progress_request_duration_seconds",
    "Time from a request's headers to its answer.",
    ["endpoint"],
    buckets=REQUEST_BUCKETS,
)
RATE_LIMITED = Counter("progress_rate_limited_writes", "Writes refused by the write limit.")
STATEMENT = Histogram(
    "progress_statement_duration_seconds",
    "Time of one statement or one transaction, by the files of sql/ that it begins with; a+b+c is one transaction.",
    ["statement"],
    buckets=STATEMENT_BUCKETS,
)
STRIPE = Counter("progress_stripe_events", "Events that Stripe's webhook received, by outcome.", ["outcome"])
POOL_SIZE = Gauge("progress_pool_connections", "Connections to the database.", multiprocess_mode="livesum")
POOL_WAITING = Gauge("progress_pool_waiting", "Requests that wait for a connection.", multiprocess_mode="livesum")
POOL_TIMEOUTS = Counter("progress_pool_timeouts", "Requests that got no connection in time.")


def init_app(app: Flask) -> None:
    """Count every request of `app`, and serve the counts at /metrics."""
    app.register_blueprint(blueprint)
    app.before_request(_observe_pool)
    app.after_request(_count)


@blueprint.get("/metrics")
def exposition() -> Response:
    """Answer with the metrics of all workers, in Prometheus' text format."""
    _begin_at_zero()
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # set by gunicorn.conf.py
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(
        prometheus_client.generate_latest(registry), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
    )


def _begin_at_zero() -> None:
    """Expose what alerts count before it happens. A series that begins with 1 has no rate, so no alert would fire."""
    for rule in current_app.url_map.iter_rules():
        for status in (500, 503):
            REQUESTS.labels(_name(rule.endpoint), status)
    for outcome in ("unattached", "malformed"):
        STRIPE.labels(outcome)


def _name(endpoint: str) -> str:
    return endpoint.rpartition(".")[2]


def _observe_pool() -> None:
    # This runs at the beginning and at the end of each request. A request that begins counts those that already wait.
    stats = current_service().pool.get_stats()
    POOL_SIZE.set(stats["pool_size"])
    POOL_WAITING.set(stats["requests_waiting"])


def _count(response: Response) -> Response:
    endpoint = _name(request.endpoint or "none")
    REQUESTS.labels(endpoint, response.status_code).inc()
    call = current_call()
    DURATION.labels(endpoint).observe(perf_counter() - call.started)
    for statement, seconds in call.statements:
        STATEMENT.labels(statement).observe(seconds)
    if response.status_code == 429:
        RATE_LIMITED.inc()
    if "outcome" in call.stripe:
        STRIPE.labels(call.stripe["outcome"]).inc()
    if call.error in ("PoolTimeout", "DownError"):
        POOL_TIMEOUTS.inc()
    _observe_pool()
    return response
