"""deploy/alerts.yml in the real promtool: each alert fires when it must, and is silent before."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.conftest import ROOT
from tests.pages import block
from tests.test_alerts import RULES

ALERTS = ROOT / "deploy" / "alerts.yml"
SERVICE = 'instance="a:8000",job="progress"'
DELIVERER = 'instance="a:9101",job="progress-deliver"'


class Case(NamedTuple):
    """Series with a value for each minute. The alert is silent at one minute, and fires at another."""

    alert: str
    series: dict[str, str]
    silent: int
    fires: int
    labels: dict[str, str]
    summary: str


def requests(status: int, endpoint: str, values: str, service: str = SERVICE) -> dict[str, str]:
    return {f'progress_requests_total{{status="{status}",endpoint="{endpoint}",{service}}}': values}


def durations(endpoint: str, bound: str, after: str) -> dict[str, str]:
    """Sixty calls a minute, none of which takes longer than `bound` for 20 minutes, and then all longer than that."""
    series = f'progress_request_duration_seconds_bucket{{endpoint="{endpoint}",{SERVICE},le="%s"}}'
    return {series % bound: "0+60x20 1200x40", series % after: "0+60x60", series % "+Inf": "0+60x60"}


OF_SERVICE = {"job": "progress"}
OF_DELIVERER = {"job": "progress-deliver"}
CASES = [
    Case(
        "ProgressDown",
        {f"up{{{SERVICE}}}": "1 1 0 0 0 0 0"},
        3,
        5,
        OF_SERVICE | {"instance": "a:8000"},
        "The service on a:8000 does not answer.",
    ),
    Case(
        "ProgressNotReady",
        # A single 503 among the probes, and ten minutes later nothing but 503.
        requests(200, "readyz", "0 6 11 17 23 29 35 41 47 53 59x20")
        | requests(503, "readyz", "0 0 1 1 1 1 1 1 1 1 1+6x20"),
        5,
        15,
        OF_SERVICE | {"instance": "a:8000", "endpoint": "readyz"},
        "The service on a:8000 is not ready.",
    ),
    Case(
        "ProgressUnavailable",
        requests(503, "mark", "0 0 0 1 1 1 1") | requests(503, "readyz", "0+1x10"),
        2,
        4,
        OF_SERVICE | {"endpoint": "mark", "status": "503"},
        "Calls of mark are answered 503.",
    ),
    Case(
        "ProgressErrors",
        requests(500, "summary", "0 0 0 0 0 0 0")
        | requests(500, "mark", "0 0 0 1 1 1 1")
        | requests(500, "mark", "0 0 0 1 1 1 1", 'instance="b:8000",job="progress"')
        | requests(404, "none", "0+9x10"),
        2,
        4,
        OF_SERVICE | {"endpoint": "mark", "status": "500"},
        "Calls of mark are answered 500.",
    ),
    Case(
        "ProgressPoolTimeouts",
        {f"progress_pool_timeouts_total{{{SERVICE}}}": "0 0 0 1 1 1 1"},
        2,
        4,
        OF_SERVICE,
        "Requests get no connection to the database in time.",
    ),
    Case(
        "ProgressPoolWaiting",
        {f"progress_pool_waiting{{{SERVICE}}}": "3 0 2x20"},
        6,
        8,
        OF_SERVICE | {"instance": "a:8000"},
        "On a:8000, requests wait for a connection to the database.",
    ),
    Case(
        "ProgressSlow",
        durations("summary", "0.1", "0.2") | durations("lessons", "0.5", "1"),
        20,
        40,
        OF_SERVICE | {"endpoint": "summary"},
        "One call of summary in twenty takes longer than 195ms.",
    ),
    Case(
        "ProgressSlow",
        durations("mark", "0.15", "0.2"),
        20,
        40,
        OF_SERVICE | {"endpoint": "mark"},
        "One call of mark in twenty takes longer than 197.5ms.",
    ),
    Case(
        "ProgressStripeEvents",
        {f'progress_stripe_events_total{{outcome="{name}",{SERVICE}}}': "0+1x90" for name in ("applied", "ignored")}
        | {f'progress_stripe_events_total{{outcome="unattached",{SERVICE}}}': "0 0 0 1x90"}
        | {f'progress_stripe_events_total{{outcome="malformed",{SERVICE}}}': "0x90"},
        2,
        50,
        OF_SERVICE | {"outcome": "unattached"},
        "Stripe's webhook answered unattached, so somebody who paid may have no access.",
    ),
    Case(
        "ProgressRateLimited",
        {f"progress_rate_limited_writes_total{{{SERVICE}}}": "0+30x20 690+90x40"},
        20,
        45,
        OF_SERVICE,
        "The write limit refuses 1.5 writes a second.",
    ),
    Case(
        "ProgressNoDeliverer",
        {f"up{{{DELIVERER}}}": "1 1 0 0 0 0 0", f"progress_events_waiting{{{DELIVERER}}}": "0x20"},
        3,
        5,
        OF_DELIVERER | {"instance": "a:9101"},
        "A deliverer does not run.",
    ),
    Case(
        "ProgressNoDeliverer",  # when no target of this job is left
        {f"progress_events_waiting{{{DELIVERER}}}": "0 0 0 stale"},
        2,
        6,
        {},
        "A deliverer does not run.",
    ),
    Case(
        "ProgressEventsLate",
        {
            f"progress_events_oldest_seconds{{{DELIVERER}}}": "0 590 650 710",
            'progress_events_oldest_seconds{instance="b:9101",job="progress-deliver"}': "0 590 650 710",
        },
        1,
        2,
        OF_DELIVERER,
        "The oldest event waits for 10m 50s.",
    ),
    Case(
        "ProgressEventsGivenUp",
        {f"progress_events_given_up{{{DELIVERER}}}": "0 0 3 3"},
        1,
        2,
        OF_DELIVERER,
        "3 events were given up.",
    ),
]
# Nothing is wrong for an hour.
HEALTHY = {
    f"up{{{SERVICE}}}": "1x60",
    f"up{{{DELIVERER}}}": "1x60",
    f"progress_pool_waiting{{{SERVICE}}}": "0 1 0x58",
    f"progress_pool_timeouts_total{{{SERVICE}}}": "0x60",
    f"progress_rate_limited_writes_total{{{SERVICE}}}": "0+1x60",
    f'progress_stripe_events_total{{outcome="unattached",{SERVICE}}}': "0x60",
    f"progress_events_waiting{{{DELIVERER}}}": "0 5 9 5 0x56",
    f"progress_events_oldest_seconds{{{DELIVERER}}}": "0 2 9 5 0x56",
    f"progress_events_given_up{{{DELIVERER}}}": "0x60",
    **requests(200, "mark", "0+60x60"),
    **requests(404, "mark", "0+1x60"),
    **requests(500, "mark", "0x60"),
    **requests(503, "mark", "0x60"),
    **requests(200, "readyz", "0+6x60"),
    **requests(503, "readyz", "0x60"),
}


def written(series: dict[str, str], asked: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": rows, "alert_rule_test": asked}


def asked(minute: int, alert: str, *expected: dict[str, Any]) -> dict[str, Any]:
    return {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": list(expected)}


def promtool(*words: str | Path) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules_and_the_configuration_of_the_page(tmp_path):
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    config = block("yaml", "scrape_configs:")
    (tmp_path / "prometheus.yml").write_text(config.replace("/opt/progress-tracking/deploy/alerts.yml", str(ALERTS)))
    assert "is valid prometheus config file syntax" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_fires_when_something_is_wrong_and_only_then(tmp_path):
    by_name = {rule["alert"]: rule for rule in RULES}
    assert {case.alert for case in CASES} == by_name.keys()
    tests = [written(HEALTHY, [asked(minute, name) for name in by_name for minute in (5, 20, 59)])]
    for case in CASES:
        rule = by_name[case.alert]
        firing = {
            "exp_labels": rule["labels"] | case.labels,
            "exp_annotations": rule["annotations"] | {"summary": case.summary},
        }
        tests.append(written(case.series, [asked(case.silent, case.alert), asked(case.fires, case.alert, firing)]))
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)
