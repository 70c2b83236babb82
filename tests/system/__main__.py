"""`make test-system`: the tests that need more than Python.

As root on Debian it installs what is missing. Otherwise it says what is missing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# What is needed, and the Debian package that brings it.
NEEDED = {
    "/usr/lib/postgresql/15/bin/initdb": "postgresql-15",
    "/usr/bin/redis-server": "redis-server",
    "/usr/bin/node": "nodejs",
    "/usr/bin/npm": "npm",
    "/usr/sbin/nginx": "nginx",
    "/usr/sbin/pgbouncer": "pgbouncer",
    "/usr/bin/systemd-analyze": "systemd",
    "/usr/bin/chromium": "chromium",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/mmdebstrap": "mmdebstrap",
}
# These tests do not depend on the version of PostgreSQL, and `make test` has run them: requests that are refused before
# any statement, sessions, keys, logs and metrics, the installation, the count of CPUs, the pages, the tests of the
# tests, connections, reloads, and the starts and ends of the demo. The tests of the demo's page start the demo on this
# PostgreSQL.
ELSEWHERE = (
    *(
        "proof/test_fuzz",
        "proof/test_schema",
        "test_alerts",
        "test_citus",
        "test_container",
        "test_cookies",
        "test_demo",
        "test_docs",
        "test_errors",
        "test_event_docs",
        "test_first_paint",
        "test_imports",
        "test_install",
    ),
    *(
        "test_jwks",
        "test_keepalive",
        "test_learner_tag",
        "test_locks",
        "test_mutation",
        "test_openapi",
        "test_operation",
    ),
    *("test_progress_ui", "test_proxies", "test_refusals", "test_reload", "test_report_docs"),
    *("test_sessions", "test_settings", "test_cpus"),
)
PLANS = ("test_plans", "test_event_plans")  # another version makes other plans
# The only program needed of the package of Prometheus. The package itself would start a server, now and at each boot.
PROMTOOL = Path("/usr/local/bin/promtool")
CREATECLUSTER = Path("/etc/postgresql-common/createcluster.conf")


def main() -> None:
    """Install what is missing, then run the whole suite on PostgreSQL 15, and the tests of this folder."""
    missing = [package for path, package in NEEDED.items() if not Path(path).exists()]
    promtool = bool(shutil.which("promtool"))
    if missing or not promtool:
        if os.getuid() != 0 or not Path("/etc/debian_version").exists():
            names = ", ".join([*missing, *([] if promtool else ["promtool"])])
            sys.exit(f"make test-system: this is missing, and root can install it on Debian: {names}")
        if not CREATECLUSTER.exists():
            # The package would create and start a server. Only its programs are needed.
            CREATECLUSTER.parent.mkdir(exist_ok=True)
            CREATECLUSTER.write_text("create_main_cluster = false\n")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)
        if not promtool:
            _take_promtool()
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if tuple(map(int, node.removeprefix("v").split(".")[:2])) < (20, 9):
        sys.exit(f"make test-system: Next.js needs Node.js 20.9 or newer, and this is {node}")
    # The libraries whose sessions and tokens are accepted, axe, React with its compilers, and the example site, at the
    # versions of their locks.
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps", "--loglevel=error"]
    for folder in ("authjs", "axe", "better-auth", "react18", "react19", "standardwebhooks", "../../examples/next"):
        subprocess.run(npm, cwd=Path(__file__).parent / folder, check=True, stdout=subprocess.DEVNULL)
    print("the suite on PostgreSQL 15, but for what does not depend on its version, and for the plans", flush=True)
    on_15 = {**os.environ, "PG_BINDIR": "/usr/lib/postgresql/15/bin"}
    # Keep the order of the files. pytest-xdist would begin with the files that have the most tests, and the slowest
    # file would come last.
    command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
    command += [f"--ignore=tests/{name}.py" for name in (*PLANS, *ELSEWHERE)]
    if os.getuid() != 0:
        print("without root, no image is built: tests/system/test_container.py is left out", flush=True)
        command += ["--ignore=tests/system/test_container.py"]
    sys.exit(subprocess.run(command, env=on_15, check=False).returncode)


def _take_promtool() -> None:
    """Take promtool out of the package of Prometheus, without installing the package."""
    with tempfile.TemporaryDirectory() as folder:
        # As root: apt's own user has no right to this folder.
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "prometheus"]
        subprocess.run(download, cwd=folder, check=True)
        [package] = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
        shutil.move(f"{folder}/usr/bin/promtool", PROMTOOL)


if __name__ == "__main__":
    main()
