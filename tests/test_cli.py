"""The tasks that touch learners, as `python -m app.cli` and by make: what they do, say, and refuse in one line."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import jwt
import psycopg
import pytest
from click.testing import CliRunner

from app.cli import cli
from app.sessions import bearer
from app.settings import from_environ
from tests.conftest import ROOT
from tests.world import LEARNER, SECRET, STRANGER, add_user, uuid4

Answer = tuple[int, str, str]

OTHER = uuid4(0xB0B)
NOBODY = f"Error: there is no learner {STRANGER}; add them with: make add-user\n"
NO_SUBSCRIPTION = "subscription: none\n"


def clean(database_url: str | None, **variables: str) -> dict[str, str]:
    """Return an environment with these variables and no others of this process, except PATH and LANG."""
    url = {} if database_url is None else {"DATABASE_URL": database_url}
    return {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | url | variables


def run(database_url: str | None, *words: str, **variables: str) -> Answer:
    """Run a command in this process. Return its exit code, standard output and standard error."""
    only = dict.fromkeys(os.environ) | clean(database_url, **variables)
    result = CliRunner().invoke(cli, words, env=only)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def spawn(database_url: str | None, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=clean(database_url, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> Answer:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def make(database_url: str, target: str, *given: str, **environ: str) -> Answer:
    """Run a make target with the Python of the tests, without the step that installs packages."""
    python = f"RUN={shlex.quote(sys.executable)} -m"
    command = ["make", "--no-print-directory", "-o", "install", target, python, *given]
    return ended(
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean(database_url, **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def users(db: psycopg.Connection) -> list:
    return db.execute("select id::text, email, name from users order by 1").fetchall()


@pytest.fixture
def site(new_database) -> Iterator[tuple[str, psycopg.Connection]]:
    """Yield the URL of a migrated database with a site's own users table, and a connection to it."""
    url = new_database()
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("create table users (id uuid primary key, login text)")
        assert run(url, "migrate")[0] == 0
        yield url, connection


def test_add_user_adds_a_learner_by_id_in_lower_case(db, database_url):
    assert run(database_url, "add-user", USER=LEARNER.upper()) == (0, f"added {LEARNER}\n", "")
    assert users(db) == [(LEARNER, None, None)]


def test_add_user_adds_a_learner_by_any_uuid(db, database_url):
    user_id = "ffffffff-ffff-1fff-0fff-ffffffffffff"
    assert run(database_url, "add-user", user_id) == (0, f"added {user_id}\n", "")


def test_add_user_again_changes_only_what_is_given(db, database_url):
    there = (0, f"is there already: {LEARNER}\n", "")
    assert run(database_url, "add-user", USER=LEARNER, EMAIL="a@example.org", NAME="A")[0] == 0
    assert run(database_url, "add-user", USER=LEARNER) == there
    assert users(db) == [(LEARNER, "a@example.org", "A")]
    assert run(database_url, "add-user", USER=LEARNER, NAME="B", EMAIL="") == there
    assert users(db) == [(LEARNER, "a@example.org", "B")]
    assert run(database_url, "add-user", USER=LEARNER, EMAIL="b@example.org") == there
    assert users(db) == [(LEARNER, "b@example.org", "B")]


def test_two_learners_may_have_one_email_address(db, database_url):
    for user_id in (LEARNER, OTHER):
        added = (0, f"added {user_id}\n", "")
        assert run(database_url, "add-user", USER=user_id, EMAIL="a@example.org") == added
    assert users(db) == [(OTHER, "a@example.org", None), (LEARNER, "a@example.org", None)]


def test_add_user_adds_to_a_sites_own_users_table_by_id_alone(site):
    url, connection = site
    assert run(url, "add-user", USER=LEARNER) == (0, f"added {LEARNER}\n", "")
    assert run(url, "grant-free", USER=LEARNER)[0] == 0
    refused = "Error: this users table is the site's own and has no such column: leave EMAIL and NAME out\n"
    for given in ({"EMAIL": "a@example.org"}, {"NAME": "A"}):
        assert run(url, "add-user", USER=OTHER, **given) == (1, "", refused)
    assert connection.execute("select id::text, login from users").fetchall() == [(LEARNER, None)]


def free_access_end(db: psycopg.Connection) -> str:
    """Return when the learner's free access ends, as make access shows it."""
    row = db.execute(
        """select to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') from enrollments"""
    ).fetchone()
    assert row
    return str(row[0])


def test_free_access_is_granted_for_ever_changed_and_taken_back(db, database_url):
    add_user(db, access=None)
    none = f"no access: not enrolled\n{NO_SUBSCRIPTION}enrollment: none\n"
    free = f"free access: the published free lessons\n{NO_SUBSCRIPTION}enrollment: free access "
    assert run(database_url, "access", USER=LEARNER) == (0, none, "")
    assert run(database_url, "grant-free", USER=LEARNER) == (0, f"{free}for ever\n", "")
    limited = (0, f"{free}until 9999-12-31T23:59:59Z\n", "")
    assert run(database_url, "grant-free", USER=LEARNER.upper(), UNTIL="9999-12-31") == limited
    assert run(database_url, "access", LEARNER) == limited
    assert run(database_url, "grant-free", USER=LEARNER, UNTIL="") == (0, f"{free}for ever\n", "")
    (code, revoked, err) = run(database_url, "revoke-free", USER=LEARNER)
    assert (code, err) == (0, "")
    ended = none.replace("enrollment: none", f"enrollment: free access ended {free_access_end(db)}")
    assert revoked == ended
    # An enrollment that has ended does not change.
    assert run(database_url, "revoke-free", USER=LEARNER) == (0, f"the learner did not have free access\n{ended}", "")


@pytest.mark.parametrize(
    ("before", "was_free"),
    [
        (None, False),
        ("now() - interval '1 day'", False),
        ("'-infinity'", False),
        ("now() + interval '1 day'", True),
        ("null", True),
    ],
)
def test_revoke_free_ends_the_enrollment_and_leaves_an_ended_one(db, database_url, before, was_free):
    add_user(db, access=None)
    if before:
        db.execute(f"insert into enrollments (user_id, expires_at) values (%s, {before})", [LEARNER])
    then = db.execute("select expires_at::text from enrollments").fetchone()
    code, out, _ = run(database_url, "revoke-free", USER=LEARNER)
    assert code == 0
    assert out.startswith(NONE if was_free else f"the learner did not have free access\n{NONE}")
    assert db.execute("select expires_at <= now() from enrollments").fetchall() == [(True,)]
    if then and not was_free:
        assert db.execute("select expires_at::text from enrollments").fetchone() == then


@pytest.mark.parametrize(
    ("until", "stored"),
    [
        ("2030-01-31", "2030-01-31 23:59:59.999"),
        ("2020-01-31", "2020-01-31 23:59:59.999"),
        ("2030-01-31T12:00:00Z", "2030-01-31 12:00:00"),
        ("2030-01-31t12:00:00.5z", "2030-01-31 12:00:00.5"),
        ("2030-01-31T00:30:00+02:00", "2030-01-30 22:30:00"),
        ("2028-02-29", "2028-02-29 23:59:59.999"),
    ],
)
def test_until_is_a_date_to_its_end_in_utc_or_an_rfc_3339_date_time(db, database_url, until, stored):
    add_user(db, access=None)
    assert run(database_url, "grant-free", USER=LEARNER, UNTIL=until)[0] == 0
    rows = db.execute("select user_id::text, expires_at = %s::timestamp at time zone 'UTC' from enrollments", [stored])
    assert rows.fetchall() == [(LEARNER, True)]


@pytest.mark.parametrize(
    "until",
    [
        "tomorrow",
        "infinity",
        "2030-02-29",
        "2030-1-1",
        "20300131",
        " 2030-01-31",
        "0000-01-01",
        "2030-01-31T12:00",
        "2030-01-31 12:00:00Z",
        "2030-01-31T24:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "'; drop table progress",
    ],
)
def test_any_other_until_is_refused_and_grants_nothing(db, database_url, until):
    add_user(db, access=None)
    text = f"Error: UNTIL={until} is neither a date (2027-01-31) nor an RFC 3339 date-time (2027-01-31T12:00:00Z)\n"
    assert run(database_url, "grant-free", USER=LEARNER, UNTIL=until) == (1, "", text)
    assert db.execute("select from enrollments").rowcount == 0


FULL = "full access: every published lesson"
FREE = "free access: the published free lessons"
NONE = "no access: not enrolled"
PAST, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("status", "ends", "enrolled", "words"),
    [
        ("active", FUTURE, None, [FULL, f"active, period ends {FUTURE}", "none"]),
        ("trialing", FUTURE, PAST, [FULL, f"trialing, period ends {FUTURE}", f"free access ended {PAST}"]),
        ("active", PAST, "infinity", [FREE, f"active, period ends {PAST}", "free access until infinity"]),
        ("active", "infinity", "-infinity", [FULL, "active, period ends infinity", "free access ended -infinity"]),
        ("active", None, FUTURE, [FREE, "active, period ends at no known time", f"free access until {FUTURE}"]),
        ("past_due", FUTURE, None, [NONE, f"past_due, period ends {FUTURE}", "none"]),
        (None, None, PAST, [NONE, "none", f"free access ended {PAST}"]),
    ],
)
def test_access_says_what_access_a_learner_has_and_why(db, database_url, status, ends, enrolled, words):
    add_user(db, access=None)
    if status:
        db.execute(
            "insert into subscriptions (user_id, status, current_period_end) values (%s, %s, %s)",
            [LEARNER, status, ends],
        )
    if enrolled:
        db.execute("insert into enrollments (user_id, expires_at) values (%s, %s)", [LEARNER, enrolled])
    expected = "{}\nsubscription: {}\nenrollment: {}\n".format(*words)
    assert run(database_url, "access", USER=LEARNER) == (0, expected, "")


COURSE, OTHER_COURSE = uuid4(0xC2), uuid4(0xC1)


@pytest.fixture
def courses(db: psycopg.Connection) -> psycopg.Connection:
    """A learner without any access, and two courses."""
    add_user(db, access=None)
    for id, title, position in ((COURSE, "JavaScript", 1), (OTHER_COURSE, 'The "Odin"\nProject', 2)):
        db.execute("insert into courses (id, title, position) values (%s, %s, %s)", [id, title, position])
    return db


def given(db: psycopg.Connection) -> list:
    return db.execute(
        "select user_id::text, course_id::text, source, expires_at::text from course_enrollments order by 2, 3"
    ).fetchall()


NOTHING_ELSE = f"{NO_SUBSCRIPTION}enrollment: none\n"
ONE_COURSE = f"course access: every published lesson of single courses\n{NOTHING_ELSE}"
NAMED = f'course "JavaScript" ({COURSE}): '
BY_HAND = ", given by hand or by the site\n"


def test_a_course_is_granted_for_ever_changed_and_taken_back(courses, database_url):
    granted = (0, f"{ONE_COURSE}{NAMED}for ever{BY_HAND}", "")
    assert run(database_url, "grant-course", USER=LEARNER, COURSE=COURSE) == granted
    assert given(courses) == [(LEARNER, COURSE, "", None)]
    assert run(database_url, "access", USER=LEARNER) == granted
    limited = (0, f"{ONE_COURSE}{NAMED}until 9999-12-31T23:59:59Z{BY_HAND}", "")
    given_again = {"USER": LEARNER.upper(), "COURSE": COURSE.upper(), "UNTIL": "9999-12-31"}
    assert run(database_url, "grant-course", **given_again) == limited
    assert run(database_url, "grant-course", LEARNER, COURSE, UNTIL="") == granted
    code, revoked, err = run(database_url, "revoke-course", USER=LEARNER, COURSE=COURSE)
    [(_, _, _, ends)] = given(courses)
    assert courses.execute("select %s::timestamptz <= now()", [ends]).fetchone() == (True,)
    assert (code, err) == (0, "")
    assert re.fullmatch(
        rf"{re.escape(NONE + chr(10) + NOTHING_ELSE + NAMED)}ended [-0-9]{{10}}T[:0-9]{{8}}Z{BY_HAND}", revoked
    )
    # What has ended stays as it is.
    again = f"they did not have this course by hand or by the site\n{revoked}"
    assert run(database_url, "revoke-course", USER=LEARNER, COURSE=COURSE) == (0, again, "")
    assert [row[3] for row in given(courses)] == [ends]


def test_a_course_with_an_end_in_the_past_is_over(courses, database_url):
    over = (0, f"{NONE}\n{NOTHING_ELSE}{NAMED}ended 2020-01-31T23:59:59Z{BY_HAND}", "")
    assert run(database_url, "grant-course", USER=LEARNER, COURSE=COURSE, UNTIL="2020-01-31") == over


def test_revoke_course_ends_what_was_given_by_hand_and_names_what_still_gives_the_course(courses, database_url):
    rows = [
        (COURSE, "", None),
        (COURSE, "pi_1", "infinity"),
        (COURSE, "sub_1", FUTURE),
        (COURSE, "pi_2", PAST),
        (OTHER_COURSE, "", None),
        (OTHER_COURSE, "cs_1", None),
    ]
    for row in rows:
        courses.execute(
            "insert into course_enrollments (user_id, course_id, source, expires_at) values (%s, %s, %s, %s)",
            [LEARNER, *row],
        )
    before = given(courses)
    still = "this course is still given by pi_1, sub_1; to end that, refund or cancel it at Stripe\n"
    head = f"course access: every published lesson of single courses\n{NOTHING_ELSE}"
    stripe = (
        f"{NAMED}until infinity, given by pi_1\n"
        f"{NAMED}ended {PAST}, given by pi_2\n"
        f"{NAMED}until {FUTURE}, given by sub_1\n"
    )
    other = f'course "The \\"Odin\\"\\nProject" ({OTHER_COURSE}): for ever, given by '
    other = f"{other}hand or by the site\n{other}cs_1\n"
    assert run(database_url, "access", USER=LEARNER) == (0, f"{head}{NAMED}for ever{BY_HAND}{stripe}{other}", "")
    code, out, err = run(database_url, "revoke-course", USER=LEARNER, COURSE=COURSE)
    (ended,) = [row for row in given(courses) if row not in before]
    assert (code, err, ended[1:3]) == (0, "", (COURSE, ""))
    line = next(line for line in out.splitlines(keepends=True) if line.endswith(BY_HAND))
    assert out == f"{still}{head}{line}{stripe}{other}"
    assert line.startswith(f"{NAMED}ended 2")
    again = run(database_url, "revoke-course", USER=LEARNER, COURSE=COURSE)
    assert again == (0, f"they did not have this course by hand or by the site\n{out}", "")


def test_access_names_every_way_in(courses, database_url):
    courses.execute(
        "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', %s)", [LEARNER, FUTURE]
    )
    run(database_url, "grant-free", USER=LEARNER)
    expected = (
        f"{FULL}\ncourse access: every published lesson of single courses\n"
        f"subscription: active, period ends {FUTURE}\nenrollment: free access for ever\n{NAMED}for ever{BY_HAND}"
    )
    assert run(database_url, "grant-course", USER=LEARNER, COURSE=COURSE) == (0, expected, "")
    courses.execute("delete from subscriptions")
    expected = expected.removeprefix(f"{FULL}\n").replace(f"active, period ends {FUTURE}", "none")
    expected = expected.replace("single courses\n", f"single courses\n{FREE}\n")
    assert run(database_url, "access", USER=LEARNER) == (0, expected, "")


@pytest.mark.parametrize("command", ["grant-course", "revoke-course"])
def test_course_must_be_given_and_be_there(courses, database_url, command):
    missing = (1, "", "Error: COURSE is not given; say which course: COURSE=<id>\n")
    assert run(database_url, command, USER=LEARNER) == run(database_url, command, USER=LEARNER, COURSE="") == missing
    for wrong in ("javascript", LEARNER.replace("-4", "-1"), f"{{{COURSE}}}", f"{COURSE} ", f"'{COURSE}'"):
        refused = (1, "", f"Error: COURSE={wrong} is not a UUID version 4\n")
        assert run(database_url, command, USER=LEARNER, COURSE=wrong) == refused
    absent = (1, "", f"Error: there is no course {uuid4(0xC9)}; add it with: make load-catalog\n")
    assert run(database_url, command, USER=LEARNER, COURSE=uuid4(0xC9)) == absent
    assert run(database_url, command, USER=STRANGER, COURSE=COURSE) == (1, "", NOBODY)
    assert given(courses) == []


def test_by_make_a_course_is_given_by_the_ids_of_the_site(courses, database_url):
    """AUTH_USER_ID_NAMESPACE is a setting, and USER and COURSE are what make was given."""
    namespace = {"AUTH_USER_ID_NAMESPACE": "1b671a64-40d5-491e-99b0-da01ff1f3341"}
    user_id = run(None, "learner-id", USER="cuid 1", **namespace)[1].strip()
    add_user(courses, user_id, access=None)
    words = ["USER=cuid 1", f"COURSE={COURSE}", "UNTIL=2999-01-01T00:00:00Z"]
    granted = (0, f"{ONE_COURSE}{NAMED}until {FUTURE}{BY_HAND}", "")
    assert make(database_url, "grant-course", *words, **namespace) == granted
    assert given(courses)[0][:3] == (user_id, COURSE, "")
    code, out, _ = make(database_url, "revoke-course", *words[:2], **namespace)
    assert (code, out.startswith(f"{NONE}\n")) == (0, True)


@pytest.mark.parametrize("until", ["tomorrow", "2030-02-29"])
def test_a_wrong_until_gives_no_course(courses, database_url, until):
    code, out, err = run(database_url, "grant-course", USER=LEARNER, COURSE=COURSE, UNTIL=until)
    assert (code, out, err.startswith(f"Error: UNTIL={until} is neither a date ")) == (1, "", True)
    assert given(courses) == []


@pytest.mark.parametrize("command", ["access", "grant-free", "revoke-free"])
def test_a_learner_who_is_not_there_is_an_error(db, database_url, command):
    assert run(database_url, command, USER=STRANGER) == (1, "", NOBODY)


COMMANDS = [
    *("add-user", "grant-free", "revoke-free", "access", "grant-course", "revoke-course"),
    *("token", "learner-id"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_user_must_be_given_and_a_uuid(database_url, command):
    missing = (1, "", "Error: USER is not given; say which learner: USER=<id>\n")
    assert run(database_url, command) == run(database_url, command, USER="") == missing
    for wrong in ("root", LEARNER.replace("-", ""), f"{{{LEARNER}}}", f"{LEARNER} ", f"'{LEARNER}'"):
        text = f"Error: USER={wrong} is not a UUID, as 8-4-4-4-12 hexadecimal digits;"
        text += " for other ids set AUTH_USER_ID_NAMESPACE, as the service has it\n"
        assert run(database_url, command, USER=wrong) == (1, "", text)


@pytest.mark.parametrize("command", COMMANDS[:6])
def test_a_database_without_the_tables_is_told_of_in_one_line(new_database, command):
    lacking = "Error: the database lacks tables; apply the migrations with: make migrate\n"
    assert run(new_database(), command, USER=LEARNER, COURSE=COURSE) == (1, "", lacking)


def test_a_value_that_is_not_utf_8_is_refused_in_one_line(db, database_url):
    refused = (1, "", "Error: a value that was given is not UTF-8 text\n")
    assert run(database_url, "add-user", USER=LEARNER, NAME=os.fsdecode(b"\xff")) == refused
    assert users(db) == []


def decoded(answer: Answer, user_claim: str = "sub") -> dict:
    code, out, err = answer
    assert code == 0
    claims = jwt.decode(out.strip(), options={"verify_signature": False})
    ends = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(claims["exp"]))
    assert (out.count("\n"), err) == (1, f"valid until {ends} UTC\n")
    assert abs(claims["iat"] - time.time()) < 60
    return {name: value for name, value in claims.items() if name not in ("iat", "exp")} | {
        "seconds": claims["exp"] - claims["iat"]
    }


@pytest.mark.parametrize(
    ("settings", "claims"),
    [
        ({}, {"sub": LEARNER, "seconds": 43200}),
        ({"HOURS": "0.5"}, {"sub": LEARNER, "seconds": 1800}),
        ({"AUTH_JWT_AUDIENCE": "site"}, {"sub": LEARNER, "aud": "site", "seconds": 43200}),
        ({"AUTH_JWT_AUDIENCE": "site, another"}, {"sub": LEARNER, "aud": "site", "seconds": 43200}),
        ({"AUTH_JWT_ISSUER": "https://site"}, {"sub": LEARNER, "iss": "https://site", "seconds": 43200}),
        ({"AUTH_USER_ID_CLAIM": "uid"}, {"uid": LEARNER, "seconds": 43200}),
        (
            {"AUTH_JWT_AUDIENCE": "a", "AUTH_JWT_ISSUER": "i", "AUTH_USER_ID_CLAIM": "user_id"},
            {"user_id": LEARNER, "aud": "a", "iss": "i", "seconds": 43200},
        ),
        ({"AUTH_JWT_SECRET": f"{SECRET},{SECRET[::-1]}"}, {"sub": LEARNER, "seconds": 43200}),
    ],
)
def test_a_token_verifies_under_the_settings_it_is_signed_with(database_url, settings, claims):
    configured = {"AUTH_JWT_SECRET": SECRET} | settings
    answer = run(database_url, "token", USER=LEARNER.upper(), **configured)
    assert decoded(answer) == claims
    assert bearer.verify(answer[1].strip(), from_environ({"DATABASE_URL": database_url} | configured)) == LEARNER


def test_a_token_is_signed_with_the_first_of_the_secrets(database_url):
    newest, oldest = "n" * 32, "o" * 32
    signed = run(database_url, "token", USER=LEARNER, AUTH_JWT_SECRET=f"{newest},{oldest}")[1].strip()
    assert bearer.verify(signed, from_environ({"DATABASE_URL": database_url, "AUTH_JWT_SECRET": newest})) == LEARNER


def test_a_token_needs_a_secret_to_sign_it_with(database_url):
    refused = "Error: AUTH_JWT_SECRET: is not set; a token can be signed with a shared secret only\n"
    assert run(database_url, "token", USER=LEARNER, AUTH_SECRET="encrypts") == (1, "", refused)


@pytest.mark.parametrize("url", [None, "", "nonsense"])
def test_a_token_needs_no_database(url):
    assert decoded(run(url, "token", USER=LEARNER, AUTH_JWT_SECRET=SECRET)) == {"sub": LEARNER, "seconds": 43200}


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "8785", "1e+300", "1e400", "x", "12h", "1_0 0"])
def test_hours_are_above_0_and_at_most_a_year(database_url, hours):
    refused = f"Error: HOURS={hours} is not a number of hours above 0, at most 8784: a year\n"
    assert run(database_url, "token", USER=LEARNER, HOURS=hours, AUTH_JWT_SECRET=SECRET) == (1, "", refused)


def test_a_setting_that_is_wrong_is_named_in_one_line(database_url):
    for settings, name in [({}, "AUTH_SECRET"), ({"AUTH_JWT_SECRET": "short"}, "AUTH_JWT_SECRET")]:
        code, out, err = run(database_url, "token", USER=LEARNER, **settings)
        assert (code, out, err.count("\n"), err.startswith(f"Error: {name}: ")) == (1, "", 1, True)


NO_URL = "is not set; it names the database, e.g. postgresql://user@host/progress"
WRONG_URL = "is not a libpq URL, such as postgresql://user:password@host:5432/progress"
START_URL = "is not a libpq URL, which begins with postgresql://"
NO_PORT = "has no valid host and port; in a password, write @ as %40, / as %2F and : as %3A"
REFUSED = (
    'connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused '
    "Is the server running on that host and accepting TCP/IP connections?"
)
ABSENT = (
    'connection is bad: connection to server on socket "/nowhere/.s.PGSQL.5432" failed: No such file or directory '
    "Is the server running locally and accepting connections on that socket?"
)


@pytest.mark.parametrize("command", ["migrate", "migration-status", "migrate-unlock", "rollback", "access"])
@pytest.mark.parametrize(
    ("url", "fault"),
    [
        (None, NO_URL),
        ("", NO_URL),
        ("progress", START_URL),
        ("mysql://user:sesame@host/progress", START_URL),
        ("host=/nowhere password=sesame", START_URL),
        ("postgresql://user:sesame@127.0.0.1:port/progress", NO_PORT),
        ("postgresql://user:sesame%zz@127.0.0.1/progress", WRONG_URL),
        ("postgresql://user:sesame@/progress?no=such", "has parameters that libpq does not know: leave out 'no'"),
        ("postgresql://user:sesame@127.0.0.1:1/progress", REFUSED),
        ("postgresql://user:sesame@/progress?host=%2Fnowhere", ABSENT),
        ("postgresql://user:sesame@/?connect_timeout=x", "bad value for connect_timeout: 'x'"),
    ],
)
def test_a_database_url_that_does_not_connect_is_named_in_one_line_without_its_password(command, url, fault):
    assert run(url, command, USER=LEARNER) == (1, "", f"Error: DATABASE_URL: {fault}\n")


def test_by_make_user_is_what_is_given_to_make_and_never_the_login_environments(db, database_url):
    missing = "Error: USER is not given; say which learner: USER=<id>\n"
    for name in (LEARNER, "root"):
        code, out, err = make(database_url, "add-user", USER=name, EMAIL="login@example.org", NAME="Login")
        assert (code, out, err.startswith(missing)) == (2, "", True)
    given = make(database_url, "add-user", f"USER={OTHER}", USER=LEARNER, EMAIL="login@example.org", NAME="Login")
    assert given == (0, f"added {OTHER}\n", "")
    assert users(db) == [(OTHER, None, None)]


def test_by_make_no_shell_reads_a_value(db, database_url, tmp_path):
    touch = f"touch {tmp_path}/made"
    name = f"""O'Neil "the #1" \\ `{touch}` ; {touch} & {touch} | $(shell {touch}) A$AP * ~ é\u00a0%s \\"""
    assert make(database_url, "add-user", f"USER={LEARNER}", f"NAME={name}") == (0, f"added {LEARNER}\n", "")
    assert users(db) == [(LEARNER, None, name)]
    code, out, err = make(database_url, "access", f"USER=`{touch}`'; {touch}")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: USER=`{touch}`'; {touch} is not a UUID, as 8-4-4-4-12 hexadecimal digits;")
    assert list(tmp_path.iterdir()) == []


def test_by_make_a_file_may_have_any_name_and_a_dry_run_is_asked_for(db, database_url, tmp_path):
    path = tmp_path / """it's "a" `catalog`; & (1).json"""
    path.write_text('{"modules": []}')
    report = (
        "modules: 0 in the file; 0 added, 0 changed\n"
        "lessons: 0 in the file; 0 added, 0 changed, 0 moved, 0 unpublished\n"
        "prerequisites: 0 added, 0 removed\n"
    )
    dry = make(database_url, "load-catalog", f"FILE={path}", "DRY_RUN=1")
    assert dry == (0, f"{report}dry run: nothing was written\n", "")
    assert make(database_url, "load-catalog", f"FILE={path}", DRY_RUN="1") == (0, f"{report}loaded\n", "")


@pytest.mark.parametrize(
    ("command", "variable", "others"),
    [
        ("redeliver", "EVENT", {}),
        ("report", "SINCE", {"NAME": "days"}),
        ("mark", "AT", {"USER": LEARNER, "LESSON": uuid4(1)}),
    ],
)
def test_an_empty_variable_does_not_mean_everything(database_url, command, variable, others):
    refused = f"Error: {variable} is empty; give a value, or leave {variable} out\n"
    assert run(database_url, command, **others, **{variable: ""}) == (1, "", refused)
