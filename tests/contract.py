"""Every answer of the suite is held against app/openapi.yaml: the tests' client checks each before a test sees it."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from flask.testing import FlaskClient
from openapi_core import Config, OpenAPI
from openapi_core.contrib.werkzeug import WerkzeugOpenAPIRequest, WerkzeugOpenAPIResponse
from openapi_core.exceptions import OpenAPIError
from werkzeug.test import TestResponse, create_environ
from werkzeug.wrappers import Request

PATH = Path(__file__).parent.parent / "app" / "openapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
OPENAPI = OpenAPI.from_file_path(
    str(PATH),
    Config(
        extra_media_type_deserializers={
            "application/problem+json": json.loads,
            "application/yaml": yaml.safe_load,
            "text/javascript": bytes.decode,
        },
    ),
)


class Client(FlaskClient):
    """A client whose every answer is as the contract in writing says, or the test fails."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        check(response)
        return response


def operation(path: str, method: str) -> tuple[str, dict[str, Any]] | None:
    """The path template and the operation that the document has for a request; HEAD is as GET."""
    for template, item in DOCUMENT["paths"].items():
        parts, given = template.split("/"), path.split("/")
        if len(parts) == len(given) and all(p == g or (p[:1] == "{" and g) for p, g in zip(parts, given, strict=True)):
            method = {"HEAD": "get"}.get(method, method.lower())
            return (template, item[method]) if method in item else None
    return None


def check(response: TestResponse) -> None:
    """Raise AssertionError for an answer that the document does not describe: status, headers, content type, body."""
    request = response.request
    if request.method == "OPTIONS" and response.status_code == 204:  # a preflight, which is CORS' own
        return
    path = request.environ["PATH_INFO"]
    found = operation(path, request.method)
    code = code_of(response.mimetype, response.data)
    documented = described(path, request.method, response.status_code, code)
    if found and code != "not_found" and request.method != "HEAD" and response.status_code != 304:
        template = found[0]
        try:
            # A request like it: the real one's body has been read, and its path may hold anything.
            like = Request(create_environ(template, method=request.method))
            OPENAPI.validate_response(WerkzeugOpenAPIRequest(like), WerkzeugOpenAPIResponse(response))
        except OpenAPIError as error:
            reasons = [str(error), *(str(cause) for cause in getattr(error.__cause__, "schema_errors", []))]
            raise AssertionError(f"{request.method} {template}: {'; '.join(reasons)}") from error
    check_headers(documented, response.headers.keys())


def code_of(mimetype: str | None, data: bytes) -> str | None:
    """The code of a problem document, None of anything else."""
    return json.loads(data)["code"] if mimetype == "application/problem+json" and data else None


def described(path: str, method: str, status: int, code: str | None) -> dict[str, Any]:
    """What the document says of such an answer; raises AssertionError, or KeyError, where it says nothing."""
    found = operation(path, method)
    if found is None or code == "not_found":
        name = {404: "NotFound", 405: "MethodNotAllowed"}[status]
        documented: dict[str, Any] = DOCUMENT["components"]["responses"][name]
    else:
        documented = _resolve(found[1]["responses"][str(status)])
    # The codes that a response documents are its examples' names.
    examples = documented.get("content", {}).get("application/problem+json", {}).get("examples", {})
    assert code is None or code in examples, f"{code} is not documented for {method} {path}"
    return documented


# Of HTTP itself, of the server, and of CORS, which is described once for all.
OF_NO_CALL = re.compile(
    r"(Content-Type|Content-Length|Transfer-Encoding|Date|Server|Connection|Access-Control-.*)", re.I
)


def check_headers(documented: dict[str, Any], headers: Iterable[str]) -> None:
    """Raise AssertionError for a header that is documented and not there, or there and not documented."""
    headers = list(headers)
    about = {name.lower(): _resolve(header) for name, header in documented.get("headers", {}).items()}
    for name, header in about.items():
        assert name in {given.lower() for given in headers} or not header.get("required"), f"no {name}"
    undocumented = {name for name in headers if name.lower() not in about and not OF_NO_CALL.fullmatch(name)}
    assert not undocumented, f"not documented: {', '.join(sorted(undocumented))}"


def _resolve(thing: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in thing:
        return thing
    found: Any = DOCUMENT
    for step in thing["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    resolved: dict[str, Any] = found
    return resolved
