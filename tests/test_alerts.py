"""deploy/alerts.yml: the rules are those of the page, and each series that they name is one that the service exposes.

tests/system/test_alerts.py runs them with promtool.
"""

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app import metrics
from app.events import metrics as deliverers_metrics
from tests.conftest import ROOT
from tests.pages import PAGES, block, table
from tests.world import LEARNER, add_module, add_user, bearer, lesson_path, module_path

GROUPS = {
    group["name"]: group["rules"] for group in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
}
RULES = [rule for rules in GROUPS.values() for rule in rules]
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')


def selectors(rule: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return each metric that a rule names, with its label matchers."""
    named = re.findall(r"\b(up|progress_\w+)(?:\{(.*?)\})?", rule["expr"])
    return [(name, MATCHER.findall(matchers)) for name, matchers in named]


def test_the_page_has_each_rule_and_no_other():
    told = [(row[0].strip("`"), row[1].replace("\\|", "|")) for row in table("docs/operating.md", "Alerts")]
    assert told == [
        (rule["alert"], f"`{rule['expr']}`" + (f", for `{rule['for']}`" if "for" in rule else "")) for rule in RULES
    ]


def test_each_rule_says_what_is_wrong_and_leads_to_what_to_do():
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
        assert list(rule["annotations"]) == ["summary", "description", "runbook"]
        for text in rule["annotations"].values():
            assert text == " ".join(text.split())
        place = re.fullmatch(r'(\S+), "(.+)"', rule["annotations"]["runbook"])
        assert place
        assert f"\n## {place[2]}\n" in PAGES[place[1]]


def test_the_jobs_of_the_page_are_those_of_the_rules():
    config = yaml.safe_load(block("yaml", "scrape_configs:"))
    jobs = [job["job_name"] for job in config["scrape_configs"]]
    named = [value for rule in RULES for _, found in selectors(rule) for label, _, value in found if label == "job"]
    assert named == jobs


def exposed(module: ModuleType) -> set[str]:
    """Return the names of the series of a module's metrics."""
    collectors = [each for each in vars(module).values() if isinstance(each, MetricWrapperBase)]
    return {
        f"{family.name}{ending}"
        for collector in collectors
        for family in collector.describe()
        for ending in {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family.type]
    }


@pytest.fixture
def samples(make_api, db) -> list[Sample]:
    """Return what /metrics shows after some calls, all of which have succeeded."""
    add_user(db)
    add_module(db, 1, 0x11)
    api = make_api(METRICS="on", STRIPE_WEBHOOK_SECRET="whsec_x")
    for method, path in (
        ("GET", "/readyz"),
        ("GET", "/api/progress/summary"),
        ("GET", module_path(1)),
        ("POST", lesson_path(0x11)),
        ("DELETE", lesson_path(0x11)),
    ):
        assert api.open(path, method=method, headers=bearer(LEARNER)).status_code == 200
    families = text_string_to_metric_families(api.get("/metrics").text)
    return [sample for family in families for sample in family.samples]


def alternatives(matchers: list[tuple[str, str, str]]) -> Iterator[dict[str, str]]:
    """Yield the labels that a selector asks for: with a=~"b|c", first those with b, then those with c."""
    fixed = {label: value for label, sign, value in matchers if sign == "="}
    patterns = [(label, value) for label, sign, value in matchers if sign == "=~"]
    assert len(patterns) <= 1
    for label, pattern in patterns:
        for value in pattern.split("|"):
            yield fixed | {label: value}
    if not patterns:
        yield fixed


def test_each_series_that_a_rule_names_is_there_before_anything_is_wrong(samples):
    """The rate of a series that begins with 1 is 0. So what an alert counts is exposed as 0 before it happens."""
    for group, rules in GROUPS.items():
        names = exposed({"progress": metrics, "progress-events": deliverers_metrics}[group])
        for name, matchers in (found for rule in rules for found in selectors(rule)):
            if name == "up":  # Prometheus' own
                continue
            assert name in names, f"{name}: {group} has no such metric"
            for wanted in alternatives(matchers):
                found = [each for each in samples if each.name == name and wanted.items() <= each.labels.items()]
                assert found, f"{name}: {wanted}"
    failures = {each.labels["endpoint"] for each in samples if each.labels.get("status") in ("500", "503")}
    assert {"mark", "start_all_over", "readyz", "healthz", "webhook", "document"} <= failures
