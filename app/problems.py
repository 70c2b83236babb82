"""What an error answer says (contract §4): its status, its detail and its code."""

from typing import Any

# code: status, and the detail, which says what to do. The place that raises a problem may give a more exact detail.
CODES = {
    "unauthenticated": (401, "Sign in: send the site's session cookie, or Authorization: Bearer <token>."),
    "other_learner": (
        412,
        "The Learner-Tag of this request is not the tag of the learner who is signed in, so nothing was stored. Read"
        " the progress again, then send the Learner-Tag of that answer.",
    ),
    "cross_site_request": (
        403,
        "A page of another origin must not write with a cookie. Call from a page of the site itself, or ask the"
        " operator to add the origin to ALLOWED_ORIGINS.",
    ),
    "rate_limited": (429, "Too many writes in a short time. Try again after Retry-After seconds."),
    "invalid_lesson_id": (400, "The lesson id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_module_id": (400, "The module id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_course_id": (400, "The course id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_include": (400, "Let include name completions, courses or both, each once, with a comma between them."),
    "invalid_idempotency_key": (400, "Send an Idempotency-Key of 1 to 255 visible ASCII characters, or none."),
    "body_too_large": (413, "Send a body of 16 KiB at most."),
    "unsupported_media_type": (415, "Send the body as Content-Type: application/json."),
    "invalid_body": (400, 'Send no body, {}, or { "completedAt": "2026-11-23T08:42:30.123Z" }.'),
    "confirmation_required": (
        400,
        "This call removes the marks of all lessons, so it must say ?all=true. To unmark one lesson, put its id into"
        " the path: a path with an empty id, /lessons/, often arrives as /lessons.",
    ),
    "not_enrolled": (403, "Progress needs an active subscription, a course, or an enrollment in the free lessons."),
    "lesson_not_found": (404, "There is no lesson with this id."),
    "module_not_found": (404, "There is no module with this id that has lessons for this learner."),
    "course_not_found": (404, "There is no course with this id that has lessons for this learner."),
    "lesson_not_available": (400, "This lesson is unpublished, or this learner has no access to it."),
    "lesson_locked": (409, "First complete the lessons that are listed in prerequisites."),
    "invalid_signature": (
        400,
        "The Stripe-Signature header is missing, too old, or not made with the secret of this endpoint"
        " (STRIPE_WEBHOOK_SECRET).",
    ),
    "not_found": (404, "There is nothing at this path. All calls are under /api/progress."),
    "method_not_allowed": (405, "Use one of the methods in the Allow header."),
    "internal_error": (500, "The service failed. Try again. If it fails again, send the X-Request-Id to its operator."),
    "unavailable": (503, "The storage of the service does not answer in time. Try again after Retry-After seconds."),
}

RETRY_AFTER = "2"


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An error answer. `code` is a key of CODES.

    `members` go into the document, `headers` into the response, and `error` into the log alone.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        headers: dict[str, str] | None = None,
        error: str = "",
        **members: Any,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status, usual_detail = CODES[code]
        self.detail = detail or usual_detail
        self.headers = headers or {}
        self.error = error
        self.members = members
