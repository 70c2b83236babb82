"""The tests' client checks every answer against app/openapi.yaml before the test sees it."""

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from flask.testing import FlaskClient
from jsonschema_rs import Draft202012Validator
from werkzeug.test import TestResponse

PATH = Path(__file__).parent.parent / "app" / "openapi.yaml"


def read_yaml(text: str | bytes) -> Any:
    """Read a document as yaml.safe_load does, but with the parser in C: the one in Python takes half a second."""
    return yaml.load(text, yaml.CSafeLoader)


DOCUMENT: dict[str, Any] = read_yaml(PATH.read_text("utf-8"))
# How the body of each documented media type is read.
READERS: dict[str, Callable[[bytes], Any]] = {
    "application/json": json.loads,
    "application/problem+json": json.loads,
    "application/yaml": read_yaml,
}


class Client(FlaskClient):
    """A client that fails the test if an answer is not one that the document describes."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        check(response)
        return response


def operation(path: str, method: str) -> tuple[str, dict[str, Any]] | None:
    """Return the path template and the operation that the document has for a request. HEAD counts as GET."""
    for template, item in DOCUMENT["paths"].items():
        parts, given = template.split("/"), path.split("/")
        if len(parts) == len(given) and all(p == g or (p[:1] == "{" and g) for p, g in zip(parts, given, strict=True)):
            method = {"HEAD": "get"}.get(method, method.lower())
            return (template, item[method]) if method in item else None
    return None


def check(response: TestResponse) -> None:
    """Raise AssertionError for an answer that the document does not describe: status, headers, content type, body."""
    request = response.request
    if request.method == "OPTIONS" and response.status_code == 204:  # CORS answers a preflight; no operation does
        return
    code = code_of(response.mimetype, response.data)
    pointer = described(request.environ["PATH_INFO"], request.method, response.status_code, code)
    if request.method != "HEAD" and response.status_code != 304:
        check_body(pointer, response.mimetype or "", response.data)
    check_headers(pointer, response.headers.items())


def code_of(mimetype: str | None, data: bytes) -> str | None:
    """Return the code of a problem document. Return None if the answer is not a problem document."""
    return json.loads(data)["code"] if mimetype == "application/problem+json" and data else None


def described(path: str, method: str, status: int, code: str | None) -> str:
    """Return the JSON pointer of the response that the document has for an answer of this kind.

    Raises AssertionError, or KeyError, if the document has none.
    """
    found = operation(path, method)
    if found is None or code == "not_found":
        pointer = "/components/responses/" + {404: "NotFound", 405: "MethodNotAllowed"}[status]
    else:
        template, described = found
        reference = described["responses"][str(status)].get("$ref")
        verb = {"HEAD": "get"}.get(method, method.lower())
        place = template.replace("~", "~0").replace("/", "~1")
        pointer = reference[1:] if reference else f"/paths/{place}/{verb}/responses/{status}"
    # The names of the examples are the codes that a response may have.
    examples = _at(pointer).get("content", {}).get("application/problem+json", {}).get("examples", {})
    assert code is None or code in examples, f"{code} is not documented for {method} {path}"
    return pointer


def check_body(pointer: str, mimetype: str, data: bytes) -> None:
    """Raise AssertionError if the response that the pointer names has no such content type or body."""
    content = _at(pointer).get("content", {})
    if not content:
        assert not data, f"{pointer}: a body is not documented"
        return
    assert mimetype in content, f"{pointer}: content type {mimetype} is not documented"
    value = READERS.get(mimetype, bytes.decode)(data)
    _validate(f"{pointer}/content/{mimetype.replace('/', '~1')}/schema", value)


# These headers come from HTTP itself, from the server and from CORS. The document describes them in one place.
OF_NO_CALL = re.compile(
    r"(Content-Type|Content-Length|Transfer-Encoding|Date|Server|Connection|Access-Control-.*)", re.I
)


def check_headers(pointer: str, headers: Iterable[tuple[str, str]]) -> None:
    """Raise AssertionError if the headers are not those of the response that the pointer names."""
    given = {name.lower(): (name, value) for name, value in headers}
    documented = {name.lower(): name for name in _at(pointer).get("headers", {})}
    for lower, name in documented.items():
        if lower in given:
            # Every header of the document is a string.
            _validate(f"{pointer}/headers/{name}/schema", given[lower][1])
        else:
            assert not _at(f"{pointer}/headers/{name}").get("required"), f"no {name}"
    undocumented = [name for lower, (name, _) in given.items() if lower not in documented]
    undocumented = [name for name in undocumented if not OF_NO_CALL.fullmatch(name)]
    assert not undocumented, f"not documented: {', '.join(undocumented)}"


def _validate(pointer: str, value: Any) -> None:
    try:
        errors = [error.message for error in _validator(pointer).iter_errors(value)]
    except UnicodeEncodeError:  # half of a surrogate pair, which a text of Rust cannot have
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        errors = [error.message for error in _validator(pointer).iter_errors(value)]
    assert not errors, f"{pointer}: {'; '.join(errors)}"


@cache  # making a validator takes longer than using it
def _validator(pointer: str) -> Draft202012Validator:
    return Draft202012Validator(_resolved(_at(pointer)), validate_formats=True)


def _at(pointer: str) -> Any:
    """Return the part of the document at a JSON pointer. References on the way are followed."""
    found: Any = DOCUMENT
    for step in pointer.removeprefix("/").split("/"):
        found = _followed(found[step.replace("~1", "/").replace("~0", "~")])
    return found


def _followed(thing: Any) -> Any:
    return _at(thing["$ref"][1:]) if isinstance(thing, dict) and "$ref" in thing else thing


def _resolved(thing: Any) -> Any:
    """Return a copy of a part of the document, with each reference replaced by its target."""
    thing = _followed(thing)
    if isinstance(thing, dict):
        # A discriminator names schemas of the document, and only tells a client which one of them to look at first.
        return {key: _resolved(value) for key, value in thing.items() if key != "discriminator"}
    return [_resolved(value) for value in thing] if isinstance(thing, list) else thing
