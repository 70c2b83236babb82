"""The first half of `make audit`: write LICENCES.md, the licence of every package that the locks pin."""

import json
import subprocess
import sys

from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.test_locks import LOCKS, locked

LIST = ROOT / "LICENCES.md"
# What each lock adds. A package is listed under the smallest lock that has it.
USES = dict(zip(LOCKS, ("the service", "make run", "make test and lint", "the long checks"), strict=True))


def main() -> None:
    """Read the licences of the installed packages. Packages for another Python or another system are not among them."""
    command = [sys.executable, "-m", "piplicenses", "--with-system", "--from=mixed", "--format=json"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    uses = {name: use for lock, use in reversed(USES.items()) for name in locked(lock)}
    found = {canonicalize_name(package["Name"]): package for package in packages}
    rows = [
        f"| {name} | {found[name]['Version']} | {' '.join(found[name]['License'].split())} | {uses[name]} |"
        for name in sorted(found.keys() & uses.keys())
    ]
    LIST.write_text(
        "# Licences\n\nOf the packages that the locks pin, as each names its own; written by `make audit`.\n\n"
        "| package | version | licence | for |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
