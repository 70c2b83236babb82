"""How a browser gets the components' files: after a deploy, and twice on one page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import free_port, running_gunicorn
from tests.system.test_face import LASAGNA, Shown, Site, service, site, start, visit, world  # noqa: F401
from tests.test_demo import copy_of_the_checkout
from tests.world import SECRET, cookie, uuid4

# A later release: its modules import other names from each other, and it has other words on a page.
NEXT_RELEASE = {"isFinished": "isDone", "complete(": "completeLabels(", "{ complete,": "{ completeLabels,"}
NEXT_RELEASE |= {"Continue with": "Go on with"}


@pytest.fixture
def next_release(tmp_path: Path) -> Iterator[Path]:
    folder = copy_of_the_checkout(tmp_path / "next")
    changed = set()
    for path in (folder / "app" / "static").glob("*.js"):
        text = path.read_text()
        for old, new in NEXT_RELEASE.items():
            if old in text:
                changed.add(path.name)
            text = text.replace(old, new)
        path.write_text(text)
    assert changed == {"course-progress.js", "element.js", "labels.js", "store.js"}
    yield folder
    shutil.rmtree(folder)


def page_with(site: Site, scripts: list[str]) -> str:  # noqa: F811
    site.policy = ""
    tags = "".join(f'<script type="module" src="{script}"></script>' for script in scripts)
    site.pages["/"] = (
        f"<!doctype html><title>A course</title>{tags}"
        f'<lesson-progress lesson-id="{uuid4(LASAGNA)}"></lesson-progress><course-progress></course-progress>'
    )
    return site.url


def sign_in(page: Page, url: str) -> None:
    name, _, value = cookie()["Cookie"].partition("=")
    page.context.add_cookies([{"name": name, "value": value, "url": url, "httpOnly": True, "sameSite": "Lax"}])


@pytest.fixture
def settings(environ: dict[str, str], site: Site) -> dict[str, str]:  # noqa: F811
    """Return settings for a service that has the same address in both releases."""
    own = {"AUTH_SECRET": SECRET, "ALLOWED_ORIGINS": site.url, "WEB_CONCURRENCY": "1", "LOG_LEVEL": "info"}
    return environ | own | {"PORT": str(free_port())}


@pytest.mark.parametrize("cached", ["progress-ui.js", "store.js"])
def test_a_deploy_breaks_no_page_that_a_browser_has_files_of(
    new_context,
    settings,
    world,  # noqa: F811
    site,  # noqa: F811
    next_release,
    cached,
):
    """The browser's cache has all files of the old release, or only one of them."""
    url = f"http://127.0.0.1:{settings['PORT']}"
    page = new_context().new_page()
    sign_in(page, url)
    with running_gunicorn(settings):
        page.goto(page_with(site, [f"{url}/progress-ui/{cached}"]))
        page.wait_for_load_state("networkidle")
    with running_gunicorn(settings, folder=next_release):
        page.goto(page_with(site, [f"{url}/progress-ui/progress-ui.js"]))
        shown = Shown(page, url)
        expect(shown.course.locator(".continue")).to_contain_text("Go on with")
        shown.lesson.get_by_role("button").click()
        expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is completed.")
        expect(shown.percent).to_have_text("25%")


def test_files_that_did_not_change_are_not_sent_again(new_context, settings, world, site):  # noqa: F811
    page = new_context().new_page()
    with running_gunicorn(settings) as running:
        sign_in(page, running.url)
        for status in (200, 304):
            before = len(running.lines())
            page.goto(page_with(site, [f"{running.url}/progress-ui/progress-ui.js"]))
            expect(Shown(page, running.url).percent).to_have_text("0%")
            lines = [line for line in running.lines()[before:] if line["route"].startswith("/progress-ui/")]
            assert [line["status"] for line in lines] == [status] * 8


def test_the_script_may_be_loaded_twice(new_context, service, world, site):  # noqa: F811
    """A page loads it from the site's proxy and from the service, or under two addresses of one server."""
    direct = service.replace("127.0.0.1", "localhost")
    scripts = [f"{origin}/progress-ui/progress-ui.js{query}" for origin in (service, direct) for query in ("", "?v=1")]
    page = new_context().new_page()
    sign_in(page, service)
    page.goto(page_with(site, scripts))
    shown = Shown(page, service)
    expect(shown.percent).to_have_text("0%")
    shown.lesson.get_by_role("button").click()
    expect(shown.lesson.get_by_role("status")).to_contain_text("“Lasagna” is completed.")
    expect(shown.percent).to_have_text("25%")
