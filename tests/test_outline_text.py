"""The outline puts its JSON together as text. It must be the JSON that PostgreSQL itself writes, with any title."""

import pytest

from tests.conftest import both_plans
from tests.world import add_course, add_module, add_user, bearer, complete, course_path, ok, require, uuid4

plan_mode = both_plans()
TITLES = [
    'She said "hello"',
    "C:\\new\\table",
    "one line\nand\tanother\r",
    "\x01\x1f\x7f\b\f",
    '"}], "percent" : 100, "x" : [{"',
    "</script><!--",
    "Ünïcødé 🦜 \u2028\u2029",
    "%s $1 :'user_id' {0}",
    "",
]


@pytest.mark.parametrize("title", TITLES)
def test_any_title_is_a_title(api, db, title):
    add_user(db)
    add_module(db, 1, 0x11, 0x12, 0x13)
    add_course(db, 3, 1)
    require(db, 0x13, 0x12)
    complete(db, 0x11)
    for table in ("courses", "modules", "lessons"):
        db.execute(f"update {table} set title = %s".encode(), [title])
    answer = api.get("/api/progress/outline", headers=bearer())
    [module] = ok(answer)["modules"]
    assert [module["title"], *(lesson["title"] for lesson in module["lessons"])] == [title] * 4
    # PostgreSQL's own functions make the answer for a course, where the same module has no courseId.
    course = api.get(course_path(3), headers=bearer())
    [own] = ok(course)["modules"]
    assert {**own, "courseId": uuid4(3)} == module
    lessons = course.text[course.text.index('"lessons" : ') :].partition("}]}]")[0]
    assert lessons.count("lessonId") == 3
    assert lessons in answer.text
