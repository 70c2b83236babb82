"""`make scale-data SIZE=…`: fills a PostgreSQL of its own with a catalog and learners, once for each size."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from app.demo import postgres
from tests.conftest import ROOT, migrate

STATEMENTS = Path(__file__).with_name("scale.sql")
ROUNDS = 30


class Size(NamedTuple):
    """Numbers of rows. `halves` and `tenths` are the users who have completed half and a tenth of the catalog."""

    courses: int
    modules: int
    lessons: int
    users: int
    halves: int
    tenths: int


SIZES = {
    "small": Size(3, 15, 300, 1_000, 3, 10),
    "middle": Size(5, 50, 1_000, 1_000, 3, 20),  # what the plan tests load
    "large": Size(50, 500, 10_000, 100_000, 26, 500),
}


def main() -> None:
    """Load the data of SIZE into the database URL. Without URL, load it into a database in the checkout."""
    size = os.environ.get("SIZE", "")
    if size not in SIZES:
        sys.exit(f"SIZE={size} is none of {', '.join(SIZES)}")
    url = os.environ.get("URL", "")
    if url:
        load(url, SIZES[size])
        return
    with database(size) as url:
        print(f"{size}: {url} (while it runs)")


@contextmanager
def database(size: str) -> Iterator[str]:
    """Start a server in the checkout, and load the data of a size if it is not there yet. Yield the URL."""
    local = ROOT / ".local"
    local.mkdir(exist_ok=True)
    folder = local / f"scale-{size}"
    server, url = postgres.start(folder)
    try:
        load(url, SIZES[size])
        yield url
    finally:
        postgres.stop(server, folder)


def load(url: str, size: Size) -> None:
    """Migrate a database and fill it, unless it has this data already. Exit if it has another catalog."""
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("select count(*) from lessons").fetchone()
        assert found
        if found[0] == size.lessons:
            return
        if found[0]:
            sys.exit("the database holds a catalog already: give one that is empty")
        with connection.transaction():
            # Skip the checks of foreign keys: the data is right by construction, and checking six million references
            # would take longer than everything else.
            connection.execute("set local session_replication_role = replica")
            _fill(connection, size)
        connection.execute("vacuum (analyze, freeze)")


def _fill(connection: psycopg.Connection, size: Size) -> None:
    started = time.monotonic()
    text = re.sub(r"^--.*$", "", STATEMENTS.read_text(), flags=re.M)
    for name in ("courses", "modules", "lessons", "users"):
        text = re.sub(rf":{name}\b", str(getattr(size, name)), text)
    for statement in filter(str.strip, text.split(";\n")):
        connection.execute(statement.encode())
    connection.execute(
        f"""
        create temporary table numbered on commit drop as
        select
            n,
            pg_temp.id('user', n) as id,
            case
                when n >= {size.users - size.halves} then {size.lessons} / 2
                when n >= {size.users - size.halves - size.tenths} then {size.lessons} / 10
                when n >= {size.users} / 5 then 30
                else 0
            end as amount,
            hashtext('begin' || n) & 1023 as begin
        from generate_series(0, {size.users} - 1) as n
        """.encode()
    )
    connection.execute(
        "create temporary table ordered on commit drop as"
        f" select n, pg_temp.id('lesson', n) as id from generate_series(0, {size.lessons} - 1) as n"
    )
    connection.execute("create index on ordered (n); analyze numbered; analyze ordered")
    width = 40
    for part in range(ROUNDS):
        connection.execute(
            f"""
            insert into progress (user_id, lesson_id, completed_at)
            select
                learner.id,
                lesson.id,
                '2025-01-01Z'::timestamptz + {part} * interval '20 days' + k % 20 * interval '1 day'
            from numbered as learner
            cross join lateral generate_series(
                learner.amount * {part} / {ROUNDS}, learner.amount * {part + 1} / {ROUNDS} - 1
            ) as k
            inner join ordered as lesson
                on lesson.n = (learner.begin * {size.lessons} / 1024 / 20 * 20 + k) % {size.lessons}
            order by hashint8(k::bigint * 1000003 + learner.n)
            """.encode()
        )
        done = width * (part + 1) // ROUNDS
        print(f"\r[{'#' * done}{'.' * (width - done)}] {time.monotonic() - started:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)


if __name__ == "__main__":
    main()
