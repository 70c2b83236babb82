"""When the demo's page paints on a slow connection, beside bare pages of the same weight.

`make test-system` installs what it needs: Playwright and Chromium. Then run `.venv/bin/python -m tests.bench.paint`.

The connection is Chromium's own "Slow 4G": an answer begins 562.5 ms after its request, and comes at 1.44 Mbit/s. Each
page is loaded with an empty cache, the pages in turn. The first bare page is one document, with all its bytes in
itself. The second one has the same bytes in one script, and shows its content when the script runs.
"""

import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.conftest import in_memory
from tests.system.conftest import FLAGS
from tests.test_demo import Run, copy_of_the_checkout, wait_until_nothing_works_in

SLOW_4G = {"offline": False, "latency": 562.5, "downloadThroughput": 180_000, "uploadThroughput": 84_375}
ROUNDS = 5
# The frame in which the page has its content: the placeholders of the dashboard, or the text of a bare page.
WATCH = """
    const see = () => {
        const root = document.querySelector("course-progress")?.shadowRoot;
        const [module] = root?.querySelectorAll(".module") ?? document.querySelectorAll(".module");
        if (module?.getClientRects().length) window.contentMs ??= performance.now();
        if (root ? root.querySelector(".percent").textContent : module) window.loadedMs ??= performance.now();
        if (!window.loadedMs) requestAnimationFrame(see);
    };
    requestAnimationFrame(see);
"""
SHOW = b"document.body.append(Object.assign(document.createElement('p'), { className: 'module', textContent: 1 }));"


@contextmanager
def served(pages: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    """Serve these pages: media type and content by path. Yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("text/plain", b""))
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=partial(server.serve_forever, 0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def load(browser: Browser, url: str, cookies: list[Any]) -> tuple[float, float, float, int, list[str]]:
    """Load a page. Return the ms until its first paint, its content and its data, its bytes, and its requests."""
    # The demo's policy forbids the eval() with which Playwright waits.
    context = browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True)
    context.add_cookies(cookies)
    page = context.new_page()
    page.add_init_script(WATCH)
    cdp = context.new_cdp_session(page)
    cdp.send("Network.enable")
    cdp.send("Network.setCacheDisabled", {"cacheDisabled": True})
    cdp.send("Network.emulateNetworkConditions", SLOW_4G)
    sizes: list[int] = []
    cdp.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(url)))
    page.goto(url, wait_until="commit")
    page.wait_for_function("window.loadedMs && performance.getEntriesByType('paint').length", timeout=60_000)
    first = page.evaluate("Math.min(...performance.getEntriesByType('paint').map(({ startTime }) => startTime))")
    content, loaded = page.evaluate("[contentMs, loadedMs]")
    page.wait_for_load_state("load")  # one document paints before all of it has come
    context.close()
    return first, content, loaded, sum(sizes), asked


def main() -> None:
    """Print the medians of some rounds, and each as a multiple of the bare pages'."""
    base = Path(tempfile.mkdtemp(prefix="progress-", dir=in_memory())).resolve()
    base.chmod(0o755)
    run = Run(copy_of_the_checkout(base / "checkout")).wait_until_ready()
    try:
        demo = re.search(r"^Open (http://\S+)/ in a browser", run.output, re.M)
        if not demo:
            sys.exit(run.output)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            visit = browser.new_context()
            page = visit.new_page()
            page.goto(demo[1])
            page.wait_for_selector("course-progress >> .percent:has-text('%')")  # the visit signs the learner in
            cookies = visit.cookies(demo[1])
            visit.close()
            weight = load(browser, demo[1], cookies)[3]
            head = b'<!doctype html><html lang="en"><meta charset="utf-8"><title>Bare</title><h1>Bare</h1>'
            one = head + b'<p class="module">Here</p><!--' + b"x" * (weight - len(head) - 300) + b"-->"
            script = b"/*" + b"x" * (weight - len(head) - 800) + b"*/" + SHOW
            pages = {
                "/": ("text/html", one),
                "/two": ("text/html", head + b'<script type="module" src="/bare.js"></script>'),
                "/bare.js": ("text/javascript", script),
            }
            with served(pages) as bare:
                urls = {
                    "the demo": (demo[1], cookies),
                    "the demo, first visit": (demo[1], []),
                    "bare, one document": (bare, []),
                    "bare, with a script": (f"{bare}/two", []),
                }
                found: dict[str, list[Any]] = {name: [] for name in urls}
                for _ in range(int(os.environ.get("ROUNDS") or ROUNDS)):
                    for name, (url, session) in urls.items():
                        found[name].append(load(browser, url, session))
            browser.close()
    finally:
        run.process.terminate()
        run.end()
        wait_until_nothing_works_in(base)
        shutil.rmtree(base)
    print("| page | kB | requests | first paint ms | content ms | data ms |\n|---|---|---|---|---|---|")
    for name, rows in found.items():
        first, content, loaded, size = (round(statistics.median(row[at] for row in rows)) for at in range(4))
        print(f"| {name} | {size / 1000:.0f} | {len(rows[-1][4])} | {first} | {content} | {loaded} |")


if __name__ == "__main__":
    main()
