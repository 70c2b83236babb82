"""The project's pages, for tests that compare them with the code. A test finds a block by its content."""

import re
from textwrap import dedent

from tests.conftest import ROOT

PAGES = {
    name: (ROOT / name).read_text("utf-8")
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "sql/README.md",
        *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    )
}


def blocks(language: str, pages: dict[str, str] = PAGES) -> list[str]:
    """Return every block of code in a language. If a block is inside a list, its indentation is removed."""
    fenced = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.M | re.S)
    return [dedent(found[2]) for text in pages.values() for found in fenced.finditer(text)]


def block(language: str, *parts: str) -> str:
    """Return the one block of code that has all these parts."""
    [found] = [text for text in blocks(language) if all(part in text for part in parts)]
    return found


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of all tables below a heading of a page, without the tables' heads. A row is a list of cells."""
    section = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##? |\Z)", PAGES[page], re.M | re.S)
    assert section, f"{page} has no section {heading}"
    rows: list[list[str]] = []
    for found in re.findall(r"(?:^\|.*\|\n?)+", section[1], re.M):
        lines = found.splitlines()
        rows += [[cell.strip() for cell in re.split(r" \| ", line[1:-1])] for line in lines[2:]]
    return rows


def anchors(text: str) -> list[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    without_code = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", without_code, re.M)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
