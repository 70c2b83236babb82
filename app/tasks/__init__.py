"""The tasks that make targets run on data, with a file for each subject. app/cli.py is the command that runs them.

A task takes checked values, and a connection if it needs one. It returns the lines to print.
"""

import json


class TaskError(Exception):
    """A task cannot be done. The text is for the person who ran it, and says what to do."""


def quoted(title: str) -> str:
    """Return a title between quotation marks, on one line also if the title has a line break."""
    return json.dumps(title, ensure_ascii=False)


def no_course(course_id: str) -> TaskError:
    """Return the error of a task that names a course which is not there."""
    return TaskError(f"there is no course {course_id}; add it with: make load-catalog")
