"""A failover behind a PgBouncer. It keeps telling its clients what the first server said about itself."""

import os
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from app.database import readiness
from app.demo.postgres import owner, unprivileged
from app.settings import from_environ
from tests.conftest import ROOT, SERVICE, free_port
from tests.test_failover import PORT, Pair, pair, promote  # noqa: F401 - pair is a fixture
from tests.world import SECRET, bearer, lesson_path, uuid4


def test_behind_a_pgbouncer_that_met_the_standby_first(pair: Pair, tmp_path: Path, make_api):  # noqa: F811
    port = free_port()
    pair.point_to(pair.standby)
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\nprogress = host={pair.name} port={PORT} dbname=postgres user={SERVICE}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\n"
    )
    user = owner(ROOT)
    if user:
        os.chown(tmp_path, *user)
    environ = {
        "DATABASE_URL": f"postgresql://{SERVICE}@127.0.0.1:{port}/progress",
        "AUTH_JWT_SECRET": SECRET,
        "PREPARE_THRESHOLD": "off",
    }
    with subprocess.Popen([*unprivileged(ROOT), "pgbouncer", "-q", str(tmp_path / "pgbouncer.ini")]) as pgbouncer:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(environ["DATABASE_URL"]).close()
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline
            with pytest.raises(readiness.NotReadyError, match=r"^DATABASE_URL: this server is a standby"):
                readiness.check(from_environ(environ))
            api = make_api(**environ)
            headers = bearer(uuid4(0xC0))
            assert api.get("/readyz").status_code == 503
            assert api.post(lesson_path(0x1000), headers=headers).status_code == 503
            promote(pair.standby)
            readiness.check(from_environ(environ))
            assert api.get("/readyz").status_code == 200
            assert api.post(lesson_path(0x1000), headers=headers).status_code == 200
        finally:
            pgbouncer.terminate()
