"""A learner completes both real curricula, from the first lesson to 100 %. Every answer is compared with the file."""

import json
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from app.tasks import catalog
from tests.conftest import ROOT
from tests.world import add_user, bearer

CATALOGS = ROOT / "app" / "demo" / "catalogs"


@pytest.mark.parametrize(("name", "published"), [("exercism-javascript", 159), ("odin", 284)])
def test_next_leads_through_a_whole_curriculum(make_api, db, database_url, name, published):
    api = make_api(RATE_LIMIT_WRITES="")
    with psycopg.connect(database_url, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as connection:
        catalog.load(connection, catalog.read_file(CATALOGS / f"{name}.json"), dry_run=False)
    add_user(db)
    document = json.loads((CATALOGS / f"{name}.json").read_text())
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
            id
            for id, lesson in lessons.items()
            if module in (None, lesson["module"])
            and (id in completed or all(need in completed for need in lesson["needs"] if need in lessons))
        }
        done = len(completed & eligible)
        return {
            "percent": 100 * done // len(eligible) if eligible else 0,
            "completedCount": done,
            "totalCount": len(eligible),
        }

    def get(path: str) -> Any:
        return api.get(f"/api/progress/{path}", headers=bearer()).json

    while (lesson := get("next")["lessonId"]) is not None:
        answer = api.post(f"/api/progress/lessons/{lesson}", headers=bearer()).json
        completed.add(lesson)
        module = lessons[lesson]["module"]
        assert answer["overall"] == counts()
        assert answer["module"] == {"moduleId": module, **counts(module)}
    assert completed == set(lessons)
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
