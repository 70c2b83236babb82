"""The courses of the demo: two real curricula."""

import json
from pathlib import Path
from typing import Any

CATALOGS = Path(__file__).parent / "catalogs"
JAVASCRIPT = "8b8f4f0c-5a5e-4b0f-9d6a-6f1f0c7e2d31"
ODIN = "2f6c1f0a-8f0e-4c53-a0a4-0d0a3c6b7e15"
# The id, the title and the file of each course, in catalog order.
COURSES = [(JAVASCRIPT, "JavaScript", "exercism-javascript"), (ODIN, "The Odin Project", "odin")]


def catalog() -> dict[str, Any]:
    """Return the catalog file of the demo (contract §7), in which each curriculum is a course."""
    return {"courses": [{"id": id, "title": title, "modules": _modules(name)} for id, title, name in COURSES]}


def _modules(name: str) -> Any:
    return json.loads((CATALOGS / f"{name}.json").read_text("utf-8"))["modules"]
