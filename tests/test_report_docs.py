"""docs/reports.md: the first lines of each report are those that the command prints."""

import re

import psycopg
import pytest
from psycopg.rows import dict_row

from app.tasks import completions, reports
from tests.bench import scale
from tests.conftest import ROOT
from tests.test_cli import run

PAGE = ROOT / "docs" / "reports.md"
EXAMPLE = re.compile(r"^```\n(make report [^\n]*)\n\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def small(new_database) -> str:
    """Return the URL of the data of `make scale-data SIZE=small`, with completions."""
    url = new_database()
    scale.load(url, scale.SIZES["small"])
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as connection:
        completions.write_missing(connection)
    return str(url)


def printed(url: str, command: str) -> str:
    variables = dict(word.split("=") for word in command.split()[2:])
    code, out, err = run(url, "report", **variables)
    assert (code, err) == (0, "")
    return out


def test_the_page_shows_the_first_lines_of_each_report(small):
    examples = EXAMPLE.findall(PAGE.read_text("utf-8"))
    assert [re.findall(r"NAME=(\w+)", command)[0] for command, _ in examples] == list(reports.NAMES)
    for command, lines in examples:
        assert printed(small, command).startswith(lines), command
        assert lines.count("\n") > 3


def test_the_page_has_the_columns_of_each_report(small):
    page = PAGE.read_text("utf-8")
    for name in reports.NAMES:
        section = re.findall(rf"^## {name.capitalize()}\n(.*?)(?=^## )", page, re.M | re.S)[0]
        header = re.findall(r"-- Returns:.*?^-- Buffers", (ROOT / f"sql/reports/{name}.sql").read_text(), re.M | re.S)[
            0
        ]
        columns = re.findall(r"^--   (\w+)", header, re.M)
        assert columns
        for column in columns:
            assert f"`{column}`" in section, f"{name}: {column}"
