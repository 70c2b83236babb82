"""What the first paint of a page waits for: each script must be asked for at once, and not by the script before it."""

import re

from app.demo.courses import COURSES
from app.progress_ui import FILES
from tests.conftest import ROOT
from tests.pages import block

PAGE = (ROOT / "app/demo/page/index.html").read_text()


def imported(name: str) -> set[str]:
    """Return the files that a script needs, itself included."""
    names = re.findall(r'^import .* from "\./(.+)";$', FILES[name].decode(), re.M)
    return {name}.union(*(imported(each) for each in names))


def preloaded(html: str) -> list[str]:
    return re.findall(r'<link rel="modulepreload" href="[^"]*/progress-ui/(.+?)">', html)


def test_the_page_of_the_demo_names_every_script_of_the_components():
    assert sorted(preloaded(PAGE)) == sorted(imported("progress-ui.js"))
    assert sorted(imported("progress-ui.js")) == sorted(name for name in FILES if name.endswith(".js"))


def test_so_do_the_lines_for_other_pages_besides_the_script_that_these_name_themselves():
    assert {"progress-ui.js", *preloaded(block("html", '<link rel="modulepreload"'))} == imported("progress-ui.js")


def test_the_page_of_the_demo_waits_for_no_style_sheet():
    assert "stylesheet" not in PAGE


def test_the_page_of_the_demo_offers_its_courses():
    radios = re.findall(r'name="course" value="([^"]*)"[^>]*>\s*<span>(.+)</span>', PAGE)
    assert radios == [*((id, title) for id, title, _ in COURSES), ("", "Both")]
