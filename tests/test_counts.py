"""What counts (contract §2): locked and eligible lessons, and the counts. All calls must agree on them."""

import itertools

import pytest

from tests.conftest import both_plans
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    STRANGER,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    get,
    mark,
    ok,
    require,
    unmark,
    uuid4,
)

plan_mode = both_plans()


def counts(completed, total, percent):
    return {"percent": percent, "completedCount": completed, "totalCount": total}


def agreed(api, user_id=LEARNER):
    """Return the summary. Assert that every other read agrees with it."""
    summary = get(api, "summary", user_id)
    modules = get(api, "modules", user_id)
    outline = get(api, "outline", user_id)
    assert modules["overall"] == summary
    assert {key: outline["overall"][key] for key in summary} == summary
    assert len(get(api, "lessons", user_id)["lessons"]) == summary["completedCount"]
    assert len(modules["modules"]) == len(outline["modules"])
    for of_modules, of_outline in zip(modules["modules"], outline["modules"], strict=True):
        of_module = get(api, f"modules/{of_modules['moduleId']}", user_id)
        assert {key: of_module[key] for key in of_modules} == of_modules
        assert {key: of_outline[key] for key in of_modules} == of_modules
        assert len(of_module["lessons"]) == of_modules["totalCount"]
        assert sum(lesson["completed"] for lesson in of_module["lessons"]) == of_modules["completedCount"]
    for key in ("completedCount", "totalCount"):
        assert sum(module[key] for module in modules["modules"]) == summary[key]
    agree_on_courses(api, outline, user_id)
    return summary


def agree_on_courses(api, outline, user_id):
    """Hold the answers about courses against the outline."""
    courses = get(api, "courses", user_id)
    assert courses["overall"] == outline["overall"]
    of_outline = [module["courseId"] for module in outline["modules"] if module["courseId"]]
    assert [course["courseId"] for course in courses["courses"]] == list(dict.fromkeys(of_outline))
    for counted in courses["courses"]:
        course = get(api, f"courses/{counted['courseId']}", user_id)
        assert {key: course[key] for key in counted} == counted
        modules = [module for module in outline["modules"] if module["courseId"] == counted["courseId"]]
        assert [module | {"courseId": counted["courseId"]} for module in course["modules"]] == modules
        for key in ("completedCount", "totalCount", "lockedCount"):
            assert sum(module[key] for module in course["modules"]) == course[key]


def states(api, user_id=LEARNER):
    """Return the state of each accessible lesson in the outline, by its number, and the lessons that lock it."""
    return {
        int(lesson["lessonId"][:8], 16): (lesson["state"], [int(id_[:8], 16) for id_ in lesson["prerequisites"]])
        for module in get(api, "outline", user_id)["modules"]
        for lesson in module["lessons"]
    }


@pytest.mark.parametrize(
    ("completed", "total", "percent"),
    [
        *((0, 0, 0), (0, 1, 0), (1, 1, 100), (1, 2, 50), (1, 3, 33), (2, 3, 66), (3, 3, 100)),
        *((1, 7, 14), (6, 7, 85), (1, 101, 0), (29, 100, 29), (57, 100, 57), (58, 100, 58), (99, 100, 99)),
        *((1, 200, 0), (199, 200, 99), (200, 200, 100), (283, 284, 99), (999, 1000, 99)),
    ],
)
def test_percent_is_cut_so_that_it_never_says_100_early(api, db, completed, total, percent):
    add_user(db)
    add_module(db, 1)
    db.execute(
        "insert into lessons (id, module_id, title, position, published) select gen_random_uuid(), %s, '', n, true"
        " from generate_series(1, %s) as n",
        [uuid4(1), total],
    )
    db.execute(
        "insert into progress (user_id, lesson_id, completed_at) select %s, id, now() from lessons limit %s",
        [LEARNER, completed],
    )
    assert agreed(api) == counts(completed, total, percent)


def test_nothing_at_all_is_nought(api, db):
    add_user(db)
    assert agreed(api) == counts(0, 0, 0)


def test_an_unpublished_lesson_does_not_count_even_if_completed(api, db):
    add_user(db)
    add_module(db, 1, 2)
    add_lesson(db, 1, 3, published=False)
    add_lesson(db, 1, 4, published=False)
    complete(db, 2, 3)
    assert agreed(api) == counts(1, 1, 100)
    assert states(api) == {2: ("completed", [])}


def test_a_module_of_unpublished_lessons_is_not_accessible(api, db):
    add_user(db)
    add_module(db, 1, 2, published=False)
    assert agreed(api) == counts(0, 0, 0)
    assert get(api, "modules")["modules"] == []
    assert_problem(api.get(f"/api/progress/modules/{uuid4(1)}", headers=bearer()), "module_not_found")


def test_a_locked_lesson_does_not_count_until_its_prerequisites_are_completed(api, db):
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    require(db, 4, 2, 3)
    assert agreed(api) == counts(0, 2, 0)
    assert states(api) == {2: ("available", []), 3: ("available", []), 4: ("locked", [2, 3])}
    complete(db, 3)
    assert agreed(api) == counts(1, 2, 50)
    assert states(api) == {2: ("available", []), 3: ("completed", []), 4: ("locked", [2])}
    complete(db, 2)
    assert agreed(api) == counts(2, 3, 66)
    assert states(api) == {2: ("completed", []), 3: ("completed", []), 4: ("available", [])}


def test_an_unpublished_prerequisite_never_locks(api, db):
    add_user(db)
    add_module(db, 1, 2, 3)
    add_lesson(db, 1, 4, published=False)
    require(db, 3, 4)
    assert agreed(api) == counts(0, 2, 0)
    db.execute("update lessons set published = true where id = %s", [uuid4(4)])
    assert agreed(api) == counts(0, 2, 0)
    assert states(api) == {2: ("available", []), 3: ("locked", [4]), 4: ("available", [])}


def test_an_unpublished_prerequisite_does_not_hide_a_published_one(api, db):
    add_user(db)
    add_module(db, 1, 2, 3)
    add_lesson(db, 1, 4, published=False)
    require(db, 3, 4, 2)
    assert states(api) == {2: ("available", []), 3: ("locked", [2])}


def test_a_prerequisite_outside_the_free_path_keeps_a_free_lesson_locked(api, db):
    add_user(db, access="free")
    add_module(db, 1, 2)
    add_lesson(db, 1, 3, is_free=True)
    add_lesson(db, 1, 4, is_free=True)
    require(db, 3, 2)
    assert agreed(api) == counts(0, 1, 0)
    assert states(api) == {3: ("locked", [2]), 4: ("available", [])}
    assert_problem(mark(api, 3), "lesson_locked", prerequisites=[uuid4(2)])
    complete(db, 2)  # the learner completed it when they still had full access
    assert agreed(api) == counts(0, 2, 0)
    assert ok(mark(api, 3))["overall"] == counts(1, 2, 50)


def test_a_module_whose_every_lesson_is_locked_is_accessible_and_empty(api, db):
    add_user(db)
    add_module(db, 1, 2)
    add_module(db, 3, 4)
    require(db, 4, 2)
    assert get(api, f"modules/{uuid4(3)}") == {"moduleId": uuid4(3), **counts(0, 0, 0), "lessons": []}
    assert get(api, "modules") == {
        "modules": [{"moduleId": uuid4(1), **counts(0, 1, 0)}, {"moduleId": uuid4(3), **counts(0, 0, 0)}],
        "overall": counts(0, 1, 0),
    }
    assert agreed(api) == counts(0, 1, 0)


def test_a_completed_lesson_stays_so_when_its_prerequisite_is_uncompleted(api, db):
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    require(db, 3, 2)
    require(db, 4, 3)
    complete(db, 2, 3)
    assert ok(unmark(api, 2))["overall"] == counts(1, 3, 33)
    assert agreed(api) == counts(1, 3, 33)
    assert states(api) == {2: ("available", []), 3: ("completed", []), 4: ("available", [])}


def test_an_unmark_that_locks_the_last_lesson_of_a_module_leaves_nothing_to_count(api, db):
    add_user(db)
    add_module(db, 1, 2)
    add_module(db, 3, 4)
    require(db, 4, 2)
    complete(db, 4)
    assert ok(unmark(api, 4)) == {
        "lessonId": uuid4(4),
        "completed": False,
        "completedAt": None,
        "module": {"moduleId": uuid4(3), **counts(0, 0, 0)},
        "overall": counts(0, 1, 0),
    }
    db.execute("update lessons set published = false where id = %s", [uuid4(2)])
    assert ok(mark(api, 4))["overall"] == counts(1, 1, 100)
    db.execute("update lessons set published = true where id = %s", [uuid4(2)])
    db.execute("delete from lesson_prerequisites")
    require(db, 2, 4)
    require(db, 4, 2)
    assert ok(unmark(api, 4))["overall"] == counts(0, 0, 0)


# Catalog order. Each of its keys decides once: modules 3 and 5 have one position, so their ids decide. Module 1 comes
# last by its position. Lessons A and B have one position, too.
ORDER = [0x3C, 0x3A, 0x3B, 0x5C, 0x5A, 0x5B, 0x1C, 0x1A, 0x1B]


def add_catalog_of_order(db):
    for module, position in ((5, 1), (1, 2), (3, 1)):
        add_module(db, module, position=position)
        # The order in which they are added is not catalog order.
        for lesson, place in ((0xB, 2), (0xC, 1), (0xA, 2)):
            add_lesson(db, module, 16 * module + lesson, position=place)


def test_prerequisites_are_listed_in_catalog_order(api, db):
    add_user(db)
    add_catalog_of_order(db)
    add_module(db, 9, 0x99)
    require(db, 0x99, *sorted(ORDER, key=lambda lesson: lesson * 7 % 11))
    assert_problem(mark(api, 0x99), "lesson_locked", prerequisites=[uuid4(lesson) for lesson in ORDER])
    assert states(api)[0x99] == ("locked", ORDER)


def test_next_goes_on_after_the_last_in_catalog_order_of_those_completed_at_one_time(api, db):
    add_user(db)
    add_catalog_of_order(db)
    for pair in itertools.combinations(range(len(ORDER)), 2):
        db.execute("delete from progress")
        complete(db, *(ORDER[place] for place in pair))
        left = [lesson for place, lesson in enumerate(ORDER) if place > pair[1]] or [ORDER[0], ORDER[1], ORDER[2]]
        following = next(lesson for lesson in left if lesson not in [ORDER[place] for place in pair])
        assert get(api, "next") == {"lessonId": uuid4(following), "moduleId": uuid4(following // 16)}


def test_next_passes_over_what_is_locked_and_takes_what_only_an_unpublished_lesson_would_lock(api, db):
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    add_lesson(db, 1, 5, published=False)
    require(db, 2, 4)
    require(db, 3, 5)
    assert get(api, "next") == {"lessonId": uuid4(3), "moduleId": uuid4(1)}


def test_only_direct_prerequisites_lock(api, db):
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    require(db, 3, 2)
    require(db, 4, 3)
    assert agreed(api) == counts(0, 1, 0)
    assert states(api) == {2: ("available", []), 3: ("locked", [2]), 4: ("locked", [3])}
    complete(db, 3)
    assert states(api) == {2: ("available", []), 3: ("completed", []), 4: ("available", [])}


def test_an_unpublished_prerequisite_does_not_pass_on_its_own(api, db):
    add_user(db)
    add_module(db, 1, 2, 4)
    add_lesson(db, 1, 3, published=False)
    require(db, 3, 2)
    require(db, 4, 3)
    assert states(api) == {2: ("available", []), 4: ("available", [])}


def test_lessons_that_require_each_other_are_locked_for_good(api, db):
    add_user(db)
    add_module(db, 1, 2, 3)
    require(db, 2, 3)
    require(db, 3, 2)
    assert agreed(api) == counts(0, 0, 0)
    assert states(api) == {2: ("locked", [3]), 3: ("locked", [2])}


def test_a_prerequisite_in_another_module_locks_as_well(api, db):
    add_user(db)
    add_module(db, 1, 2)
    add_module(db, 3, 4)
    require(db, 2, 4)
    assert states(api) == {2: ("locked", [4]), 4: ("available", [])}
    answer = ok(mark(api, 4))
    assert answer == {
        "lessonId": uuid4(4),
        "completed": True,
        "completedAt": answer["completedAt"],
        "module": {"moduleId": uuid4(3), **counts(1, 1, 100)},
        "overall": counts(1, 2, 50),
        "completions": [{"moduleId": uuid4(3), "completedAt": answer["completedAt"]}],
    }


def test_a_free_learner_counts_free_lessons_alone(api, db):
    add_user(db, access="free")
    add_module(db, 1, 2, 3)
    add_module(db, 4, 5)
    add_lesson(db, 4, 6, is_free=True)
    add_lesson(db, 4, 7, is_free=True)
    add_lesson(db, 4, 8, is_free=True, published=False)
    complete(db, 2, 5, 6, 8)
    assert agreed(api) == counts(1, 2, 50)
    assert get(api, "modules")["modules"] == [{"moduleId": uuid4(4), **counts(1, 2, 50)}]


def test_what_others_completed_never_counts_and_never_unlocks(api, db):
    add_user(db)
    add_user(db, STRANGER)
    add_user(db, FREE_LEARNER, access="free")
    add_module(db, 1, 2, 3)
    require(db, 3, 2)
    complete(db, 2, 3, user_id=STRANGER)
    complete(db, 2, user_id=FREE_LEARNER)
    assert agreed(api) == counts(0, 1, 0)
    assert states(api) == {2: ("available", []), 3: ("locked", [2])}
    assert agreed(api, STRANGER) == counts(2, 2, 100)
    assert agreed(api, FREE_LEARNER) == counts(0, 0, 0)


def test_a_completion_moves_with_its_lesson_to_another_module(api, db):
    add_user(db)
    add_module(db, 1, 2, 3)
    add_module(db, 4, 5)
    complete(db, 2)
    db.execute("update lessons set module_id = %s where id = %s", [uuid4(4), uuid4(2)])
    assert get(api, "modules") == {
        "modules": [{"moduleId": uuid4(1), **counts(0, 1, 0)}, {"moduleId": uuid4(4), **counts(1, 2, 50)}],
        "overall": counts(1, 3, 33),
    }
    assert agreed(api) == counts(1, 3, 33)


def test_a_lesson_published_again_counts_as_before(api, db):
    add_user(db)
    add_module(db, 1, 2, 3)
    complete(db, 2)
    before = get(api, "outline")
    db.execute("update lessons set published = false where id = %s", [uuid4(2)])
    assert agreed(api) == counts(0, 1, 0)
    db.execute("update lessons set published = true where id = %s", [uuid4(2)])
    assert get(api, "outline") == before


def test_a_prerequisite_that_is_taken_back_unlocks(api, db):
    add_user(db)
    add_module(db, 1, 2, 3)
    require(db, 3, 2)
    assert agreed(api) == counts(0, 1, 0)
    db.execute("delete from lesson_prerequisites")
    assert agreed(api) == counts(0, 2, 0)
