"""`make audit`, its first half: write LICENCES.md, what every package of the locks may be used under."""

import json
import subprocess
import sys

from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.test_locks import LOCKS, locked

LIST = ROOT / "LICENCES.md"
# What a package is for: by the smallest lock that has it.
USES = dict(zip(LOCKS, ("the service", "make run, test and lint", "the other make targets"), strict=True))


def main() -> None:
    """Ask the packages that are installed here; what another Python or machine needs besides is not among them."""
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
