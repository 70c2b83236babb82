"""What tests begin with: learners, catalogs and tokens, in plain SQL. And checks that hold for every answer."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import psycopg
from flask.testing import FlaskClient
from joserfc import jwe
from psycopg.rows import dict_row
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.test import TestResponse

from app.demo import courses
from app.service import service_of
from app.sessions import cookies
from app.tasks import catalog

SECRET = "a secret of the tests that is longer than 32 bytes"


def uuid4(number: int) -> str:
    """Make a UUID version 4 that sorts like `number`."""
    return f"{number:08x}-0000-4000-8000-000000000000"


LEARNER = uuid4(0xA11CE)
FREE_LEARNER = uuid4(0xF4EE)
STRANGER = uuid4(0x0)

# The codes of contract §4 and their statuses.
STATUS = {
    "unauthenticated": 401,
    "other_learner": 412,
    "cross_site_request": 403,
    "rate_limited": 429,
    "invalid_lesson_id": 400,
    "invalid_module_id": 400,
    "invalid_course_id": 400,
    "invalid_include": 400,
    "invalid_idempotency_key": 400,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_body": 400,
    "confirmation_required": 400,
    "not_enrolled": 403,
    "lesson_not_found": 404,
    "module_not_found": 404,
    "course_not_found": 404,
    "lesson_not_available": 400,
    "lesson_locked": 409,
    "not_found": 404,
    "method_not_allowed": 405,
    "internal_error": 500,
    "unavailable": 503,
}


def token(user_id: Any = LEARNER, *, key: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **claims: Any):
    """Sign a token for a user, valid for an hour. A claim that is given as None is left out."""
    now = int(time.time())
    claims = {"sub": user_id, "iat": now, "exp": now + 3600} | claims
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers=headers)


def bearer(user_id: str = LEARNER) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user_id)}"}


def cookie(user_id: Any = LEARNER, name: str = "authjs.session-token", secret: str = SECRET, **claims: Any):
    """Return a header with a session cookie that is valid for an hour, made as Auth.js v5 makes it."""
    now = int(time.time())
    key, kid = cookies.derive(secret, name, 64)
    header = {"alg": "dir", "enc": "A256CBC-HS512", "kid": kid}
    claims = {"sub": user_id, "iat": now, "exp": now + 3600} | claims
    body = json.dumps({k: v for k, v in claims.items() if v is not None}).encode()
    token = jwe.encrypt_compact(header, body, key, algorithms=["dir", "A256CBC-HS512"])
    return {"Cookie": f"{name}={token}"}


def add_user(db: psycopg.Connection, user_id: str = LEARNER, access: str | None = "full") -> str:
    db.execute("insert into users (id) values (%s)", [user_id])
    if access == "full":
        db.execute(
            "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', now() + '1 month')",
            [user_id],
        )
    elif access == "free":
        db.execute("insert into enrollments (user_id) values (%s)", [user_id])
    return user_id


def load_curricula(url: str, folder: Path) -> None:
    """Load both real curricula, as the courses of the demo, through a catalog file in the folder."""
    file = folder / "catalog.json"
    file.write_text(json.dumps(courses.catalog()))
    with psycopg.connect(url, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as connection:
        catalog.load(connection, catalog.read_file(file), dry_run=False)


def add_course(db: psycopg.Connection, course: int, *modules: int, position: int | None = None) -> None:
    """Add course uuid4(course), and put modules uuid4(module), which are there already, into it."""
    db.execute(
        "insert into courses (id, title, position) values (%s, %s, %s)",
        [uuid4(course), f"Course {course:x}", course if position is None else position],
    )
    db.execute("update modules set course_id = %s where id = any(%s::uuid[])", [uuid4(course), [*map(uuid4, modules)]])


def give_course(
    db: psycopg.Connection, course: int, user_id: str = LEARNER, source: str = "", until: str | None = None
) -> None:
    """Give a learner course uuid4(course), for ever or until a time that PostgreSQL reads."""
    db.execute("insert into course_enrollments values (%s, %s, %s, %s)", [user_id, uuid4(course), source, until])


def add_module(db: psycopg.Connection, module: int, *lessons: int, position: int | None = None, **columns: Any) -> None:
    """Add module uuid4(module) with the published lessons uuid4(lesson), in this order.

    `columns` gives other columns of the lessons, for instance `is_free=True`.
    """
    db.execute(
        "insert into modules (id, title, position) values (%s, %s, %s)",
        [uuid4(module), f"Module {module:x}", module if position is None else position],
    )
    for place, lesson in enumerate(lessons, 1):
        add_lesson(db, module, lesson, **({"position": place} | columns))


def add_lesson(db: psycopg.Connection, module: int, lesson: int, **columns: Any) -> None:
    row = {"title": f"Lesson {lesson:x}", "position": lesson, "published": True, "is_free": False} | columns
    db.execute(
        "insert into lessons (id, module_id, title, position, published, is_free)"
        " values (%(id)s, %(module_id)s, %(title)s, %(position)s, %(published)s, %(is_free)s)",
        row | {"id": uuid4(lesson), "module_id": uuid4(module)},
    )


def require(db: psycopg.Connection, lesson: int, *prerequisites: int) -> None:
    for prerequisite in prerequisites:
        db.execute(
            "insert into lesson_prerequisites (lesson_id, prerequisite_id) values (%s, %s)",
            [uuid4(lesson), uuid4(prerequisite)],
        )


def complete(db: psycopg.Connection, *lessons: int, user_id: str = LEARNER, at: str = "2026-01-01T00:00:00Z") -> None:
    for lesson in lessons:
        db.execute(
            "insert into progress (user_id, lesson_id, completed_at) values (%s, %s, %s)", [user_id, uuid4(lesson), at]
        )


def ok(response: TestResponse) -> Any:
    """Return the document of an answer. Assert that it is a success, with the headers that every answer must have."""
    assert response.status_code == 200, response.text
    assert response.content_type == "application/json"
    assert_private(response)
    return response.get_json()


def impatient(api: FlaskClient) -> FlaskClient:
    """Make PostgreSQL end each wait for a lock after 0.1 s, on the one connection of an API with WEB_THREADS=1.

    A short DATABASE_TIMEOUT would do the same on a fast machine only: on a slow one the deadline of the request may
    come first, which is an outage.
    """
    with service_of(api.application).pool.connection() as connection:
        connection.execute("set lock_timeout = 100")  # in milliseconds
    return api


def after_outage(call: Callable[[], TestResponse]) -> TestResponse:
    """Repeat a call until it is no longer refused with 503. Return its answer.

    A short DATABASE_TIMEOUT may begin an outage. It ends when a new connection has answered, which a busy machine may
    delay for longer than a request waits.
    """
    deadline = time.monotonic() + 60
    while (answer := call()).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def assert_problem(response: TestResponse, code: str, **members: Any) -> None:
    """Assert that an answer is the problem document of this code, and is right in all that contract §4 says.

    `members` are the members that the document has besides those that every problem document has.
    """
    document = response.get_json()
    assert document == {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[STATUS[code]],
        "status": STATUS[code],
        "detail": document["detail"],
        "code": code,
        **members,
    }
    assert isinstance(document["detail"], str)
    assert document["detail"].endswith(".")
    assert response.status_code == STATUS[code]
    assert response.content_type == "application/problem+json"
    assert "ETag" not in response.headers
    assert ("WWW-Authenticate" in response.headers) == (code == "unauthenticated")
    assert ("Allow" in response.headers) == (code == "method_not_allowed")
    assert ("Retry-After" in response.headers) == (code in ("unavailable", "rate_limited"))
    assert_private(response)


def assert_private(response: TestResponse) -> None:
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["Vary"] in ("Authorization, Cookie", "Authorization, Cookie, Origin")


def lesson_path(lesson: int) -> str:
    return f"/api/progress/lessons/{uuid4(lesson)}"


def module_path(module: int) -> str:
    return f"/api/progress/modules/{uuid4(module)}"


def course_path(course: int) -> str:
    return f"/api/progress/courses/{uuid4(course)}"


def get(api: FlaskClient, path: str, user_id: str = LEARNER) -> Any:
    """Read a path, either a whole one or one below /api/progress/. Return the document of the answer."""
    return ok(api.get(path if path.startswith("/") else f"/api/progress/{path}", headers=bearer(user_id)))


def mark(api: FlaskClient, lesson: int, user_id: str = LEARNER, **options: Any) -> TestResponse:
    return api.post(lesson_path(lesson), headers=bearer(user_id) | options.pop("headers", {}), **options)


def unmark(api: FlaskClient, lesson: int, user_id: str = LEARNER, **options: Any) -> TestResponse:
    return api.delete(lesson_path(lesson), headers=bearer(user_id) | options.pop("headers", {}), **options)


def completions(db: psycopg.Connection) -> Any:
    """Return every row of progress, as (user_id, lesson_id, completed_at to the microsecond, in UTC)."""
    return db.execute(
        "select user_id::text, lesson_id::text, completed_at at time zone 'UTC' from progress order by 1, 2"
    ).fetchall()
