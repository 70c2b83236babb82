"""Both real curricula, as the courses of the demo. A buyer of each walks from the first lesson to 100 % of the course.

Every answer is compared with what the file says.
"""

from typing import Any

import pytest

from app.demo import courses
from tests.world import LEARNER, add_user, bearer, load_curricula


@pytest.mark.parametrize(("id", "published"), [(courses.JAVASCRIPT, 159), (courses.ODIN, 284)])
def test_next_leads_the_buyer_of_a_course_to_its_end(make_api, db, database_url, tmp_path, id, published):
    api = make_api(RATE_LIMIT_WRITES="")
    load_curricula(database_url, tmp_path)
    add_user(db, access=None)
    db.execute("insert into course_enrollments (user_id, course_id) values (%s, %s)", [LEARNER, id])
    [document] = [course for course in courses.catalog()["courses"] if course["id"] == id]
    lessons = {
        lesson["id"]: {"module": module["id"], "needs": lesson.get("prerequisites", [])}
        for module in document["modules"]
        for lesson in module["lessons"]
        if lesson.get("published")
    }
    assert len(lessons) == published
    completed: set[str] = set()

    def counts(module: str | None = None) -> dict[str, int]:
        eligible = {
            lesson_id
            for lesson_id, lesson in lessons.items()
            if module in (None, lesson["module"])
            and (lesson_id in completed or all(need in completed for need in lesson["needs"] if need in lessons))
        }
        done = len(completed & eligible)
        return {
            "percent": 100 * done // len(eligible) if eligible else 0,
            "completedCount": done,
            "totalCount": len(eligible),
        }

    def get(path: str) -> Any:
        return api.get(f"/api/progress/{path}", headers=bearer()).json

    here = None
    while (lesson := get("next")["lessonId"]) is not None:
        if lessons[lesson]["module"] != here:
            here = lessons[lesson]["module"]
            course = get(f"courses/{id}")
            assert course["next"] == {"lessonId": lesson, "moduleId": here}
            assert {key: course[key] for key in counts()} == counts()
        answer = api.post(f"/api/progress/lessons/{lesson}", headers=bearer()).json
        completed.add(lesson)
        module = lessons[lesson]["module"]
        # The learner may take nothing outside of the course.
        assert answer["overall"] == counts()
        assert answer["course"] == {"courseId": id, **counts()}
        assert answer["module"] == {"moduleId": module, **counts(module)}
    assert completed == set(lessons)
    course = get(f"courses/{id}")
    done = {"percent": 100, "completedCount": published, "totalCount": published, "lockedCount": 0}
    assert {key: course[key] for key in done} == done
    assert course["next"] == {"lessonId": None, "moduleId": None}
    assert get("courses") == {
        "courses": [{"courseId": id, "title": document["title"], **done}],
        "overall": done,
    }
    assert get("summary") == {"percent": 100, "completedCount": published, "totalCount": published}
    outline = get("outline")
    assert {lesson["state"] for module in outline["modules"] for lesson in module["lessons"]} == {"completed"}
    assert outline["overall"] == {**get("summary"), "lockedCount": 0}
    assert [module["percent"] for module in get("modules")["modules"]] == [100] * len(outline["modules"])
    assert len(get("lessons")["lessons"]) == published
    # Unmark the first lesson. The lessons that need it stay completed.
    first = next(iter(lessons))
    api.delete(f"/api/progress/lessons/{first}", headers=bearer())
    assert get("summary") == {
        "percent": 100 * (published - 1) // published,
        "completedCount": published - 1,
        "totalCount": published,
    }
    assert get("next") == {"lessonId": first, "moduleId": lessons[first]["module"]}
