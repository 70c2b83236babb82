"""What a test's world is made of: learners, catalogs and tokens, in plain SQL."""

import time
from typing import Any

import jwt
import psycopg

SECRET = "a secret of the tests that is longer than 32 bytes"


def uuid4(number: int) -> str:
    """Make a UUID version 4 that sorts like `number`."""
    return f"{number:08x}-0000-4000-8000-000000000000"


LEARNER = uuid4(0xA11CE)
FREE_LEARNER = uuid4(0xF4EE)
STRANGER = uuid4(0x0)


def token(user_id: Any = LEARNER, *, key: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **claims: Any):
    """Sign a token for a user that is valid for an hour; a claim given as None is left out."""
    now = int(time.time())
    claims = {"sub": user_id, "iat": now, "exp": now + 3600} | claims
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers=headers)


def bearer(user_id: str = LEARNER) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user_id)}"}


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


def add_module(db: psycopg.Connection, module: int, *lessons: int, position: int | None = None, **columns: Any) -> None:
    """Add module uuid4(module) and its lessons uuid4(lesson), published, in this order; `columns` are the lessons'."""
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
