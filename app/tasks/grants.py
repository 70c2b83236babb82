"""The rights of the service's role: make grants. It runs deploy/grants.sql, so that an image needs no psql."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

SCRIPT = Path(__file__).parent.parent.parent / "deploy" / "grants.sql"

# psql's variables: as a literal, as an identifier, whether it is set, as it is. A cast has two colons.
VARIABLE = re.compile(r"""(?<!:):(?:'(\w+)'|"(\w+)"|\{\?(\w+)\}|(\w+))""")


def grant(connection: psycopg.Connection[Any], role: str, for_reports: bool = False) -> Iterator[str]:
    r"""Run deploy/grants.sql for a role, as psql does. Return the lines that it warns of, each as soon as it comes.

    The role is the service's, or with `for_reports` one that can only run the reports.

    Understands what that script uses of psql: variables, \gset, \gexec, \if, \else, \endif and \warn. Each statement
    ends at the end of a line. The rows of `connection` are dicts. Raises psycopg.Error where psql stops.
    """
    variables = {"role": role} | ({"reports": "on"} if for_reports else {})
    conditions: list[bool] = []  # of the \if around the line, from the outermost to the innermost
    statement = ""

    def replace(found: re.Match[str]) -> str:
        literal, identifier, asked, plain = found.groups()
        if asked:
            return "t" if asked in variables else "f"
        if (literal or identifier or plain) not in variables:
            return found[0]
        if literal:
            return sql.Literal(variables[literal]).as_string(connection)
        return sql.Identifier(variables[identifier]).as_string(connection) if identifier else variables[plain]

    for line in SCRIPT.read_text("utf-8").splitlines():
        command, _, argument = line.partition(" ")
        if command == r"\if":
            # A condition inside of a part that is left out is not looked at.
            conditions.append(all(conditions) and VARIABLE.sub(replace, argument) == "t")
        elif command == r"\else":
            conditions[-1] = not conditions[-1]
        elif command == r"\endif":
            conditions.pop()
        elif not all(conditions) or command in ("--", r"\set"):
            continue
        elif command == r"\warn":
            yield argument.strip("'") if argument.startswith("'") else VARIABLE.sub(replace, argument)
        elif command == r"\gset":
            [row] = connection.execute(statement.encode())
            statement = ""
            for name, value in row.items():
                variables.pop(name, None)
                if value is not None:
                    variables[name] = str(value)[0].lower() if isinstance(value, bool) else str(value)
        elif command == r"\gexec":
            for row in connection.execute(statement.encode()).fetchall():
                for value in row.values():
                    connection.execute(value.encode())
            statement = ""
        elif command.startswith("\\"):
            raise ValueError(f"{SCRIPT}: {command} is not understood here")
        else:
            statement += VARIABLE.sub(replace, line) + "\n"
            if statement.endswith(";\n"):
                connection.execute(statement.encode())
                statement = ""
