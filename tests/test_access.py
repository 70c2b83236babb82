"""Who may take what: contract §2, Access. Each call has a statement of its own, so each call is tested."""

import pytest

from tests.calls import reads
from tests.conftest import both_plans
from tests.world import (
    FREE_LEARNER,
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
    get,
    lesson_path,
    mark,
    module_path,
    ok,
    unmark,
    uuid4,
)

plan_mode = both_plans()
MODULE = f"modules/{uuid4(1)}"
COURSE = f"courses/{uuid4(3)}"
PAID_DONE, FREE_DONE, PAID = 2, 3, 4


@pytest.fixture
def world(db):
    """A course of one module. A learner without access has completed a paid and a free lesson; a paid one is left."""
    add_user(db, access=None)
    add_module(db, 1, PAID_DONE)
    add_lesson(db, 1, FREE_DONE, is_free=True)
    add_lesson(db, 1, PAID)
    add_course(db, 3, 1)
    complete(db, PAID_DONE, FREE_DONE)
    return db


def subscribe(db, status="active", end="now() + interval '1 hour'"):
    db.execute(
        f"insert into subscriptions (user_id, status, current_period_end) values (%s, %s, {end})",
        [LEARNER, status],
    )


def enroll(db, expires="null"):
    db.execute(
        f"insert into enrollments (user_id, expires_at) values (%s, {expires})",
        [LEARNER],
    )


def level(response, full, free):
    """Return the access that an answer shows: it is the answer `full`, the answer `free`, or 403 not_enrolled."""
    if response.status_code == 403:
        assert_problem(response, "not_enrolled")
        return None
    return {str(full): "full", str(free): "free"}[str(ok(response))]


def levels(api):
    """Return the access that each call gives the learner. Unmark and mark come last, because they change rows."""
    counts = {
        "full": {"percent": 66, "completedCount": 2, "totalCount": 3},
        "free": {"percent": 100, "completedCount": 1, "totalCount": 1},
    }
    locked = {name: count | {"lockedCount": 0} for name, count in counts.items()}
    done = "2026-01-01T00:00:00.000Z"
    lessons: dict[str, list[dict]] = {
        "full": [
            {"lessonId": uuid4(PAID_DONE), "completed": True, "completedAt": done},
            {"lessonId": uuid4(FREE_DONE), "completed": True, "completedAt": done},
            {"lessonId": uuid4(PAID), "completed": False, "completedAt": None},
        ],
        "free": [{"lessonId": uuid4(FREE_DONE), "completed": True, "completedAt": done}],
    }
    read = {path: api.get(f"/api/progress/{path}", headers=bearer()) for path in reads()}
    module, names = {"moduleId": uuid4(1)}, ("full", "free")
    course = {"courseId": uuid4(3), "title": "Course 3"}
    shown = {
        name: module
        | {"title": "Module 1"}
        | locked[name]
        | {
            "lessons": [
                {
                    "lessonId": row["lessonId"],
                    "title": f"Lesson {int(row['lessonId'][:8], 16):x}",
                    "state": "completed" if row["completed"] else "available",
                    "completedAt": row["completedAt"],
                    "prerequisites": [],
                }
                for row in lessons[name]
            ]
        }
        for name in names
    }
    following = {
        "full": {"lessonId": uuid4(PAID), "moduleId": uuid4(1)},
        "free": {"lessonId": None, "moduleId": None},
    }
    found = {
        "summary": level(read["summary"], *(counts[name] for name in names)),
        MODULE: level(read[MODULE], *(module | counts[name] | {"lessons": lessons[name]} for name in names)),
        "lessons": level(
            read["lessons"],
            *(
                {"lessons": [{"lessonId": row["lessonId"], "completedAt": done} for row in lessons[name][:2]]}
                for name in names
            ),
        ),
        "modules": level(
            read["modules"], *({"modules": [module | counts[name]], "overall": counts[name]} for name in names)
        ),
        "outline": level(
            read["outline"],
            *({"modules": [module | {"courseId": uuid4(3)} | shown[name]], "overall": locked[name]} for name in names),
        ),
        "next": level(read["next"], *(following[name] for name in names)),
        "courses": level(
            read["courses"], *({"courses": [course | locked[name]], "overall": locked[name]} for name in names)
        ),
        COURSE: level(
            read[COURSE],
            *(course | locked[name] | {"next": following[name], "modules": [shown[name]]} for name in names),
        ),
    }
    told = ok(read["access"])
    found["access"] = "full" if told["full"] else "free" if told["free"] else None
    # Whatever the access:
    assert ok(read["completions"]) == {"modules": [], "courses": []}
    assert ok(read["export"])["userId"] == LEARNER
    for name, write in (("unmark", unmark), ("mark", mark)):
        response = write(api, PAID)
        if response.status_code == 400:
            assert_problem(response, "lesson_not_available")
            found[name] = "free"
        elif response.status_code == 403:
            assert_problem(response, "not_enrolled")
            found[name] = None
        else:
            ok(response)
            found[name] = "full"
    return found


def everywhere(access):
    depending = (path for path in reads() if path not in ("completions", "export"))
    return dict.fromkeys((*depending, "unmark", "mark"), access)


@pytest.mark.parametrize("status", ["active", "trialing"])
def test_access_is_full_while_the_subscription_is_active_or_trialing(api, world, status):
    subscribe(world, status)
    assert levels(api) == everywhere("full")


@pytest.mark.parametrize("enrolled", [True, False])
@pytest.mark.parametrize(
    "status",
    [
        *("past_due", "canceled", "incomplete", "incomplete_expired", "unpaid", "paused", "ended"),
        *("", "Active", "TRIALING", " active", "active ", "active\n", "activetrialing", "something new"),
    ],
)
def test_any_other_status_gives_nothing(api, world, status, enrolled):
    subscribe(world, status)
    if enrolled:
        enroll(world)
    assert levels(api) == everywhere("free" if enrolled else None)


@pytest.mark.parametrize("status", ["active", "trialing"])
@pytest.mark.parametrize(
    ("end", "access"),
    [
        ("now() + interval '1 hour'", "full"),
        ("now() + interval '1 minute'", "full"),
        ("'infinity'", "full"),
        ("now()", None),
        ("now() - interval '1 millisecond'", None),
        ("now() - interval '1 year'", None),
        ("'-infinity'", None),
        ("null", None),
    ],
)
def test_a_subscription_counts_while_its_period_lasts(api, world, status, end, access):
    subscribe(world, status, end)
    assert levels(api) == everywhere(access)


@pytest.mark.parametrize(
    ("expires", "access"),
    [
        ("null", "free"),
        ("now() + interval '1 minute'", "free"),
        ("'infinity'", "free"),
        ("now()", None),
        ("now() - interval '1 millisecond'", None),
        ("now() - interval '1 year'", None),
    ],
)
def test_access_is_free_while_the_enrollment_has_not_expired(api, world, expires, access):
    enroll(world, expires)
    assert levels(api) == everywhere(access)


@pytest.mark.parametrize("expires", ["null", "now() + interval '1 hour'", "now() - interval '1 hour'"])
def test_full_access_wins_over_free(api, world, expires):
    enroll(world, expires)
    subscribe(world)
    assert levels(api) == everywhere("full")


@pytest.mark.parametrize("end", ["null", "now() - interval '1 millisecond'"])
def test_a_subscription_that_ended_leaves_the_free_path(api, world, end):
    enroll(world)
    subscribe(world, end=end)
    assert levels(api) == everywhere("free")


def test_neither_is_not_enrolled(api, world):
    assert levels(api) == everywhere(None)


def test_a_session_whose_user_has_no_row_in_users_is_not_enrolled(api, world):
    world.execute("delete from users")
    assert levels(api) == everywhere(None)
    assert completions(world) == []


def test_somebody_elses_access_is_not_the_learners(api, world):
    add_user(world, STRANGER, access="full")
    add_user(world, FREE_LEARNER, access="free")
    assert levels(api) == everywhere(None)


def test_access_is_looked_at_on_every_call(api, world):
    subscribe(world)
    assert get(api, "summary")["totalCount"] == 3
    world.execute("update subscriptions set current_period_end = now() - interval '1 millisecond'")
    assert_problem(api.get("/api/progress/summary", headers=bearer()), "not_enrolled")
    enroll(world)
    assert get(api, "summary")["totalCount"] == 1
    world.execute("update subscriptions set current_period_end = now() + interval '1 minute'")
    assert get(api, "summary")["totalCount"] == 3


def test_completions_outlast_a_lapse(api, world):
    subscribe(world)
    before = get(api, "outline")
    world.execute("delete from subscriptions")
    assert_problem(api.delete(lesson_path(PAID_DONE), headers=bearer()), "not_enrolled")
    subscribe(world)
    assert get(api, "outline") == before


def test_a_refused_write_changes_nothing(api, world):
    before = world.execute("select * from progress order by lesson_id").fetchall()
    for access in (None, "free"):
        if access:
            enroll(world)
        code = "lesson_not_available" if access else "not_enrolled"
        assert_problem(mark(api, PAID), code)
        assert_problem(mark(api, PAID_DONE), code)
        assert_problem(unmark(api, PAID_DONE), code)
    assert world.execute("select * from progress order by lesson_id").fetchall() == before


def test_a_module_without_a_lesson_for_the_learner_is_not_found(api, world):
    enroll(world)
    add_module(world, 0x11, 0x12)
    assert_problem(api.get(module_path(0x11), headers=bearer()), "module_not_found")
    subscribe(world)
    assert get(api, module_path(0x11))["totalCount"] == 1


SOON, LATER = "2998-01-01T00:00:00.123Z", "2999-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("subscription", "enrollment", "full", "free", "until"),
    [
        (None, None, False, False, None),
        (f"'{SOON}'", None, True, False, SOON),
        ("'infinity'", None, True, False, None),
        (None, "null", False, True, None),
        (None, f"'{SOON}'", False, True, SOON),
        (None, "'infinity'", False, True, None),
        (f"'{SOON}'", f"'{LATER}'", True, True, SOON),  # the end of full access, although free access lasts longer
        (f"'{SOON}'", "null", True, True, SOON),
        ("'infinity'", f"'{SOON}'", True, True, None),
        ("now()", f"'{SOON}'", False, True, SOON),
        ("null", "null", False, True, None),
        (f"'{SOON}'", "now()", True, False, SOON),
        ("now()", "now()", False, False, None),
        ("'9999-12-31T23:59:59.999999Z'", None, True, False, "9999-12-31T23:59:59.999Z"),
        ("'10000-01-01T00:00:00Z'", None, True, False, None),  # this year has five digits
    ],
)
def test_access_says_what_the_learner_may_do_and_until_when(api, world, subscription, enrollment, full, free, until):
    if subscription:
        subscribe(world, end=subscription)
    if enrollment:
        enroll(world, enrollment)
    add_user(world, STRANGER, access="full")
    assert get(api, "access") == {"full": full, "free": free, "courses": [], "until": until}


def test_access_answers_for_whoever_is_signed_in(api, world):
    subscribe(world)
    nothing = {"full": False, "free": False, "courses": [], "until": None}
    assert get(api, "access", STRANGER) == nothing
    add_user(world, STRANGER, access=None)
    assert get(api, "access", STRANGER) == nothing
