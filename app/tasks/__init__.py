"""The tasks that make targets run on data, with a file for each subject. app/cli.py is the command that runs them.

A task takes checked values, and a connection if it needs one. It returns the lines to print.
"""


class TaskError(Exception):
    """A task cannot be done. The text is for the person who ran it, and says what to do."""
