"""The tasks for one learner: make add-user, grant-free, grant-course, revoke-free, revoke-course and access."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.errors import ForeignKeyViolation, UndefinedColumn

from app.database import statements
from app.formats import date_time
from app.stripe.mirror import AccessTerms, attach_claimed, lock_claimed
from app.tasks import TaskError, no_course, quoted

Connection = psycopg.Connection[Any]

ACCESS_IN_WORDS = {
    "full": "full access: every published lesson",
    "course": "course access: every published lesson of single courses",
    "free": "free access: the published free lessons",
    None: "no access: not enrolled",
}


def add_user(connection: Connection, user_id: str, email: str | None, name: str | None, terms: AccessTerms) -> str:
    """Add a learner, or keep the learner who is there already. Store the e-mail address and the name, if given.

    A new learner gets what Stripe already keeps for them, by these terms.
    """
    with connection.transaction():
        customers = lock_claimed(connection, user_id)
        added = statements.run(connection, "learners/add", user_id=user_id).fetchone()
        attach_claimed(connection, customers, user_id, terms)
        if email or name:
            given = {"email": email or None, "name": name or None}
            try:
                statements.run(connection, "admin/describe_user", user_id=user_id, **given)
            except UndefinedColumn:
                raise TaskError(
                    "this users table is the site's own and has no such column: leave EMAIL and NAME out"
                ) from None
    return f"{'added' if added else 'is there already:'} {user_id}"


def grant_free(connection: Connection, user_id: str, until: str | None) -> None:
    """Give a learner free access, until a time that end_of_access returned, or without an end."""
    try:
        statements.run(connection, "admin/grant_free", user_id=user_id, expires_at=until)
    except ForeignKeyViolation:
        raise TaskError(f"there is no learner {user_id}; add them with: make add-user") from None


def end_of_access(text: str) -> str:
    """Return the time that UNTIL names: an RFC 3339 date-time, or a date, which means the end of that day in UTC."""
    try:
        day = re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII)
        return date_time(f"{text}T23:59:59.999Z" if day else text).isoformat()
    except (ValueError, OverflowError):
        raise TaskError(
            f"UNTIL={text} is neither a date (2027-01-31) nor an RFC 3339 date-time (2027-01-31T12:00:00Z)"
        ) from None


def revoke_free(connection: Connection, user_id: str) -> bool:
    """End the free access of a learner; a row that has ended stays. Return whether the learner had free access."""
    before = statements.run(connection, "admin/access", user_id=user_id).fetchone()
    try:
        statements.run(connection, "admin/revoke_free", user_id=user_id)
    except ForeignKeyViolation:
        raise TaskError(f"there is no learner {user_id}; add them with: make add-user") from None
    return bool(before and before["free_access"])


def grant_course(connection: Connection, user_id: str, course_id: str, until: str | None) -> None:
    """Give a learner a course, until a time that end_of_access returned, or without an end."""
    given = {"user_id": user_id, "course_id": course_id, "expires_at": until}
    try:
        row = statements.run(connection, "admin/grant_course", **given).fetchone()
    except ForeignKeyViolation:
        raise TaskError(f"there is no learner {user_id}; add them with: make add-user") from None
    if row is None:
        raise no_course(course_id)


def revoke_course(connection: Connection, user_id: str, course_id: str) -> Iterator[str]:
    """End a course that a learner was given by hand or by the site. Yield lines about what else still gives it."""
    row = statements.run(connection, "admin/revoke_course", user_id=user_id, course_id=course_id).fetchone()
    if row is None:
        raise no_course(course_id)
    if not row["was_given"]:
        yield "they did not have this course by hand or by the site"
    sources = [
        given["source"]
        for given in statements.run(connection, "admin/course_access", user_id=user_id)
        if given["course_id"] == course_id and not given["has_ended"]
    ]
    if sources:
        yield f"this course is still given by {', '.join(sources)}; to end that, refund or cancel it at Stripe"


def access(connection: Connection, user_id: str, prices: tuple[str, ...]) -> Iterator[str]:
    """Yield lines that say what access a learner has, and why. `prices` is the setting STRIPE_PRICES."""
    row: dict[str, Any] | None = statements.run(connection, "admin/access", user_id=user_id).fetchone()
    courses = statements.run(connection, "admin/course_access", user_id=user_id).fetchall()
    payments = statements.run(connection, "admin/stripe_payments", user_id=user_id).fetchall()
    subscriptions = statements.run(connection, "admin/stripe_subscriptions", user_id=user_id).fetchall()
    if row is None:
        raise TaskError(f"there is no learner {user_id}; add them with: make add-user")
    yield ACCESS_IN_WORDS[row["access"]]
    # The column names the widest way in alone. The learner may have others too.
    if row["access"] == "full" and not all(course["has_ended"] for course in courses):
        yield ACCESS_IN_WORDS["course"]
    if row["access"] == "course" and row["free_access"]:
        yield ACCESS_IN_WORDS["free"]
    if row["status"] is None:
        yield "subscription: none"
    else:
        yield f"subscription: {row['status']}, period ends {row['current_period_end'] or 'at no known time'}"
    if not row["has_enrollment"]:
        yield "enrollment: none"
    elif not row["free_access"]:
        yield f"enrollment: free access ended {row['expires_at']}"
    else:
        yield f"enrollment: free access {'until ' + row['expires_at'] if row['expires_at'] else 'for ever'}"
    for course in courses:
        line = f"course {quoted(course['title'])} ({course['course_id']}): "
        if course["has_ended"]:
            line += f"ended {course['expires_at']}"
        else:
            line += f"until {course['expires_at']}" if course["expires_at"] else "for ever"
        yield f"{line}, given by {course['source'] or 'hand or by the site'}"
    for payment in payments:
        line = f"{payment['source']} paid for {payment['courses']}"
        line += "; it was refunded or lost in a dispute" if payment["refunded"] else ""
        line += f"; not loaded yet: {payment['unknown']}" if payment["unknown"] else ""
        line += "" if payment["attached"] else "; counts after the learner's next event or make stripe-sync"
        yield f"Stripe said last, at {payment['said_at']}: {line}"
    for subscription in subscriptions:
        line = f"{subscription['stripe_subscription_id']} is {subscription['status']}"
        line += f", period ends {subscription['current_period_end'] or 'at no known time'}"
        # With STRIPE_PRICES, the reader can compare these prices with the setting.
        line += f", for {subscription['prices'] or 'no price'}" if prices else ""
        line += "" if subscription["attached"] else "; counts after its next event or make stripe-sync"
        yield f"Stripe said last, at {subscription['said_at']}: {line}"
    if prices and subscriptions:
        yield f"access is given by: {', '.join(prices)} (STRIPE_PRICES)"
