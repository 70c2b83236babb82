"""Contract §3: starting a module, a course or everything over unmarks every lesson of it that the learner may take."""

import itertools
import json
import threading
import urllib.request
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import running_gunicorn
from tests.world import (
    LEARNER,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    completions,
    course_path,
    get,
    give_course,
    module_path,
    ok,
    require,
    token,
    uuid4,
)

ALL = "/api/progress/lessons?all=true"


def start_over(api: FlaskClient, path: str, user_id: str = LEARNER, **options: Any) -> TestResponse:
    return api.delete(path, headers=bearer(user_id) | options.pop("headers", {}), **options)


def counts(completed: int, total: int) -> dict[str, int]:
    return {
        "percent": 100 * completed // total if total else 0,
        "completedCount": completed,
        "totalCount": total,
    }


def completed(db, user_id: str = LEARNER) -> list[str]:
    return [lesson for user, lesson, _ in completions(db) if user == user_id]


@pytest.fixture
def world(db):
    """Modules 1 and 2 in course 3, module 4 in no course. The learner has completed all but one lesson of module 2."""
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    add_module(db, 2, 0x21, 0x22, 0x23)
    add_module(db, 4, 0x41)
    add_course(db, 3, 1, 2)
    complete(db, 0x11, 0x12, 0x21, 0x22, 0x41)
    return db


def test_starting_a_module_over_unmarks_its_lessons_and_counts_module_course_and_overall(api, world):
    assert ok(start_over(api, module_path(1))) == {
        "removedCount": 2,
        "module": {"moduleId": uuid4(1), **counts(0, 2)},
        "course": {"courseId": uuid4(3), **counts(2, 5)},
        "overall": counts(3, 6),
    }
    assert completed(world) == [uuid4(0x21), uuid4(0x22), uuid4(0x41)]
    assert get(api, "summary") == counts(3, 6)


def test_a_module_without_a_course_answers_without_one(api, world):
    assert ok(start_over(api, module_path(4))) == {
        "removedCount": 1,
        "module": {"moduleId": uuid4(4), **counts(0, 1)},
        "overall": counts(4, 6),
    }
    assert completed(world) == [uuid4(0x11), uuid4(0x12), uuid4(0x21), uuid4(0x22)]


def test_starting_a_course_over_unmarks_the_lessons_of_all_its_modules(api, world):
    assert ok(start_over(api, course_path(3))) == {
        "removedCount": 4,
        "course": {"courseId": uuid4(3), **counts(0, 5)},
        "overall": counts(1, 6),
    }
    assert completed(world) == [uuid4(0x41)]


def test_starting_everything_over_unmarks_every_lesson(api, world):
    assert ok(start_over(api, ALL)) == {"removedCount": 5, "overall": counts(0, 6)}
    assert completed(world) == []


@pytest.mark.parametrize("path", [module_path(1), course_path(3), ALL])
def test_a_second_start_over_succeeds_and_removes_nothing(api, world, path):
    first = ok(start_over(api, path))
    assert ok(start_over(api, path)) == first | {"removedCount": 0}


@pytest.mark.parametrize("path", [module_path(1), course_path(3), ALL])
def test_starting_over_leaves_other_learners_alone(api, world, path):
    other = add_user(world, uuid4(0xB0B))
    complete(world, 0x11, 0x22, user_id=other)
    ok(start_over(api, path))
    assert completed(world, other) == [uuid4(0x11), uuid4(0x22)]


@pytest.mark.parametrize(("path", "left"), [(module_path(1), [0x12]), (course_path(3), [0x12]), (ALL, [0x12, 0x41])])
def test_a_lesson_that_the_learner_may_not_take_now_stays_completed(api, world, path, left):
    """0x12 is unpublished. 0x41 is in no course, and the learner has the course only."""
    world.execute("delete from subscriptions")
    give_course(world, 3)
    world.execute("update lessons set published = false where id = %s", [uuid4(0x12)])
    ok(start_over(api, path))
    rest = {uuid4(lesson) for lesson in (0x21, 0x22)} if path == module_path(1) else set()
    assert set(completed(world)) == rest | {uuid4(lesson) for lesson in left} | {uuid4(0x41)}


@pytest.mark.parametrize("path", [module_path(1), course_path(3), ALL])
def test_only_what_this_learner_may_take_is_unmarked_whatever_others_may(api, world, path):
    """The learner has free access, and 0x11 alone is free. Another learner has full access."""
    world.execute("delete from subscriptions")
    world.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    world.execute("update lessons set is_free = true where id = %s", [uuid4(0x11)])
    add_user(world, uuid4(0xB0B))
    assert ok(start_over(api, path))["removedCount"] == 1
    assert completed(world) == [uuid4(lesson) for lesson in (0x12, 0x21, 0x22, 0x41)]


def test_a_completed_lesson_elsewhere_stays_completed_and_what_is_open_becomes_locked(api, world):
    """0x22 of module 2 is completed, and 0x23 is not. Both need 0x11, which is unmarked."""
    require(world, 0x22, 0x11)
    require(world, 0x23, 0x11)
    assert ok(start_over(api, module_path(1))) == {
        "removedCount": 2,
        "module": {"moduleId": uuid4(1), **counts(0, 2)},
        "course": {"courseId": uuid4(3), **counts(2, 4)},
        "overall": counts(3, 5),
    }
    states = {
        lesson["lessonId"]: (lesson["state"], lesson["prerequisites"])
        for module in get(api, "outline")["modules"]
        for lesson in module["lessons"]
    }
    assert states[uuid4(0x22)] == ("completed", [])
    assert states[uuid4(0x23)] == ("locked", [uuid4(0x11)])


def test_a_locked_lesson_is_not_in_the_way_of_starting_over(api, world):
    """A locked lesson is accessible, so it belongs to what is started over. It has no mark that could be removed."""
    add_module(world, 5, 0x51)
    require(world, 0x51, 0x23)
    assert ok(start_over(api, module_path(5))) == {
        "removedCount": 0,
        "module": {"moduleId": uuid4(5), **counts(0, 0)},
        "overall": counts(5, 6),
    }


def test_ids_may_be_in_upper_case_and_answers_have_lower_case(api, world):
    for path, member, name in ((module_path(0xA), "module", "moduleId"), (course_path(0xB), "course", "courseId")):
        if member == "module":
            add_module(world, 0xA, 0xA1)
            add_course(world, 0xB, 0xA)
        prefix, _, id = path.rpartition("/")
        assert ok(start_over(api, f"{prefix}/{id.upper()}"))[member][name] == id


def test_an_unknown_module_or_course_is_not_found(api, world):
    assert_problem(start_over(api, module_path(0x99)), "module_not_found")
    assert_problem(start_over(api, course_path(0x99)), "course_not_found")


def test_a_module_or_course_without_an_accessible_lesson_is_not_found_and_keeps_its_completions(api, world):
    world.execute("delete from subscriptions")
    world.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    before = completed(world)
    assert_problem(start_over(api, module_path(1)), "module_not_found")
    assert_problem(start_over(api, course_path(3)), "course_not_found")
    assert ok(start_over(api, ALL)) == {"removedCount": 0, "overall": counts(0, 0)}
    assert completed(world) == before


@pytest.mark.parametrize("path", [module_path(1), course_path(3), module_path(0x99), course_path(0x99), ALL])
def test_a_learner_who_is_not_enrolled_is_told_so_first(api, world, path):
    world.execute("delete from subscriptions")
    before = completed(world)
    assert_problem(start_over(api, path), "not_enrolled")
    assert completed(world) == before


@pytest.mark.parametrize(
    "query", ["", "?", "?all", "?all=", "?all=TRUE", "?all=1", "?all=false", "?ALL=true", "?all=true&all=false"]
)
def test_everything_needs_a_confirmation_in_the_query(api, world, query):
    before = completed(world)
    response = start_over(api, f"/api/progress/lessons{query}", json={"all": True})
    assert_problem(response, "confirmation_required")
    assert "empty id" in response.get_json()["detail"]
    assert completed(world) == before


def test_a_confirmation_may_come_twice_and_beside_other_parameters(api, world):
    assert ok(start_over(api, f"{ALL}&all=true&from=page"))["removedCount"] == 5


@pytest.mark.parametrize("path", [module_path(1), course_path(3), ALL])
def test_of_a_body_only_its_size_matters(api, world, path):
    assert_problem(start_over(api, path, data=b" " * (16 * 1024 + 1)), "body_too_large")
    assert ok(start_over(api, path, data=b"no json", content_type="text/plain"))["removedCount"] > 0


FAULTS: dict[str, dict[str, Any]] = {
    "unauthenticated": {"session": "bad"},
    "other_learner": {"headers": {"Learner-Tag": "another"}},
    "cross_site_request": {"headers": {"Sec-Fetch-Site": "cross-site"}},
    "invalid_module_id": {"id": "bad"},
    "invalid_course_id": {"id": "bad"},
    "invalid_idempotency_key": {"headers": {"Idempotency-Key": "not one"}},
    "body_too_large": {"data": b" " * (16 * 1024 + 1)},
    "confirmation_required": {"query": "?all=false"},
    "not_enrolled": {"session": token(STRANGER)},
    "module_not_found": {"id": uuid4(0x99)},
    "course_not_found": {"id": uuid4(0x99)},
}
OF_ONE_CALL = {
    "modules": {"invalid_module_id", "module_not_found"},
    "courses": {"invalid_course_id", "course_not_found"},
    "lessons": {"confirmation_required"},
}


@pytest.mark.parametrize("kind", OF_ONE_CALL)
def test_of_two_faults_the_first_of_the_contracts_table_is_answered(api, world, kind):
    add_user(world, STRANGER, access=None)
    before = completions(world)
    of_other_calls = set().union(*OF_ONE_CALL.values()) - OF_ONE_CALL[kind]
    faults = [fault for fault in FAULTS if fault not in of_other_calls]
    for first, second in itertools.combinations_with_replacement(faults, 2):
        request: dict[str, Any] = {"session": token(), "id": uuid4(1 if kind == "modules" else 3), "data": b""}
        request |= {"query": "?all=true", "headers": {}}
        for fault in (FAULTS[second], FAULTS[first]):
            headers = request["headers"] | fault.get("headers", {})
            request |= fault | {"headers": headers}
        path = f"lessons{request['query']}" if kind == "lessons" else f"{kind}/{request['id']}"
        # In a cookie, because only a write by cookie is checked for its origin.
        headers = {"Cookie": f"authjs.session-token={request['session']}"} | request["headers"]
        answer = api.delete(f"/api/progress/{path}", headers=headers, data=request["data"])
        assert_problem(answer, first)
    assert completions(world) == before


def test_one_call_is_one_write_of_the_limit_and_repeats_the_idempotency_key(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="3 per hour")
    for path in (module_path(1), course_path(3), ALL):
        answer = start_over(api, path, headers={"Idempotency-Key": "a-key"})
        assert ok(answer)["removedCount"] > 0
        assert answer.headers["Idempotency-Key"] == "a-key"
    for path in (module_path(1), course_path(3), ALL, "/api/progress/lessons"):
        assert_problem(start_over(api, path), "rate_limited")


def test_parallel_starts_over_and_marks_remove_each_completion_once(environ, world):
    """Eight clients start over at once. Each completion is in the removedCount of exactly one of them."""
    for lesson in range(0x100, 0x140):
        add_lesson(world, 1, lesson)
    complete(world, *range(0x100, 0x140))
    removed: list[int] = []
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "2", "RATE_LIMIT_WRITES": ""}) as service:
        barrier = threading.Barrier(8)

        def client(path: str) -> None:
            request = urllib.request.Request(service.url + path, method="DELETE", headers=bearer())
            barrier.wait()
            with urllib.request.urlopen(request, timeout=60) as response:
                removed.append(json.load(response)["removedCount"])

        threads = [
            threading.Thread(target=client, args=(path,)) for path in (module_path(1), course_path(3), ALL, ALL) * 2
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(removed) == 8
    assert sum(removed) == 69
    assert completed(world) == []
