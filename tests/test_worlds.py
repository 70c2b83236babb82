"""Catalogs and learners drawn at random, and contract §2 and §3 once more in plain Python: all reads must agree."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.world import LEARNER, STRANGER, add_user, assert_problem, bearer, get, uuid4

START = datetime(2026, 1, 1, tzinfo=UTC)


def draw(seed):
    """Draw a catalog with everything that the tables allow: equal positions, cycles, empty modules, odd rows."""
    draw = random.Random(seed)
    ids = draw.sample(range(1, 10_000), 30)
    modules = {uuid4(number): draw.randint(-2, 2) for number in ids[: draw.randint(1, 5)]}
    lessons = {
        uuid4(number): {
            "module": draw.choice(list(modules)),
            "position": draw.randint(-2, 3),
            "published": draw.random() < 0.8,
            "is_free": draw.random() < 0.5,
        }
        for number in ids[5 : 5 + draw.randint(0, 25)]
    }
    names = list(lessons)
    pairs = [(draw.choice(names), draw.choice(names)) for _ in range(draw.randint(0, len(names)))] if names else []
    prerequisites = {pair for pair in pairs if pair[0] != pair[1]}
    # Few different times, so that many are equal, some of them only to the millisecond.
    completed = {
        name: START + timedelta(milliseconds=draw.randint(0, 3), microseconds=draw.randint(0, 999))
        for name in names
        if draw.random() < draw.choice([0.2, 0.5, 0.9])
    }
    return draw.choice(["full", "free"]), modules, lessons, prerequisites, completed


def build(db, modules, lessons, prerequisites, completed, user_id):
    with db.cursor() as cursor:
        cursor.executemany("insert into modules (id, title, position) values (%s, 'A module', %s)", modules.items())
        cursor.executemany(
            "insert into lessons (id, module_id, title, position, published, is_free)"
            " values (%(id)s, %(module)s, 'A lesson', %(position)s, %(published)s, %(is_free)s)",
            [row | {"id": name} for name, row in lessons.items()],
        )
        cursor.executemany(
            "insert into lesson_prerequisites (lesson_id, prerequisite_id) values (%s, %s)", prerequisites
        )
        cursor.executemany(
            "insert into progress (user_id, lesson_id, completed_at) values (%s, %s, %s)",
            [(user_id, name, at) for name, at in completed.items()],
        )


def answers(access, modules, lessons, prerequisites, completed):
    """What the six reads must answer; a module that is not accessible is None."""

    def place(name):
        row = lessons[name]
        return modules[row["module"]], row["module"], row["position"], name

    def shown(name):
        return completed[name].isoformat(timespec="milliseconds").replace("+00:00", "Z") if name in completed else None

    def keeping_locked(name):
        if name in completed:
            return []
        needed = {needed for locked, needed in prerequisites if locked == name}
        return sorted((n for n in needed if n not in completed and lessons[n]["published"]), key=place)

    def counts(names):
        eligible = [name for name in names if not keeping_locked(name)]
        done = sum(name in completed for name in eligible)
        total = len(eligible)
        return {"percent": 100 * done // total if total else 0, "completedCount": done, "totalCount": total}

    def locked_count(names):
        return {"lockedCount": sum(bool(keeping_locked(name)) for name in names)}

    def state(name):
        return "completed" if name in completed else "locked" if keeping_locked(name) else "available"

    accessible = sorted(
        (name for name, row in lessons.items() if row["published"] and (access == "full" or row["is_free"])), key=place
    )
    of = {module: [name for name in accessible if lessons[name]["module"] == module] for module in modules}
    order = sorted((module for module in modules if of[module]), key=lambda module: (modules[module], module))
    done = [name for name in accessible if name in completed]
    latest = max(done, key=lambda name: (shown(name), place(name)), default=None)
    available = [name for name in accessible if state(name) == "available"]
    after = [name for name in available if latest and place(name) > place(latest)]
    following = (after + available + [None])[0]
    return {
        "summary": counts(accessible),
        "lessons": {
            "lessons": [
                {"lessonId": name, "completedAt": shown(name)}
                for name in sorted(done, key=lambda name: (shown(name), name))
            ]
        },
        "modules": {
            "modules": [{"moduleId": module} | counts(of[module]) for module in order],
            "overall": counts(accessible),
        },
        "outline": {
            "modules": [
                {
                    "moduleId": module,
                    "title": "A module",
                    **counts(of[module]),
                    **locked_count(of[module]),
                    "lessons": [
                        {
                            "lessonId": name,
                            "title": "A lesson",
                            "state": state(name),
                            "completedAt": shown(name),
                            "prerequisites": keeping_locked(name),
                        }
                        for name in of[module]
                    ],
                }
                for module in order
            ],
            "overall": counts(accessible) | locked_count(accessible),
        },
        "next": {"lessonId": following, "moduleId": lessons[following]["module"] if following else None},
    } | {
        f"modules/{module}": {
            "moduleId": module,
            **counts(of[module]),
            "lessons": [
                {"lessonId": name, "completed": name in completed, "completedAt": shown(name)}
                for name in of[module]
                if not keeping_locked(name)
            ],
        }
        if of[module]
        else None
        for module in modules
    }


@pytest.mark.parametrize("seed", range(30))
def test_every_read_answers_as_the_contract_says(api, db, seed):
    access, modules, lessons, prerequisites, completed = draw(seed)
    add_user(db, access=access)
    add_user(db, STRANGER)
    build(db, modules, lessons, prerequisites, completed, LEARNER)
    db.execute("insert into progress (user_id, lesson_id, completed_at) select %s, id, now() from lessons", [STRANGER])
    for path, expected in answers(access, modules, lessons, prerequisites, completed).items():
        if expected is None:
            assert_problem(api.get(f"/api/progress/{path}", headers=bearer()), "module_not_found")
        else:
            assert get(api, path) == expected, path


@pytest.mark.parametrize("seed", range(100, 115))
def test_every_write_answers_and_leaves_what_the_contract_says(api, db, seed):
    access, modules, lessons, prerequisites, completed = draw(seed)
    add_user(db, access=access)
    build(db, modules, lessons, prerequisites, completed, LEARNER)
    for name in sorted(lessons, key=lambda name: lessons[name]["position"]):
        before = answers(access, modules, lessons, prerequisites, completed)
        response = api.post(f"/api/progress/lessons/{name}", headers=bearer())
        states = {row["lessonId"]: row for module in before["outline"]["modules"] for row in module["lessons"]}
        if name not in states:
            assert_problem(response, "lesson_not_available")
        elif states[name]["state"] == "locked":
            assert_problem(response, "lesson_locked", prerequisites=states[name]["prerequisites"])
        else:
            document = response.get_json()
            completed.setdefault(name, datetime.fromisoformat(document["completedAt"]))
            assert document == written(name, access, modules, lessons, prerequisites, completed)
    for name in lessons:
        response = api.delete(f"/api/progress/lessons/{name}", headers=bearer())
        if lessons[name]["published"] and (access == "full" or lessons[name]["is_free"]):
            completed.pop(name, None)
            assert response.get_json() == written(name, access, modules, lessons, prerequisites, completed)
        else:
            assert_problem(response, "lesson_not_available")


def written(name, access, modules, lessons, prerequisites, completed):
    """What a write of a lesson must answer."""
    after = answers(access, modules, lessons, prerequisites, completed)
    module = dict(after[f"modules/{lessons[name]['module']}"])
    at = completed.get(name)
    return {
        "lessonId": name,
        "completed": at is not None,
        "completedAt": at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None,
        "module": {key: module[key] for key in ("moduleId", "percent", "completedCount", "totalCount")},
        "overall": after["summary"],
    }
