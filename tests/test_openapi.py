"""app/openapi.yaml against the service: every example in it is an answer that the service gives."""

import json
import keyword
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator
from psycopg.rows import dict_row
from stripe import WebhookSignature

from app.database import statements
from app.database.pool import Pool
from app.problems import CODES
from app.service import service_of
from app.tasks import catalog
from tests import contract
from tests.conftest import ROOT
from tests.world import SECRET, add_user, bearer, cookie

SCHEMAS: dict[str, Any] = contract.DOCUMENT["components"]["schemas"]
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, item in contract.DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method in ("get", "post", "delete")
}


def test_the_document_is_openapi_3_1():
    OpenAPIV31SpecValidator(contract.DOCUMENT).validate()


# What a generated client may call neither a function nor a type: ECMAScript's reserved words, those of strict mode and
# of modules, its literals, and what CommonJS puts around every file.
JAVASCRIPT = """
    arguments async await break case catch class const continue debugger default delete do else enum eval export
    extends false finally for function if implements import in instanceof interface let new null package private
    protected public return static super switch this throw true try typeof undefined var void while with yield
    module exports require global process
"""


def test_no_operation_and_no_schema_is_named_by_a_word_of_javascript_or_python():
    taken = {*JAVASCRIPT.split(), *keyword.kwlist, *keyword.softkwlist}
    assert taken.isdisjoint(OPERATIONS)
    assert taken.isdisjoint(contract.DOCUMENT["components"]["schemas"])


def test_an_operation_is_named_by_a_verb_and_a_noun():
    """Generated clients use these names for their functions, so each name must be different."""
    operations = [
        operation
        for item in contract.DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(operations) == len(OPERATIONS)
    for name in OPERATIONS:
        assert re.fullmatch(r"(get|list|mark|unmark|start|receive)([A-Z][a-z]+)+", name), name


def test_the_document_is_served_without_a_session_to_be_cached(api):
    response = api.get("/openapi.yaml")
    assert (response.status_code, response.mimetype) == (200, "application/yaml")
    assert response.data == contract.PATH.read_bytes()
    assert response.headers["Cache-Control"] == "public, max-age=300"
    assert "Vary" not in response.headers
    assert api.get("/openapi.yaml", headers={"If-None-Match": response.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    "headers", [{"If-Match": '"x"'}, {"Range": "bytes=0-9"}, {"If-Range": '"x"', "Range": "bytes=0-"}]
)
def test_the_document_comes_whole_whatever_condition_else_is_asked(api, headers):
    response = api.get("/openapi.yaml", headers=headers)
    assert (response.status_code, response.data) == (200, contract.PATH.read_bytes())


def test_every_route_is_documented_and_every_documented_call_is_a_route(make_api):
    routes = {
        (
            re.sub(
                "(?<=^/progress-ui/).+",
                "{file}",
                re.sub(r"<(\w+)_id>", r"{\1Id}", rule.rule),
            ),
            method.lower(),
        )
        for rule in make_api(METRICS="on", STRIPE_WEBHOOK_SECRET="whsec_1").application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    assert routes == {(path, method) for path, method, _ in OPERATIONS.values()}


def test_every_code_is_documented_and_no_other():
    examples = [
        name
        for response in contract.DOCUMENT["components"]["responses"].values()
        for name in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    ]
    assert codes_of("Problem") == list(CODES)
    assert set(examples) == set(CODES)


def schema(reference: dict[str, str]) -> Any:
    return SCHEMAS[reference["$ref"].removeprefix("#/components/schemas/")]


def codes_of(name: str) -> list[str]:
    """Return the codes of the problems that a schema allows."""
    union = SCHEMAS[name]
    problems = [schema(one) for one in union["oneOf"]] if "oneOf" in union else [union]
    codes = [code for problem in problems for code in problem["properties"]["code"]["enum"]]
    if "oneOf" in union:
        assert union["discriminator"] == {
            "propertyName": "code",
            "mapping": {code: one["$ref"] for code, one in zip(codes, union["oneOf"], strict=True)},
        }
    return codes


def test_each_code_has_a_schema_of_its_own_which_says_its_status_and_its_members():
    """So a typed client that has looked at `code` knows which members the document has."""
    members = {"invalid_body": {"errors"}, "lesson_locked": {"prerequisites"}}
    for one, (code, (status, _)) in zip(SCHEMAS["Problem"]["oneOf"], CODES.items(), strict=True):
        problem = schema(one)
        assert problem["properties"]["code"] == {"type": "string", "enum": [code]}
        assert problem["properties"]["status"] == {"type": "integer", "enum": [status]}
        named = {"type", "title", "status", "detail", "code"} | members.get(code, set())
        assert set(problem["properties"]) == set(problem["required"]) == named
        assert problem["additionalProperties"] is False


def test_a_response_has_an_example_of_each_problem_that_its_schema_allows():
    for name, response in contract.DOCUMENT["components"]["responses"].items():
        if content := response.get("content"):
            [media_type] = content.values()
            reference = media_type["schema"]["$ref"].removeprefix("#/components/schemas/")
            assert codes_of(reference) == list(media_type["examples"]), name


def parts(part: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield each mapping of the document, with its place. Examples are left out, because they are answers."""
    if isinstance(part, dict):
        yield place, part
        for key, value in part.items():
            if key not in ("example", "examples") or place[-1:] == ("properties",):
                yield from parts(value, (*place, str(key)))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from parts(value, (*place, str(index)))


def test_every_object_is_a_schema_with_a_name():
    """A generator names a type by its schema, and makes up a name for an object that is described where it is used."""
    for place, part in parts(contract.DOCUMENT):
        if part.get("type") == "object" or ("properties" in part and place[-1:] != ("properties",)):
            assert place[:-1] == ("components", "schemas"), "/".join(place)
            assert part["type"] == "object"


def test_every_enum_and_every_const_says_its_type():
    found = [(place, part) for place, part in parts(contract.DOCUMENT) if "enum" in part or "const" in part]
    assert len(found) > len(CODES)
    for place, part in found:
        expected = {"string": str, "integer": int, "boolean": bool}[part["type"]]
        assert all(type(value) is expected for value in part.get("enum", [part.get("const")])), "/".join(place)


def test_every_schema_is_used():
    used = set(re.findall(r"#/components/schemas/(\w+)", contract.PATH.read_text("utf-8")))
    assert used | {"Problem"} == set(SCHEMAS)


@pytest.fixture
def curriculum(db, database_url):
    """Load the JavaScript curriculum, and add the learner of the examples, who has free access."""
    rows = catalog.read_file(ROOT / "app" / "demo" / "catalogs" / "exercism-javascript.json")
    with psycopg.connect(database_url, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as connection:
        catalog.load(connection, rows, dry_run=False)
    course = contract.DOCUMENT["paths"]["/api/progress/courses/{courseId}"]["parameters"][0]["example"]
    db.execute("insert into courses (id, title, position) values (%s, 'JavaScript', 1)", [course])
    db.execute("update modules set course_id = %s", [course])
    return add_user(db, access="free")


FIRST = "/api/progress/lessons/97bf898a-36fc-47fc-b870-01fc0c7fe554"
LESSONS = "/api/progress/lessons"
MODULE = "/api/progress/modules/5622d5b1-8422-4013-9b44-da82085a6c99"
COURSE = "/api/progress/courses/8b8f4f0c-5a5e-4b0f-9d6a-6f1f0c7e2d31"
LOCKED = "/api/progress/lessons/193a0e19-462d-4d26-a117-124f07d5a3d7"
NOT_FREE = "/api/progress/lessons/39549583-1889-490a-bf98-ffb2e0aefe44"
UNKNOWN = "/api/progress/lessons/00000000-0000-4000-8000-00000000dead"
# This statement fails as a statement that takes too long does, but at once.
TIMED_OUT = b"do $$ begin raise exception using errcode = 'query_canceled'; end $$"
EARLIER = {"completedAt": "2026-11-23T08:42:30.123Z"}


def example(operation: str) -> Any:
    _, _, described = OPERATIONS[operation]
    return described["responses"]["200"]["content"]["application/json"]["example"]


def without_times(value: Any) -> Any:
    """Return an export without what is different each time, and without the learner's id."""
    if isinstance(value, dict):
        varying = {"exportedAt", "createdAt", "updatedAt", "userId"}
        return {name: without_times(each) for name, each in value.items() if name not in varying}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_every_example_of_an_answer_is_the_answer(api, curriculum, db):
    db.execute("update users set email = 'ada@example.org', name = 'Ada'")
    assert api.delete(FIRST, headers=bearer()).json == example("unmarkLesson")
    assert api.post(FIRST, headers=bearer(), json=EARLIER).json == example("markLesson")
    body = OPERATIONS["markLesson"][2]["requestBody"]["content"]["application/json"]["examples"]
    assert [entry["value"] for entry in body.values()] == [{}, EARLIER]
    for name, (path, _, described) in OPERATIONS.items():
        if "reads" not in described["tags"] or not path.startswith("/api/progress/") or name == "getAccess":
            continue
        ids = {one["name"]: one["example"] for one in contract.DOCUMENT["paths"][path].get("parameters", [])}
        query = {one["name"]: ",".join(one["example"]) for one in described["parameters"] if "example" in one}
        answer = api.get(path.format(**ids), headers=bearer(), query_string=query).json
        if name == "getExport":
            assert without_times(answer) == without_times(example(name))
        else:
            assert answer == example(name)
    starts = (("startModuleOver", MODULE), ("startCourseOver", COURSE), ("startAllOver", f"{LESSONS}?all=true"))
    for name, path in starts:
        api.post(FIRST, headers=bearer(), json=EARLIER)
        assert api.delete(path, headers=bearer()).json == example(name)
    [many] = OPERATIONS["markLessons"][2]["requestBody"]["content"]["application/json"]["examples"].values()
    assert api.post(LESSONS, headers=bearer(), json=many["value"]).json == example("markLessons")


def problem(response: str, code: str) -> Any:
    content = contract.DOCUMENT["components"]["responses"][response]["content"]["application/problem+json"]
    return content["examples"][code]["value"]


def test_every_example_of_a_problem_is_the_problem(api, make_api, curriculum, db, monkeypatch):
    stranger = bearer("00000000-0000-4000-8000-000000000000")
    bad_key = bearer() | {"Idempotency-Key": ""}
    bad_body = {"completedAt": "2999-01-01T00:00:00Z", "note": "done"}
    id = FIRST.rpartition("/")[2]
    twice = [{"lessonId": id}, {"lessonId": id.upper(), "completedAt": "2999-01-01T00:00:00Z"}]
    bad_list = {"lessons": twice, "note": "done"}
    calls = [
        ("Unauthenticated", "unauthenticated", api.get("/api/progress/summary")),
        ("InvalidModuleId", "invalid_module_id", api.get("/api/progress/modules/1", headers=bearer())),
        ("InvalidCourseId", "invalid_course_id", api.get("/api/progress/courses/1", headers=bearer())),
        ("InvalidInclude", "invalid_include", api.get("/api/progress/outline?include=access", headers=bearer())),
        ("BadMark", "invalid_lesson_id", api.post("/api/progress/lessons/1", headers=bearer())),
        ("BadMark", "invalid_idempotency_key", api.post(FIRST, headers=bearer() | {"Idempotency-Key": ""})),
        ("BadMark", "invalid_body", api.post(FIRST, headers=bearer(), json=bad_body)),
        ("BadMark", "lesson_not_available", api.post(NOT_FREE, headers=bearer())),
        ("BadUnmark", "invalid_lesson_id", api.delete("/api/progress/lessons/1", headers=bearer())),
        ("BadUnmark", "invalid_idempotency_key", api.delete(FIRST, headers=bearer() | {"Idempotency-Key": ""})),
        ("BadUnmark", "lesson_not_available", api.delete(NOT_FREE, headers=bearer())),
        ("BadModuleStartOver", "invalid_module_id", api.delete("/api/progress/modules/1", headers=bearer())),
        ("BadModuleStartOver", "invalid_idempotency_key", api.delete(MODULE, headers=bad_key)),
        ("BadCourseStartOver", "invalid_course_id", api.delete("/api/progress/courses/1", headers=bearer())),
        ("BadCourseStartOver", "invalid_idempotency_key", api.delete(COURSE, headers=bad_key)),
        ("BadStartOver", "invalid_idempotency_key", api.delete(LESSONS, headers=bad_key)),
        ("BadStartOver", "confirmation_required", api.delete(LESSONS, headers=bearer())),
        ("BadManyMarks", "invalid_idempotency_key", api.post(LESSONS, headers=bearer() | {"Idempotency-Key": ""})),
        ("BadManyMarks", "invalid_body", api.post(LESSONS, headers=bearer(), json=bad_list)),
        ("ManyMarksTooLarge", "body_too_large", api.post(LESSONS, headers=bearer(), data=b" " * 65537)),
        ("NotEnrolled", "not_enrolled", api.get("/api/progress/next", headers=stranger)),
        ("LessonNotFound", "lesson_not_found", api.post(UNKNOWN, headers=bearer())),
        (
            "ModuleNotFound",
            "module_not_found",
            api.get(UNKNOWN.replace("lessons", "modules"), headers=bearer()),
        ),
        (
            "CourseNotFound",
            "course_not_found",
            api.get(UNKNOWN.replace("lessons", "courses"), headers=bearer()),
        ),
        ("OtherLearner", "other_learner", api.post(FIRST, headers=bearer() | {"Learner-Tag": "another"})),
        ("BodyTooLarge", "body_too_large", api.delete(FIRST, headers=bearer(), data=b" " * 16385)),
        ("UnsupportedMediaType", "unsupported_media_type", api.post(FIRST, headers=bearer(), data="{}")),
        ("NotFound", "not_found", api.get("/api/progress/nothing")),
        ("MethodNotAllowed", "method_not_allowed", api.put(FIRST)),
    ]
    # The learner of the example has completed the first lesson. Two more are needed to unlock the lesson.
    api.post(FIRST, headers=bearer())
    calls.append(("LessonLocked", "lesson_locked", api.post(LOCKED, headers=bearer())))
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "read", lambda *_, **__: 1 / 0)
        calls.append(("InternalError", "internal_error", api.get("/api/progress/summary", headers=bearer())))
    with monkeypatch.context() as patch:
        patch.setitem(statements.STATEMENTS, "summary", statements.Statement("summary", TIMED_OUT, ()))
        calls.append(("Unavailable", "unavailable", api.get("/api/progress/summary", headers=bearer())))
    stripe = make_api(STRIPE_WEBHOOK_SECRET="whsec_1", DATABASE_TIMEOUT="0.2", WEB_THREADS="1")
    webhook = "/api/stripe/webhook"
    calls.append(("InvalidSignature", "invalid_signature", stripe.post(webhook, data="{}")))
    calls.append(("EventTooLarge", "body_too_large", stripe.post(webhook, data=b" " * (512 * 1024 + 1))))
    with service_of(stripe.application).pool.connection():
        event = (ROOT / "app" / "demo" / "stripe" / "active.json").read_text()
        headers = {"Stripe-Signature": WebhookSignature.generate_signature_header(event, "whsec_1")}
        calls.append(("EventNotTaken", "unavailable", stripe.post(webhook, data=event, headers=headers)))
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "transact", lambda *_: 1 / 0)
        calls.append(("EventFailed", "internal_error", stripe.post(webhook, data=event, headers=headers)))
    unready = make_api()
    service_of(unready.application).migrations.append("0099_example")
    calls.append(("NotReady", "unavailable", unready.get("/readyz")))
    limited = make_api(RATE_LIMIT_WRITES="10 per minute")
    for _ in range(10):
        limited.delete(FIRST, headers=bearer())
    calls.append(("RateLimited", "rate_limited", limited.delete(FIRST, headers=bearer())))
    foreign = make_api(AUTH_SECRET=SECRET).post(FIRST, headers=cookie() | {"Sec-Fetch-Site": "cross-site"})
    calls.append(("WriteForbidden", "cross_site_request", foreign))
    calls.append(("WriteForbidden", "not_enrolled", api.post(FIRST, headers=stranger)))
    for response, code, answer in calls:
        assert answer.json == problem(response, code)
    documented = {
        (name, code)
        for name, described in contract.DOCUMENT["components"]["responses"].items()
        for code in described.get("content", {}).get("application/problem+json", {}).get("examples", {})
    }
    assert documented == {(response, code) for response, code, _ in calls}


def test_a_wrong_document_would_be_noticed(api, db, monkeypatch):
    """The check of the tests' client fails if the document lacks the status, a header or the code of an answer."""
    add_user(db)
    summary = OPERATIONS["getSummary"][2]["responses"]
    with monkeypatch.context() as patch:
        patch.delitem(summary, "200")
        with pytest.raises(KeyError):
            api.get("/api/progress/summary", headers=bearer())
    with monkeypatch.context() as patch:
        patch.delitem(summary["200"]["headers"], "ETag")
        with pytest.raises(AssertionError, match="not documented: ETag"):
            api.get("/api/progress/summary", headers=bearer())
    with monkeypatch.context() as patch:
        patch.delitem(
            contract.DOCUMENT["components"]["responses"]["Unauthenticated"]["content"]["application/problem+json"][
                "examples"
            ],
            "unauthenticated",
        )
        with pytest.raises(AssertionError, match="not documented"):
            api.get("/api/progress/summary")


GOOD = {"percent": 50, "completedCount": 1, "totalCount": 2}


@pytest.mark.parametrize(
    ("document", "headers", "error"),
    [
        (GOOD, {}, ""),
        (GOOD | {"percent": 101}, {}, "101 is greater than the maximum of 100"),
        (GOOD | {"percent": "50"}, {}, '"50" is not of type "integer"'),
        ({"percent": 50}, {}, '"completedCount" is a required property'),
        (GOOD, {"Content-Type": "text/plain"}, "content type text/plain is not documented"),
        (GOOD, {"Cache-Control": "public"}, '"private, no-cache" was expected'),
        (GOOD, {"Learner-Tag": "Alice"}, '"Alice" does not match'),
        (GOOD, {"ETag": None}, "no ETag"),
        (GOOD, {"X-Powered-By": "coffee"}, "not documented: X-Powered-By"),
    ],
)
def test_a_wrong_answer_would_be_noticed(api, db, document, headers, error):
    add_user(db)
    right = dict(api.get("/api/progress/summary", headers=bearer()).headers.items())
    sent = {name: value for name, value in (right | headers).items() if value is not None}
    other = Flask("another service")
    other.test_client_class = contract.Client
    other.add_url_rule("/api/progress/summary", view_func=lambda: (json.dumps(document), 200, sent))
    with pytest.raises(AssertionError, match=re.escape(error)) if error else nullcontext():
        other.test_client(use_cookies=False).get("/api/progress/summary")
