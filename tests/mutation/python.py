"""Mutants of Python files, by mutmut's operators.

mutmut's own command would start PostgreSQL, and make the database, for each mutant.
"""

import re
from typing import Any

import libcst as cst
from mutmut.mutation.file_mutation import create_mutations, deep_replace

from tests.mutation.sql import Mutant


def mutants(file: str, text: str) -> list[Mutant]:
    """Return every mutant of a file that may change what a caller does.

    Mutants of prose are left out, for instance of an error's text. So are mutants that only change capital letters in
    the name of a header.
    """
    module, mutations, _, _ = create_mutations(file, text)
    where = cst.metadata.MetadataWrapper(module, unsafe_skip_copy=True).resolve(cst.metadata.PositionProvider)
    lines = text.splitlines()
    found: list[Mutant] = []
    seen: dict[tuple[str, str], int] = {}
    for mutation in mutations:
        original, mutated = mutation.original_node, mutation.mutated_node
        if _is_prose(original) or _is_without_prose(original, mutated) or _is_the_same_header(original, mutated):
            continue
        line = lines[where[original].start.line - 1].strip()
        change = f"{_code(original)} -> {_code(mutated)}"
        seen[line, change] = seen.get((line, change), 0) + 1
        changed: Any = deep_replace(module, original, mutated)
        found.append(Mutant(file, line, change, seen[line, change], changed.code))
    return found


def _is_prose(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Arg):
        node = node.value
    strings = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString)
    return isinstance(node, strings) and " " in _code(node)


def _is_without_prose(original: cst.CSTNode, mutated: cst.CSTNode) -> bool:
    """Return whether the mutant only removed an argument that is prose from a call."""
    if not (isinstance(original, cst.Call) and isinstance(mutated, cst.Call)):
        return False
    kept = {_code(arg.value) for arg in mutated.args}
    lost = [arg for arg in original.args if _code(arg.value) not in kept]
    return len(lost) == 1 and _is_prose(lost[0])


def _is_the_same_header(original: cst.CSTNode, mutated: cst.CSTNode) -> bool:
    header = re.fullmatch(r"""(["'])(WWW|ETag|[A-Z][a-z]+)(-[A-Z][a-z]+)*\1""", _code(original))
    return header is not None and header[0].lower() == _code(mutated).lower()


def _code(node: cst.CSTNode) -> str:
    code = " ".join(cst.Module([]).code_for_node(node).split())
    return code if len(code) <= 70 else f"{code[:40]} … {code[-25:]}"
