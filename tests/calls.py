"""The learner's calls, read from app/openapi.yaml. So every test of all calls also tests a call that is added later."""

from typing import Any
from urllib.parse import urlencode

from tests.contract import DOCUMENT
from tests.world import uuid4

PREFIX = "/api/progress/"
# The ids that replace the parameters of a path, unless a test gives others.
IDS = {"courseId": [uuid4(3)], "moduleId": [uuid4(1)], "lessonId": [uuid4(2)]}


def calls(**ids: list[str]) -> list[tuple[str, str]]:
    """Return the method and the path below PREFIX of each call, once for each id, with the query that it must have.

    The ids are `courseId=[…]`, `moduleId=[…]` and `lessonId=[…]`.
    """
    return [
        (method.upper(), path + query(item[method]))
        for template, item in DOCUMENT["paths"].items()
        if template.startswith(PREFIX)
        for path in _filled_in(template.removeprefix(PREFIX), IDS | ids)
        for method in item
        if method in ("get", "post", "delete")
    ]


def needed(method: str, path: str) -> dict[str, Any]:
    """Return what a call needs besides its method and its path, as options of the client: a body, or nothing."""
    many_marks = {"json": {"lessons": [{"lessonId": uuid4(2)}]}}
    return many_marks if (method, path) == ("POST", "lessons") else {}


def _filled_in(template: str, ids: dict[str, list[str]]) -> list[str]:
    paths = [template]
    for name, values in ids.items():
        if f"{{{name}}}" in template:
            paths = [path.replace(f"{{{name}}}", value) for path in paths for value in values]
    return paths


def query(operation: dict[str, Any]) -> str:
    """Return the query with the parameters that an operation requires, with the values of their examples."""
    parameters = operation.get("parameters", ())
    required = [(one["name"], one["example"]) for one in parameters if one.get("in") == "query" and one["required"]]
    return f"?{urlencode(required)}" if required else ""


def reads(**ids: list[str]) -> list[str]:
    """Return the path of each call that reads."""
    return [path for method, path in calls(**ids) if method == "GET"]


def writes(**ids: list[str]) -> list[tuple[str, str]]:
    """Return the method and the path of each call that writes."""
    return [call for call in calls(**ids) if call[0] != "GET"]
