"""What the make targets do with data, a file for each subject. app/cli.py is the command that runs them.

A task takes values that are checked already, and a connection if it needs one. It returns the lines to print.
"""


class TaskError(Exception):
    """A task cannot be done. The text is for the person who ran it, and says what to do."""
