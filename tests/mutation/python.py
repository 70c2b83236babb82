"""Mutants of Python files, by mutmut's operators, within functions.

mutmut's own command would start PostgreSQL, and make the database, for each mutant.
"""

from typing import Any

import libcst as cst
from mutmut.mutation.file_mutation import create_mutations, deep_replace

from tests.mutation.sql import Mutant


def mutants(file: str, text: str) -> list[Mutant]:
    """Every mutant of a file, but for those of prose: what an error says is not what a caller acts on."""
    module, mutations, _, _ = create_mutations(file, text)
    where = cst.metadata.MetadataWrapper(module, unsafe_skip_copy=True).resolve(cst.metadata.PositionProvider)
    lines = text.splitlines()
    found: list[Mutant] = []
    seen: dict[tuple[str, str], int] = {}
    for mutation in mutations:
        original, mutated = mutation.original_node, mutation.mutated_node
        if _is_prose(original):
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


def _code(node: cst.CSTNode) -> str:
    code = " ".join(cst.Module([]).code_for_node(node).split())
    return code if len(code) <= 70 else f"{code[:40]} … {code[-25:]}"
