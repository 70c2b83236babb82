"""The files of the web components over HTTP (contract §3). What they do is in tests/system/test_face.py."""

import re

import pytest

from app.progress_ui import FILES
from tests import contract
from tests.conftest import ROOT
from tests.world import assert_problem

ENTRY = "/progress-ui/progress-ui.js"


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_without_a_session_to_pages_of_any_origin_and_asked_for_again(api, name):
    answer = api.get(f"/progress-ui/{name}", headers={"Origin": "https://anywhere.example"})
    media_type = "text/plain" if name.endswith(".d.ts") else "text/javascript"
    assert (answer.status_code, answer.content_type) == (200, f"{media_type}; charset=utf-8")
    assert answer.data == (ROOT / "app" / "static" / name).read_bytes()
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cache-Control"] == "public, no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not {"Vary", "Access-Control-Allow-Credentials", "Set-Cookie"} & set(answer.headers.keys())
    again = api.get(f"/progress-ui/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["Access-Control-Allow-Origin"]) == (304, b"", "*")
    assert api.get(f"/progress-ui/{name}", headers={"If-Match": '"another"'}).status_code == 200


def test_they_are_the_same_for_an_allowed_origin(make_api):
    origin = "https://www.example.org"
    answer = make_api(ALLOWED_ORIGINS=origin).get(ENTRY, headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert not {"Vary", "Access-Control-Allow-Credentials"} & set(answer.headers.keys())


def test_head_is_as_get(api):
    head, get = api.head(ENTRY), api.get(ENTRY)
    assert (head.status_code, head.data) == (200, b"")
    for header in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
        assert head.headers[header] == get.headers[header]


@pytest.mark.parametrize(
    "path", ["nothing.js", "", "../app/settings.py", "%2e%2e/openapi.yaml", "progress-ui.js/", "STORE.js"]
)
def test_an_unknown_file_is_a_problem_document(api, path):
    assert_problem(api.get(f"/progress-ui/{path}"), "not_found")


def test_another_method_is_a_problem_document(api):
    answer = api.post(ENTRY)
    assert_problem(answer, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"


def test_the_document_names_every_file_and_every_import_is_one_of_them():
    [parameter] = contract.DOCUMENT["paths"]["/progress-ui/{file}"]["parameters"]
    assert parameter["schema"]["enum"] == list(FILES)
    imported = {name for content in FILES.values() for name in re.findall(r'from "\./([^"]+)"', content.decode())}
    assert imported == set(FILES) - {"progress-ui.js", "progress-ui.d.ts"}


def test_no_file_makes_html_of_text_and_one_file_uses_the_storage():
    """A policy with Trusted Types forbids HTML made from text. Other scripts could read a token from a storage.

    Only waiting.js uses localStorage, if the page asks for it. tests/system/test_face_offline.py says what it keeps.
    """
    demo = {path.name: path.read_text() for path in (ROOT / "app" / "demo" / "page").glob("*.js")}
    for name, text in {**{name: content.decode() for name, content in FILES.items()}, **demo}.items():
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "localStorage",
            "sessionStorage",
        ):
            assert word not in text or (name, word) == ("waiting.js", "localStorage"), f"{name}: {word}"
