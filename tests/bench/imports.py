"""`python -m tests.bench.imports`: imports a million completions into the large data, and exports them again.

It works on a copy of the database of `make scale-data SIZE=large`. It prints the time and the memory of both tasks, and
how long a write of a learner in the file waited. It fails if the export does not have byte for byte the rows of the
file.
"""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psycopg

from tests.bench import scale
from tests.bench.service import cpu_seconds
from tests.conftest import ROOT

LESSONS_PER_LEARNER = 50  # the large data has 20,000 learners without a completion
COPY = "import_copy"
DAY_SECONDS = 86_400


def main() -> None:
    with scale.database("large") as url, TemporaryDirectory() as folder:
        name = urlsplit(url).path.removeprefix("/")
        with closing(psycopg.connect(url.replace(f"/{name}?", "/postgres?"), autocommit=True)) as connection:
            connection.execute(f"drop database if exists {COPY}".encode())
            connection.execute(f"create database {COPY} template {name}".encode())
            try:
                measure(url.replace(f"/{name}?", f"/{COPY}?"), Path(folder))
            finally:
                connection.execute(f"drop database {COPY}".encode())


def measure(url: str, folder: Path) -> None:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        rows = completions(connection)
    header = "user_id,lesson_id,completed_at\n"
    (folder / "before.csv").write_text(header + "".join(rows))
    learner = rows[0].partition(",")[0]
    with longest_wait(url, learner) as waits:
        run(url, "import-progress", folder / "before.csv")
    print(f"a write of a learner in the file waited {max(waits):.1f} s at most")
    run(url, "export-progress", folder / "after.csv")
    learners = {row.partition(",")[0] for row in rows}
    with (folder / "after.csv").open() as file:
        exported = header + "".join(line for line in file if line.partition(",")[0] in learners)
    if exported != header + "".join(sorted(rows)):
        sys.exit("the export does not have the rows of the file")
    print(f"the export has byte for byte the {len(rows)} rows of the file")


def completions(connection: psycopg.Connection) -> list[str]:
    """Make rows of a file in no order, for learners without a completion: the same rows each time."""
    lessons = [
        row[0]
        for row in connection.execute(
            "select lessons.id::text from lessons inner join modules on module_id = modules.id"
            " order by modules.position, modules.id, lessons.position, lessons.id"
        )
    ]
    learners = connection.execute(
        "select id::text from users where not exists (select from progress where user_id = id) order by id"
    ).fetchall()
    draw = random.Random(24)
    rows = []
    for (learner,) in learners:
        begin = draw.randrange(len(lessons))
        for place in range(begin, begin + LESSONS_PER_LEARNER):
            seconds = draw.randrange(10 * 365 * DAY_SECONDS)
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_420_070_400 + seconds))
            rows.append(f"{learner},{lessons[place % len(lessons)]},{at}.{draw.randrange(1000):03}Z\n")
    draw.shuffle(rows)
    return rows


@contextmanager
def longest_wait(url: str, learner: str) -> Iterator[list[float]]:
    """Lock a learner again and again while the block runs, as a write does. Yield a list of the waits in seconds."""
    waits: list[float] = []
    done = threading.Event()

    def write() -> None:
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            while not done.wait(0.05):
                begin = time.monotonic()
                connection.execute("select from users where id = %s for no key update", [learner])
                waits.append(time.monotonic() - begin)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()


def run(url: str, task: str, path: Path) -> None:
    """Run a task as a process of its own. Print what it prints, its time and its memory."""
    with closing(psycopg.connect(url)) as connection:
        stat = Path(f"/proc/{connection.info.backend_pid}/stat").read_text()
    postgres = int(stat.rsplit(")", 1)[1].split()[1])
    command = [sys.executable, "-m", "app.cli", task, str(path)]
    begin, database_before = time.monotonic(), cpu_seconds(postgres)
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"DATABASE_URL": url})
    memory = cpu = 0.0
    while process.poll() is None:
        # The resource usage of an ended process would count the memory that it had before it became the task.
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        if found:
            memory, cpu = int(found[1]) / 1024, cpu_seconds(process.pid)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{task} failed")
    print(
        f"{task}: {time.monotonic() - begin:.0f} s, CPU of the task {cpu:.0f} s,"
        f" of PostgreSQL {cpu_seconds(postgres) - database_before:.0f} s, memory of the task {memory:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
