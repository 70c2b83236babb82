"""Checks of what a caller sends: the ids in the path, the Idempotency-Key, the body. A wrong value is a 4xx."""

import json
from typing import Any

from flask import request
from marshmallow import Schema, ValidationError, fields
from werkzeug.exceptions import RequestEntityTooLarge

from app import formats
from app.answers import valid_idempotency_key
from app.problems import Problem

MAX_BODY_BYTES = 16 * 1024
MAX_MANY_MARKS_BODY_BYTES = 64 * 1024
MAX_MANY_MARKS = 500

# What an outline may include, in the order in which the answer has it. Each is the name of a statement too.
INCLUDABLE = ("completions", "courses")


def lesson_id(text: str) -> str:
    """Return the lesson id of the path unchanged. Raise Problem invalid_lesson_id if it is not a UUID version 4."""
    if not formats.UUID4.fullmatch(text):
        raise Problem("invalid_lesson_id")
    return text


def module_id(text: str) -> str:
    """Return the module id of the path unchanged. Raise Problem invalid_module_id if it is not a UUID version 4."""
    if not formats.UUID4.fullmatch(text):
        raise Problem("invalid_module_id")
    return text


def course_id(text: str) -> str:
    """Return the course id of the path unchanged. Raise Problem invalid_course_id if it is not a UUID version 4."""
    if not formats.UUID4.fullmatch(text):
        raise Problem("invalid_course_id")
    return text


def include() -> list[str]:
    """Return the names in `include` of the query, in the order of INCLUDABLE; none if the query has no `include`.

    Raises Problem invalid_include if a name is unknown, empty or there twice.
    """
    # Some clients write a list as one parameter with commas, and some as a parameter for each name.
    names = [name for value in request.args.getlist("include") for name in value.split(",")]
    included = [name for name in INCLUDABLE if name in names]
    if len(included) != len(names):
        raise Problem("invalid_include")
    return included


def idempotency_key() -> None:
    """Raise Problem invalid_idempotency_key if the request has an Idempotency-Key that is not valid."""
    if "Idempotency-Key" in request.headers and valid_idempotency_key() is None:
        raise Problem("invalid_idempotency_key")


def body(max_bytes: int = MAX_BODY_BYTES, detail: str | None = None) -> bytes | None:
    """Return the body of the request. Return None if the body is cut off or its chunks are malformed.

    Raises Problem body_too_large, with this `detail`, if the body has more than `max_bytes` bytes.
    """
    # Werkzeug cuts a longer chunked body off at this length, without an error. One byte more than the limit tells a
    # body that was cut from a body that just fits.
    request.max_content_length = max_bytes + 1
    try:
        data = request.get_data()
    except RequestEntityTooLarge:
        raise Problem("body_too_large", detail) from None
    # gunicorn and Werkzeug raise many kinds of errors for a body that is cut off or wrongly chunked. The caller is the
    # cause of all of them.
    except Exception:  # noqa: BLE001
        return None
    if len(data) > max_bytes:
        raise Problem("body_too_large", detail)
    return data


def confirmation() -> None:
    """Raise Problem confirmation_required unless the query of the request says `all=true`, and `all` nothing else."""
    if set(request.args.getlist("all")) != {"true"}:
        raise Problem("confirmation_required")


def mark_body() -> str | None:
    """Return the `completedAt` of a mark's body as text in UTC for PostgreSQL. Return None if the body has none.

    Raises Problem body_too_large, unsupported_media_type or invalid_body. The last one has the member `errors`, which
    maps each wrong field to its messages.
    """
    try:
        completed_at: str | None = _MARK.load(_json_object(body())).get("completed_at")
    except ValidationError as error:
        raise Problem("invalid_body", errors=error.messages) from None
    return completed_at


def many_marks_body() -> tuple[list[str], list[str | None]]:
    """Return the lesson ids of a body with many marks, in lower case, and for each its `completedAt` as in mark_body.

    Raises the same problems as mark_body. `errors` names an entry of the list by its index, from 0.
    """
    data = body(MAX_MANY_MARKS_BODY_BYTES, f"Send a body of {MAX_MANY_MARKS_BODY_BYTES // 1024} KiB at most.")
    try:
        entries = _MANY_MARKS.load(_json_object(data))["lessons"]
    except ValidationError as error:
        detail = (
            'Send { "lessons": [{ "lessonId": "97bf898a-36fc-47fc-b870-01fc0c7fe554" }] }'
            f" with 1 to {MAX_MANY_MARKS} lessons, each of them once."
        )
        raise Problem("invalid_body", detail, errors=error.messages) from None
    return [entry["lesson_id"] for entry in entries], [entry.get("completed_at") for entry in entries]


def _json_object(data: bytes | None) -> dict[str, Any]:
    """Return the JSON object of a body. An empty body counts as an empty object."""
    if data is None:
        raise Problem("invalid_body", "The body could not be read to its end.", errors={})
    if not data:
        return {}
    if not request.is_json:
        raise Problem("unsupported_media_type")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Problem("invalid_body", "The body is not JSON in UTF-8.", errors={}) from None
    if not isinstance(document, dict):
        raise Problem("invalid_body", "The body must be a JSON object.", errors={})
    return document


class _CompletedAt(fields.Field[str]):
    """A `completedAt` in a body. It is converted to UTC."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("Must be a string.")
        try:
            return formats.completed_at(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


class _Mark(Schema):
    completed_at = _CompletedAt(data_key="completedAt", allow_none=True)


class _LessonId(fields.Field[str]):
    """A lesson id in a body. It is converted to lower case."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not formats.UUID4.fullmatch(value):
            raise ValidationError("Must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits.")
        return value.lower()


class _MarkOfMany(_Mark):
    lesson_id = _LessonId(data_key="lessonId", required=True)


class _Entries(fields.Field[list[dict[str, Any]]]):
    """The list of many marks. Its errors are by index."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        # Checked first: the errors of many thousand entries would make an answer of megabytes.
        if not 1 <= len(value) <= MAX_MANY_MARKS:
            raise ValidationError(f"Must have 1 to {MAX_MANY_MARKS} lessons.")
        loaded: list[dict[str, Any]] = []
        errors: dict[int, Any] = {}
        seen: dict[str, int] = {}
        for index, entry in enumerate(value):
            if not isinstance(entry, dict):
                errors[index] = ["Must be a JSON object."]
                continue
            try:
                valid = _MARK_OF_MANY.load(entry)
            except ValidationError as error:
                errors[index], valid = error.messages, error.valid_data
            lesson_id = valid.get("lesson_id")
            if lesson_id in seen:
                errors.setdefault(index, {})["lessonId"] = [f"Is the lesson of entry {seen[lesson_id]} already."]
            elif lesson_id:
                seen[lesson_id] = index
            loaded.append(valid)
        if errors:
            raise ValidationError(errors)
        return loaded


class _ManyMarks(Schema):
    lessons = _Entries(required=True)


# Built once, because building a schema costs more than checking a body with it.
_MARK, _MARK_OF_MANY, _MANY_MARKS = _Mark(), _MarkOfMany(), _ManyMarks()
