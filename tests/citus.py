"""The forms of SQL that Citus refuses, or sends to every node. It reads a statement as sqlfluff parses it.

deploy/citus.sql says which table is of which kind.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlfluff

SCRIPT = Path(__file__).parent.parent / "deploy" / "citus.sql"
QUERIES = ("select_statement", "insert_statement", "update_statement", "delete_statement")
# Of the functions that the statements use in such places, those that PostgreSQL calls immutable.
IMMUTABLE = {"coalesce", "greatest", "least"}

INSERT_IN_CTE = "an insert in a CTE: Citus routes only select, update and delete there, and asks every node instead"
EXCEPT = "insert … select … except: Citus refuses it; put the except, or a not exists, into a subquery"
SUBQUERY = "a subquery in values, in do update or in returning of an insert: Citus refuses it"
NOT_IMMUTABLE = "a function that is not immutable in do update, in returning, or on a column in set: Citus refuses it"
JOIN = "a join of learners' tables with tables of the coordinator: Citus refuses it, or fetches all; use a CTE"
CORRELATED = "a correlated subquery over the tables of all learners: Citus refuses it; count in a CTE, and join that"
LOCK = "a lock of several learners in one statement: Citus refuses it; lock each by lock.sql"
SEVERAL_KINDS = "changes of tables of several kinds in one statement: Citus refuses it; write a statement for each kind"
ALL_LEARNERS = "learners' tables without `= user_id`: Citus asks every shard"


@dataclass
class Node:
    """A part of a parsed statement: what sqlfluff calls it, its text, and its parts."""

    kind: str
    text: str = ""
    parts: list["Node"] = field(default_factory=list)

    def all(self) -> Iterator["Node"]:
        for part in self.parts:
            yield part
            yield from part.all()

    def own(self) -> Iterator["Node"]:
        """Yield the parts that do not belong to a query inside of this one."""
        for part in self.parts:
            yield part
            if part.kind not in QUERIES:
                yield from part.own()

    def find(self, *kinds: str) -> list["Node"]:
        return [node for node in self.all() if node.kind in kinds]

    def words(self) -> str:
        return self.text or "".join(part.words() for part in self.parts)


def _node(kind: str, content: Any) -> Node:
    if isinstance(content, str):
        return Node(kind, content.lower())
    records = content if isinstance(content, list) else [content]
    spaces = ("whitespace", "newline", "inline_comment", "block_comment")
    return Node(kind, "", [_node(*item) for record in records for item in record.items() if item[0] not in spaces])


def kinds(script: str = "") -> dict[str, str]:
    """Return the kind of each table, by its name, and of the views: distributed, reference, known or coordinator."""
    script = script or SCRIPT.read_text()
    found = {
        **dict.fromkeys(re.findall(r"create_distributed_table\('(\w+)'", script), "distributed"),
        **dict.fromkeys(re.findall(r"create_reference_table\('(\w+)'", script), "reference"),
        **dict.fromkeys(re.findall(r"citus_add_local_table_to_metadata\('(\w+)'", script), "known"),
    }
    plain = re.search(r"^--   on the coordinator, and plain\n((?:--     .*\n)+)", script, re.M)
    assert plain
    listed = re.findall(r"^--     ((?:\w+, )*\w+)(?=,? (?:because|which) )", plain[1], re.M)
    return found | {name: "coordinator" for names in listed for name in names.split(", ")}


KINDS = {
    **kinds(),
    **dict.fromkeys(("learner_access", "accessible_lessons", "learner_contacts"), "distributed"),
    "published_prerequisites": "reference",
    "paid_courses": "coordinator",
    "imported": "coordinator",  # a temporary table
}


def _tables(query: Node) -> dict[str, str]:
    """Return the tables that a query itself names, by their aliases."""
    tables: dict[str, str] = {}
    last = ""
    for node in query.own():
        if node.kind == "table_reference":
            last = node.words()
            tables[last] = last
        elif node.kind == "alias_expression" and last:
            tables[node.find("naked_identifier")[0].text] = tables.pop(last, last)
            last = ""
        elif node.kind in ("from_expression_element", "where_clause", "keyword"):
            last = last if node.text in ("as", "") and node.kind == "keyword" else ""
    return tables


def _of_kind(tables: dict[str, str], *wanted: str) -> list[str]:
    return [alias for alias, table in tables.items() if KINDS.get(table) in wanted]


def _is_of_one_learner(query: Node, tables: dict[str, str]) -> bool:
    """Return whether a parameter, or another such table, gives the learner of each table of learners."""
    distributed = _of_kind(tables, "distributed")
    words = " ".join(node.text for node in query.own() if node.text).replace(" . ", ".")
    keys = {alias: "id" if tables[alias] == "users" else "user_id" for alias in distributed}
    given = [
        alias
        for alias, key in keys.items()
        if re.search(rf"(?<![\w.])(?:{alias}\.)?{key} = (?:\$\d|\w+\.(?:user_)?id\b)", words)
        or re.search(rf"\b(?:user_)?id = {alias}\.{key}\b", words)
    ]
    return given == distributed and bool(re.search(r"(?<!\w)(?:user_)?id = \$\d", words))


def _is_correlated(inner: Node, outer: dict[str, str]) -> bool:
    own = _tables(inner)
    # Names that inner queries of `inner` define are its own, too.
    for query in inner.find(*QUERIES):
        own |= _tables(query)
    qualifiers = {
        node.parts[0].text for node in inner.find("column_reference") if len(node.parts) > 1 and node.parts[0].text
    }
    return bool(qualifiers & set(outer) - set(own))


def _insert(insert: Node) -> Iterator[str]:
    target = KINDS.get(next(node.words() for node in insert.own() if node.kind == "table_reference"))
    if any(node.kind == "set_operator" and node.words().startswith("except") for node in insert.own()):
        yield EXCEPT
    if target == "coordinator":
        return
    returning = False
    for part in insert.parts:
        returning = returning or part.text == "returning"
        if returning or part.kind in ("values_clause", "conflict_action"):
            if part.find("select_statement"):
                yield SUBQUERY
            if part.kind != "values_clause" and _functions(part):
                yield NOT_IMMUTABLE


def _functions(node: Node) -> bool:
    return any(name.words() not in IMMUTABLE for name in node.find("function_name"))


def _change(change: Node) -> Iterator[str]:
    """Look at an update or a delete."""
    if KINDS.get(next(node.words() for node in change.own() if node.kind == "table_reference")) == "coordinator":
        return
    returning = False
    for part in change.parts:
        returning = returning or part.text == "returning"
        calls = part.find("function") if part.kind == "set_clause_list" else []
        on_columns = [call for call in calls if call.find("column_reference")]
        if (returning and _functions(part)) or any(_functions(call) for call in on_columns):
            yield NOT_IMMUTABLE


def refused(statement: str) -> set[str]:
    """Return why Citus does not take a statement, or asks every shard for it; nothing if it routes the statement."""
    # To parse a file takes a tenth of a second. These are taken whatever their form is.
    names = "|".join(name for name, kind in KINDS.items() if kind in ("distributed", "known"))
    if not re.search(rf"\b(?:{names}|insert)\b", re.sub("--.*", "", statement)):
        return set()
    tree = _node("file", sqlfluff.parse(statement, dialect="postgres"))
    found: set[str] = set()
    for cte in tree.find("common_table_expression"):
        if cte.find("insert_statement"):
            found.add(INSERT_IN_CTE)
    changes = tree.find("insert_statement", "update_statement", "delete_statement")
    changed = {next(node.words() for node in change.own() if node.kind == "table_reference") for change in changes}
    if len({KINDS[table] for table in changed}) > 1:
        found.add(SEVERAL_KINDS)
    for query in tree.find(*QUERIES):
        tables = _tables(query)
        joined = dict(tables)
        one_learner = _is_of_one_learner(query, tables)
        for inner in query.find("select_statement"):
            if _is_correlated(inner, tables):
                theirs = _tables(inner)
                joined |= theirs
                if _of_kind(theirs, "distributed") and not _is_of_one_learner(inner, theirs):
                    found.add(CORRELATED)
        if _of_kind(joined, "distributed") and _of_kind(joined, "coordinator", "known"):
            found.add(JOIN)
        if query.kind == "insert_statement":
            found.update(_insert(query))
        elif query.kind != "select_statement":
            found.update(_change(query))
        if query.kind != "insert_statement" and _of_kind(tables, "distributed") and not one_learner:
            found.add(ALL_LEARNERS)
            if any(node.kind == "for_clause" for node in query.own()):
                found.add(LOCK)
    return found
