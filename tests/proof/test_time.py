"""Contract §2 and §3 at the edges of time: the end of access, UTC offsets, the first and last year, clocks, zones."""

import itertools
import json
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import RawCursor
from psycopg.rows import dict_row

from app import formats
from app.database import statements
from tests.calls import reads
from tests.conftest import SERVICE, as_service, running_gunicorn
from tests.proof.model import known_of_export
from tests.test_cli import run
from tests.world import (
    LEARNER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    completions,
    get,
    give_course,
    mark,
    ok,
    require,
    unmark,
    uuid4,
)


def instant(db: psycopg.Connection, query: str = "select clock_timestamp()") -> Any:
    """Return the value of a query. Without a query, return the time of the database's clock."""
    (found,) = db.execute(query).fetchone() or (None,)
    return found


# Expiry

# The statements that tell whether the learner is enrolled.
STATEMENTS = (
    *("summary", "module", "lessons", "modules", "outline", "courses", "course", "next", "access"),
    *("completions", "may_mark", "may_mark_lessons", "unmark"),
    *("start_over_module", "start_over_course", "start_over_all"),
)
COUNTS = ("lesson", "module_counts", "course_counts")


def found(connection: psycopg.Connection) -> dict[str, str | bool | None]:
    parameters = {"user_id": LEARNER, "course_id": uuid4(3), "module_id": uuid4(1), "lesson_id": uuid4(2)}
    access: dict[str, str | bool | None] = {}
    for name in (*STATEMENTS, "admin/access"):
        given = {key: parameters.get(key) for key in statements.STATEMENTS[name].parameters}
        row = statements.run(connection, name, **given).fetchone()
        assert row
        access[name] = row["enrolled" if name in STATEMENTS else "access"]
    # These run after a write that found access, so they do not return the access. Their count shows it: two lessons
    # with full access, one with free access, none without access.
    levels = {2: "full", 1: "free", 0: None}
    for name in COUNTS:
        given = {key: parameters[key] for key in statements.STATEMENTS[name].parameters}
        row = statements.run(connection, name, **given).fetchone()
        assert row
        access[name] = levels[row["answer"]["overall"]["totalCount"]]
    row = statements.run(connection, "marked_lessons", user_id=LEARNER, lesson_ids=f"{{{uuid4(2)}}}").fetchone()
    assert row
    access["marked_lessons"] = levels[row["overall"]["totalCount"]]
    return access


def expected(access: str | None) -> dict[str, str | bool | None]:
    return {
        **dict.fromkeys(STATEMENTS, access is not None),
        **dict.fromkeys(("admin/access", *COUNTS, "marked_lessons"), access),
    }


@pytest.fixture
def two_lessons(db):
    add_module(db, 1, 2)
    add_lesson(db, 1, 3, is_free=True)
    add_course(db, 3, 1)


@pytest.mark.parametrize("microseconds", [-1000, -1, 0, 1, 1000])
@pytest.mark.parametrize("enrolled", [False, True])
def test_full_access_lasts_until_the_period_ends_and_not_a_microsecond_longer(
    db, two_lessons, database_url, microseconds, enrolled
):
    add_user(db)
    if enrolled:
        db.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    # All in one transaction: there, now() does not move on.
    with psycopg.connect(database_url, cursor_factory=RawCursor, row_factory=dict_row) as connection:
        connection.execute(
            "update subscriptions set current_period_end = now() + make_interval(secs => $1::float8 / 1e6)",
            [microseconds],
        )
        access = "full" if microseconds > 0 else "free" if enrolled else None
        assert found(connection) == expected(access)
        connection.rollback()


@pytest.mark.parametrize("microseconds", [-1000, -1, 0, 1, 1000])
def test_free_access_lasts_until_it_expires_and_not_a_microsecond_longer(db, two_lessons, database_url, microseconds):
    add_user(db, access="free")
    with psycopg.connect(database_url, cursor_factory=RawCursor, row_factory=dict_row) as connection:
        connection.execute(
            "update enrollments set expires_at = now() + make_interval(secs => $1::float8 / 1e6)", [microseconds]
        )
        assert found(connection) == expected("free" if microseconds > 0 else None)
        connection.rollback()


@pytest.mark.parametrize("microseconds", [-1000, -1, 0, 1, 1000])
@pytest.mark.parametrize("enrolled", [False, True])
def test_course_access_lasts_until_it_expires_and_not_a_microsecond_longer(
    db, two_lessons, database_url, microseconds, enrolled
):
    """The course is the whole catalog here, so that the counts are those of full access."""
    add_user(db, access="free" if enrolled else None)
    give_course(db, 3)
    with psycopg.connect(database_url, cursor_factory=RawCursor, row_factory=dict_row) as connection:
        connection.execute(
            "update course_enrollments set expires_at = now() + make_interval(secs => $1::float8 / 1e6)", [microseconds]
        )
        access = "full" if microseconds > 0 else "free" if enrolled else None
        assert found(connection) == expected(access) | ({"admin/access": "course"} if microseconds > 0 else {})
        connection.rollback()


@pytest.mark.parametrize(
    ("table", "column"),
    [("subscriptions", "current_period_end"), ("enrollments", "expires_at"), ("course_enrollments", "expires_at")],
)
def test_access_ends_by_itself_within_the_call_that_comes_at_that_moment(api, db, table, column):
    add_user(db, access={"subscriptions": "full", "enrollments": "free"}.get(table))
    add_module(db, 1, 2, is_free=True)
    add_course(db, 3, 1)
    if table == "course_enrollments":
        give_course(db, 3)
    get(api, "summary")
    end = instant(db, f"update {table} set {column} = clock_timestamp() + interval '150 ms' returning {column}")
    statuses: list[int] = []
    before = instant(db)
    while before <= end or 403 not in statuses:
        path, method = [("summary", "GET"), (f"lessons/{uuid4(2)}", "POST"), ("outline", "GET")][len(statuses) % 3]
        status = api.open(f"/api/progress/{path}", method=method, headers=bearer()).status_code
        after = instant(db)
        if after < end:
            assert status == 200
        if before > end:
            assert status == 403
        statuses.append(status)
        before = after
    assert statuses == sorted(statuses)
    assert set(statuses) == {200, 403}


@pytest.mark.parametrize("end", ["9999-12-31 23:59:59.999999Z", "9999-12-31 23:59:59-12", "infinity"])
def test_access_may_last_for_ever(api, db, end):
    add_user(db, access=None)
    add_module(db, 1, 2)
    db.execute("insert into subscriptions values (%s, null, 'active', %s)", [LEARNER, end])
    assert get(api, "summary")["totalCount"] == 1


@pytest.mark.parametrize("end", ["1970-01-01 00:00:00Z", "4713-01-01 00:00:00Z BC", "-infinity"])
def test_access_may_have_ended_long_ago(api, db, end):
    add_user(db, access=None)
    db.execute("insert into subscriptions values (%s, null, 'active', %s)", [LEARNER, end])
    db.execute("insert into enrollments values (%s, %s)", [LEARNER, end])
    assert_problem(api.get("/api/progress/summary", headers=bearer()), "not_enrolled")


# completedAt


OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59)


def test_any_instant_in_any_offset_is_stored_in_utc_to_the_millisecond(api, db):
    """The text and the expected time are made by adding seconds to 1970. No code of the service makes them."""
    add_user(db)
    add_module(db, 1, 2)

    @settings(suppress_health_check=list(HealthCheck))
    @given(
        seconds=st.integers(0, 1_790_000_000),  # from 1970 to 2026, so never in the future
        fraction=st.text("0123456789", max_size=12),
        offset=OFFSETS,
        letters=st.sampled_from(["TZ", "tz", "Tz"]),
        zulu=st.booleans(),
    )
    def check(seconds, fraction, offset, letters, zulu):
        local = datetime(1970, 1, 1) + timedelta(seconds=seconds, minutes=0 if zulu else offset)
        sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
        text = f"{local:%Y-%m-%d}{letters[0]}{local:%H:%M:%S}{'.' if fraction else ''}{fraction}"
        text += letters[1] if zulu else f"{sign}{hours:02}:{minutes:02}"
        expected = f"{datetime(1970, 1, 1) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"
        expected += f".{fraction[:3]:0<3}Z"
        assert ok(mark(api, 2, json={"completedAt": text}))["completedAt"] == expected
        ((_, _, stored),) = completions(db)
        assert stored.isoformat(timespec="microseconds") == expected.replace("Z", "000")
        ok(unmark(api, 2))

    check()


# Local times around the change from or to summer time, and the same instants in UTC. The offset says which of two equal
# local times is meant.
CHANGES = {
    "Europe/Berlin": [
        ("2025-10-26T02:30:00.000+02:00", "2025-10-26T00:30:00.000Z"),  # the hour from 2:00 to 3:00 comes twice
        ("2025-10-26T02:15:00.000+01:00", "2025-10-26T01:15:00.000Z"),  # the second time
        ("2026-03-29T02:30:00.000+02:00", "2026-03-29T00:30:00.000Z"),  # no clock in Berlin showed this time
        ("2026-03-29T02:30:00.000+01:00", "2026-03-29T01:30:00.000Z"),
    ],
    "America/New_York": [
        ("2025-11-02T01:59:59.999-04:00", "2025-11-02T05:59:59.999Z"),
        ("2025-11-02T01:00:00.000-05:00", "2025-11-02T06:00:00.000Z"),
        ("2026-03-08T02:00:00.000-05:00", "2026-03-08T07:00:00.000Z"),
    ],
    "Australia/Lord_Howe": [  # here the change is half an hour
        ("2026-04-05T01:45:00.000+11:00", "2026-04-04T14:45:00.000Z"),
        ("2026-04-05T01:30:00.000+10:30", "2026-04-04T15:00:00.000Z"),
    ],
    "Asia/Kathmandu": [("2026-01-01T05:44:59.999+05:45", "2025-12-31T23:59:59.999Z")],
    # Samoa moved across the date line, and had no 30 December 2011.
    "Pacific/Apia": [("2011-12-31T00:00:00.000+14:00", "2011-12-30T10:00:00.000Z")],
    "UTC": [
        ("2026-01-01T00:00:00.000-00:00", "2026-01-01T00:00:00.000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
    ],
}


def in_zone(url: str, zone: str) -> str:
    return f"{as_service(url)}&options={quote(f'-c timezone={zone}')}"


@pytest.fixture
def local(monkeypatch):
    """Yield a function that sets the time zone of this process, in hours east of UTC.

    The zone is written in the form of POSIX, because a name of a zone would need the files of tzdata.
    """

    def set_local(hours: float) -> None:
        minutes = round(abs(hours) * 60)
        monkeypatch.setenv("TZ", f"<xyz>{'-' if hours > 0 else '+'}{minutes // 60}:{minutes % 60:02}")
        time.tzset()
        assert time.timezone == -hours * 3600  # a TZ that libc cannot read would silently mean UTC

    yield set_local
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", CHANGES)
def test_the_offset_alone_says_when_it_was_in_every_zone_of_the_database(make_api, db, database_url, zone, local):
    local(-3.5)
    api = make_api(DATABASE_URL=in_zone(database_url, zone))
    add_user(db)
    texts = [pair for pairs in CHANGES.values() for pair in pairs]
    add_module(db, 1, *range(2, 2 + len(texts)))
    for lesson, (text, expected) in enumerate(texts, 2):
        assert ok(mark(api, lesson, json={"completedAt": text}))["completedAt"] == expected
    shown = [one["completedAt"] for one in get(api, "lessons")["lessons"]]
    assert shown == sorted(expected for _, expected in texts)


ZONES = ["UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati", "Etc/GMT+12"]
HOURS = [0, 5.75, -3.5, 14, -12]


def test_every_answer_is_the_same_wherever_service_and_database_are(make_api, db, database_url, local):
    """There are completions in the first and in the last allowed year. In some zones these are other years."""
    add_user(db)
    add_module(db, 1, 2, 3, 4, 5, 6)
    add_course(db, 3, 1)
    give_course(db, 3, until="2998-01-01T00:00:00Z")
    require(db, 6, 5)
    first, last = "1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"
    complete(db, 3, at="9999-12-31 23:59:59.999999Z")
    complete(db, 4, at="2026-01-01T00:00:00.000999Z")
    seen = []
    for zone, hours in itertools.product(ZONES, HOURS):
        local(hours)
        api = make_api(DATABASE_URL=in_zone(database_url, zone))
        marked = ok(mark(api, 2, json={"completedAt": "1970-01-01T00:00:00Z"}))
        answers = {path: known_of_export(get(api, path)) for path in reads()}
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        now = datetime.fromisoformat(ok(mark(api, 5))["completedAt"])
        assert before <= now <= datetime.now(UTC)
        refused = [mark(api, 6 - 1, json={"completedAt": text}) for text in ("1969-12-31T23:59:59.999Z", last)]
        assert [answer.get_json()["code"] for answer in refused] == ["invalid_body"] * 2
        seen.append((marked, ok(mark(api, 3)), answers))
        unmark(api, 5)
        unmark(api, 2)
    assert all(one == seen[0] for one in seen)
    marked, second, answers = seen[0]
    assert (marked["completedAt"], second["completedAt"]) == (first, last)
    assert answers["summary"] == {"percent": 75, "completedCount": 3, "totalCount": 4}
    assert [(one["lessonId"], one["completedAt"]) for one in answers["lessons"]["lessons"]] == [
        (uuid4(2), first),
        (uuid4(4), "2026-01-01T00:00:00.000Z"),
        (uuid4(3), last),
    ]
    assert answers["next"] == {"lessonId": uuid4(5), "moduleId": uuid4(1)}


def test_a_service_and_a_database_in_different_zones_answer_and_log_in_utc(environ, db, database_url):
    add_user(db)
    add_module(db, 1, 2)
    name, role = database_url.split("/")[-1].partition("?")[0], SERVICE
    db.execute(f"alter role {role} in database {name} set timezone = 'Asia/Tokyo'")
    db.execute(f"alter role {role} in database {name} set datestyle = 'SQL, DMY'")
    try:
        with running_gunicorn(environ | {"TZ": "<xyz>+7", "WEB_CONCURRENCY": "1"}) as service:
            before = datetime.now(UTC) - timedelta(milliseconds=1)
            request = urllib.request.Request(
                f"{service.url}/api/progress/lessons/{uuid4(2)}", method="POST", headers=bearer()
            )
            with urllib.request.urlopen(request) as response:
                text = json.load(response)["completedAt"]
            lines = [line["time"] for line in service.lines()]
    finally:
        db.execute(f"alter role {role} in database {name} reset all")
    for shown in (text, *lines):
        assert shown.endswith("Z")
        assert before - timedelta(seconds=30) <= datetime.fromisoformat(shown) <= datetime.now(UTC)
    assert before <= datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "option", ["timezone=Asia/Tokyo", "timezone=Etc/GMT+12", "datestyle=German", "datestyle=SQL,DMY"]
)
def test_the_tasks_show_times_in_utc_whatever_the_database_is_set_to(db, database_url, option, local):
    local(-3.5)
    add_user(db, access=None)
    db.execute("insert into subscriptions values (%s, null, 'active', '9999-12-31 23:59:59.999Z')", [LEARNER])
    url = f"{database_url}&options={quote(f'-c {option}')}"
    code, said, _ = run(url, "grant-free", LEARNER, "--until", "2027-01-31")
    assert (code, said) == (
        0,
        "full access: every published lesson\n"
        "subscription: active, period ends 9999-12-31T23:59:59Z\n"
        "enrollment: free access until 2027-01-31T23:59:59Z\n",
    )
    code, said, _ = run(url, "migration-status")
    times = [datetime.fromisoformat(line.split("applied ")[1].replace(" UTC", "+00:00")) for line in said.splitlines()]
    assert code == 0
    assert all(timedelta(0) <= datetime.now(UTC) - one < timedelta(hours=1) for one in times)


# Clocks that differ


@pytest.fixture
def clock(monkeypatch):
    """Yield a function that moves the clock of the service ahead of the database's, or stops it at a time."""

    def put(ahead: timedelta = timedelta(0), at: datetime | None = None) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return at or datetime.now(tz) + ahead

        monkeypatch.setattr(formats, "datetime", Clock)

    return put


FIVE = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (timedelta(0), 200),
        (FIVE, 200),
        (FIVE + timedelta(microseconds=1), 400),
        (FIVE + timedelta(milliseconds=1), 400),
        (FIVE - timedelta(milliseconds=1), 200),
    ],
)
@pytest.mark.parametrize("offset", ["+00:00", "+05:45", "-12:00"])
def test_a_caller_may_be_five_minutes_ahead_and_not_a_microsecond_more(api, db, clock, ahead, status, offset):
    add_user(db)
    add_module(db, 1, 2)
    now = datetime.now(UTC)
    clock(at=now)
    sign, hours, minutes = offset[0], int(offset[1:3]), int(offset[4:])
    local = now + ahead + (1 if sign == "+" else -1) * timedelta(hours=hours, minutes=minutes)
    text = f"{local:%Y-%m-%dT%H:%M:%S.%f}{offset}"
    assert mark(api, 2, json={"completedAt": text}).status_code == status
    stored = instant(db, "select count(*) from progress where completed_at <= now()")
    assert stored == (1 if status == 200 else 0)


@pytest.mark.parametrize("seconds", [-300, -1, 1, 300])
def test_a_service_whose_clock_is_five_minutes_off_dates_by_the_databases(api, db, clock, seconds):
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    clock(ahead=timedelta(seconds=seconds))
    now = "select date_trunc('milliseconds', clock_timestamp())"

    def marked(lesson: int, **body: Any) -> datetime:
        return datetime.fromisoformat(ok(mark(api, lesson, **body))["completedAt"])

    before = instant(db, now)
    assert before <= marked(2) <= instant(db, now)
    # A caller with a right clock: the time is stored as it was sent.
    honest = instant(db, now)
    assert marked(3, json={"completedAt": honest.isoformat()}) == honest
    # A caller whose clock is as far ahead as the service still accepts: the stored time is not in the future.
    before = instant(db, now)
    latest = before + FIVE + timedelta(seconds=seconds)
    assert min(before, latest) <= marked(4, json={"completedAt": latest.isoformat()}) <= instant(db, now)
    assert instant(db, "select count(*) from progress where completed_at > now()") == 0
