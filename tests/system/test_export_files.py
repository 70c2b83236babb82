"""examples/next/scripts/export-files.ts: the catalog of a site whose lessons are files."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.test_cli import run
from tests.world import uuid4

EXAMPLE = ROOT / "examples" / "next"
FILES = {
    "02-loops/index.md": f"---\ntitle: Loops\nprogressId: {uuid4(2)}\n---\n",
    "02-loops/while.mdx": f"---\nprogressId: {uuid4(21)}\ntitle: 'While: a loop'\n---\n# While\n\n---\n",
    "01-basics/index.md": f"---\r\ntitle: Basics\r\nprogressId: {uuid4(1)}\r\n---\r\nWelcome.\r\n",
    "01-basics/02-names.md": f"---\ntitle: Names\nprogressId: {uuid4(12)}\npublished: false\n---\n",
    "01-basics/01-hello.md": f"---\ntitle: Hello\nprogressId: {uuid4(11)}\nfree: true\n---\n",
    "01-basics/picture.png": "",
    "README.md": "What is in this folder.",
}


def export(content: Path) -> subprocess.CompletedProcess[str]:
    command = [str(EXAMPLE / "node_modules" / ".bin" / "tsx"), "scripts/export-files.ts", str(content)]
    return subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True)


def test_the_front_matter_of_files_becomes_a_catalog_that_loads(tmp_path: Path, migrated_database: Callable[[], str]):
    content = tmp_path / "content"
    for name, text in FILES.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text, newline="")
    done = export(content)
    assert done.stderr == ""
    catalog = tmp_path / "catalog.json"
    catalog.write_text(done.stdout)
    hello = {"id": uuid4(11), "title": "Hello", "published": True, "isFree": True}
    names = {"id": uuid4(12), "title": "Names", "published": False, "isFree": False}
    loop = {"id": uuid4(21), "title": "While: a loop", "published": True, "isFree": False}
    assert json.loads(done.stdout) == {
        "modules": [
            {"id": uuid4(1), "title": "Basics", "lessons": [hello, names]},
            {"id": uuid4(2), "title": "Loops", "lessons": [loop]},
        ]
    }
    assert run(migrated_database(), "load-catalog", str(catalog))[0] == 0
    (content / "01-basics" / "03-new.md").write_text("---\ntitle: New\n---\n")
    done = export(content)
    assert (done.returncode, done.stdout) == (1, "")
    assert "03-new.md: its front matter has no progressId or no title" in done.stderr
