"""schemathesis sends a running service data that fits app/openapi.yaml, and data that does not."""

import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime
from typing import Any

import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from stripe import WebhookSignature

from app.checks import MAX_MANY_MARKS
from app.tasks import catalog
from tests import contract
from tests.conftest import DEEP, ROOT, running_gunicorn
from tests.test_openapi import OPERATIONS
from tests.world import SECRET, add_course, add_user, bearer, cookie, uuid4

# A completedAt must be from 1970 on and not in the future. A schema cannot say this, so the document says it in words.
schemathesis.openapi.format(
    "date-time",
    st.datetimes(datetime(1970, 1, 2), datetime(2026, 1, 1), timezones=st.timezones()).map(lambda at: at.isoformat()),
)


# schemathesis takes the types of YAML for one type, and uses what is registered for the first of them.
@schemathesis.deserializer("text/yaml")
def read_yaml(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    return contract.read_yaml(response.content)


# schemathesis needs seconds to make a list of 500 marks. tests/test_many_marks.py sends 500 and 501.
DOCUMENT = deepcopy(contract.DOCUMENT)
MANY_MARKS = DOCUMENT["components"]["schemas"]["ManyMarks"]["properties"]["lessons"]
assert MANY_MARKS.pop("maxItems") == MAX_MANY_MARKS

# `nobody` calls with a session that schemathesis makes up. `learner` calls with a valid session.
nobody = schemathesis.openapi.from_dict(DOCUMENT)
learner = schemathesis.openapi.from_dict(DOCUMENT)
learner.config.generation.update(with_security_parameters=False)
# schemathesis may make up a Learner-Tag. The service refuses that tag with 412, before it looks at other faults of a
# write.
rejections = learner.config.checks.negative_data_rejection
rejections.expected_statuses = [*rejections.expected_statuses, "412"]
CATALOG = catalog.read_file(ROOT / "app" / "demo" / "catalogs" / "exercism-javascript.json")
KNOWN = {
    f"{kind}Id": [row["id"] for row in CATALOG[f"{kind}s"] if row.get("published", True)]
    for kind in ("lesson", "module")
}
KNOWN["courseId"] = [uuid4(3)]
WEBHOOK_SECRET = "whsec_1"
TRIED: Counter[tuple[str, str, int]] = Counter()
SESSIONS = {"token": bearer(), "cookie": cookie()}

tried = settings(max_examples=300 if DEEP else 12, suppress_health_check=list(HealthCheck))


@schemathesis.check
def described_by_the_document(ctx: schemathesis.CheckContext, response: Any, case: Any) -> None:
    """Assert that the document has the status, the problem and the headers, with the check of tests/contract.py."""
    data, headers = response.content, {name: values[0] for name, values in response.headers.items()}
    code = contract.code_of(headers.get("content-type"), data)
    pointer = contract.described(case.operation.path, case.method, response.status_code, code)
    contract.check_headers(pointer, headers.items())
    assert not data.startswith(b"<")


@pytest.fixture(scope="module")
def url(
    environ: dict[str, str], connection: psycopg.Connection, database_url: str, empty_tables: Callable[[], None]
) -> Iterator[str]:
    """A service, and a learner who may take every lesson of the document's examples."""
    empty_tables()
    with psycopg.connect(database_url, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as loading:
        catalog.load(loading, CATALOG, dry_run=False)
    add_user(connection)
    add_course(connection, 3)
    connection.execute("update modules set course_id = %s", [uuid4(3)])
    more = {"METRICS": "on", "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET, "AUTH_SECRET": SECRET, "LOG_LEVEL": "error"}
    with running_gunicorn(environ | more | {"WEB_CONCURRENCY": "1"}) as service:
        yield service.url
    shown = (f"{amount:6} {method} {path} {status}" for (method, path, status), amount in sorted(TRIED.items()))
    print("\n".join(shown))  # noqa: T201 - pytest shows it with -rA, or if a test fails
    # Every call that was tried has succeeded at least once.
    documented = {(method.upper(), path) for path, method, _ in OPERATIONS.values()}
    tried = {(method, path) for method, path, _ in TRIED} & documented
    assert {(method, path) for method, path, status in TRIED if status == 200} == tried


def sign(request: Any) -> Any:
    """Sign a request as Stripe does. A schema cannot describe the signature."""
    body = request.body or b""
    payload = body.decode() if isinstance(body, bytes) else body
    request.headers["Stripe-Signature"] = WebhookSignature.generate_signature_header(payload, WEBHOOK_SECRET)
    return request


def hold(case: Any, url: str, headers: dict[str, str]) -> None:
    """Send a request, and run every check of schemathesis on the answer."""
    positive = case.meta.generation.mode.is_positive
    signed = positive and case.operation.path == "/api/stripe/webhook"
    if positive:
        # Replace three of four made-up ids by the id of an existing module or lesson.
        for name, known in KNOWN.items():
            number = int(str(case.path_parameters.get(name, "0"))[:8], 16)
            if number % 4:
                case.path_parameters[name] = known[number % len(known)]
        # No schema can say that a lesson is in the list once. So give each entry another lesson.
        if (case.method, case.operation.path) == ("POST", "/api/progress/lessons"):
            # The body may be an example of the document itself, so it must not be changed in place.
            pairs = zip(case.body["lessons"], KNOWN["lessonId"], strict=False)
            case.body = {**case.body, "lessons": [{**entry, "lessonId": known} for entry, known in pairs]}
        # Replace a made-up Learner-Tag by the learner's own, which no schema can describe.
        if headers and "Learner-Tag" in (case.headers or {}):
            with urllib.request.urlopen(urllib.request.Request(f"{url}/api/progress/summary", headers=headers)) as own:
                case.headers["Learner-Tag"] = own.headers["Learner-Tag"]
    response = case.call(base_url=url, headers=headers, auth=sign if signed else None)
    TRIED[case.method, case.operation.path, response.status_code] += 1
    case.validate_response(response)


@nobody.parametrize()
@tried
@pytest.mark.parametrize("headers", [{}], ids=["nobody"])  # without a parameter, all calls would have one id
def test_every_answer_to_nobody_is_one_of_the_document(url, headers, case):
    hold(case, url, headers)


@learner.parametrize()
@tried
@pytest.mark.parametrize("session", SESSIONS)
def test_every_answer_to_a_learner_is_one_of_the_document(url, session, case):
    hold(case, url, SESSIONS[session])
