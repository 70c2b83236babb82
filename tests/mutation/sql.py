"""Mutants of the files of sql/. A mutant has one change: of an `and`, a comparison, a join, a filter or the like."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# The tokens of a statement. Comments, literals and quoted names come first, so that nothing inside of them is changed.
TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<literal>:?'(?:[^']|'')*')|(?P<quoted>\"[^\"]*\")|(?P<number>\b\d+\b)|(?P<word>\w+)"
    r"|(?P<operator><=|>=|=>|!=|<>|::|\|\||->|[<>=*/+-])|(?P<mark>[^\s\w])",
)

# What replaces each word or operator. A result that PostgreSQL cannot prepare, such as `set a != b`, is not tried.
WORDS = {
    "and": ["or"],
    "or": ["and"],
    "not": [""],
    "exists": ["not exists"],
    "in": ["not in"],
    "null": ["not null"],
    "true": ["false"],
    "false": ["true"],
    "distinct": ["", "not distinct"],
    "asc": ["desc"],
    "desc": ["asc"],
    "last": ["first"],
    "union": ["union all"],
    "except": ["except all"],
    "inner": ["left"],
    "left": ["inner"],
    "cross": ["natural left"],
    "full": ["left", "right", "inner"],
    "least": ["greatest"],
    "min": ["max"],
    "sum": ["max"],
    "=": ["!="],
    "!=": ["="],
    "<": ["<=", ">"],
    ">": [">=", "<"],
    "<=": ["<", ">"],
    ">=": [">", "<"],
    "+": ["-"],
    "-": ["+"],
    "*": ["+"],
    "/": ["*"],
}


# A change: its start and its end in the text, the new text between them, and its name. An empty name means that the old
# and the new text are the name.
Change = tuple[int, int, str, str]


class Mutant(NamedTuple):
    """A statement with one change: the original line, the change, and the text of the changed statement."""

    name: str  # of the file, without .sql
    line: str
    change: str
    occurrence: int  # of the same change to the same line, in this file
    text: str

    def id(self) -> str:
        """Return a name that stays the same when another line of the file is edited."""
        return f"{self.line} | {self.change}" + (f" | {self.occurrence}" if self.occurrence > 1 else "")


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def mutants(name: str, text: str) -> list[Mutant]:
    """Return every mutant of a statement, in the order of the file. PostgreSQL may be unable to prepare some."""
    found: list[Mutant] = []
    seen: dict[tuple[str, str], int] = {}
    for start, end, new, what in sorted(_changes(text)):
        mutated = text[:start] + new + text[end:]
        line = text[text.rfind("\n", 0, start) + 1 : text.find("\n", start)].strip()
        change = what or f"{_one_line(text[start:end])} -> {_one_line(new)}"
        seen[line, change] = seen.get((line, change), 0) + 1
        found.append(Mutant(name, line, change, seen[line, change], mutated))
    return found


def _one_line(text: str) -> str:
    joined = " ".join(re.sub(r"--[^\n]*", "", text).split())
    return joined if len(joined) <= 70 else f"{joined[:40]} … {joined[-25:]}"


def _changes(text: str) -> Iterator[Change]:
    tokens = [
        Token(str(match.lastgroup), match[0], match.start(), match.end())
        for match in TOKEN.finditer(text)
        if match.lastgroup != "comment"
    ]
    words = [token.text.lower() if token.kind == "word" else token.text for token in tokens]
    for at, token in enumerate(tokens):
        if token.kind == "number":
            yield token.start, token.end, str(int(token.text) + 1), ""
        elif token.kind == "literal" and re.fullmatch(r"'[a-z]{3,}'", token.text):
            yield token.start, token.end, f"{token.text[:-1]}_'", ""
        elif token.kind in ("word", "operator"):
            for new in WORDS.get(words[at], []):
                if words[at] != "exists" or words[at - 1] != "not":  # `not` before it already has this mutant
                    yield token.start, token.end, new, "" if new else f"without {words[at]}"
        yield from _clauses(tokens, words, at)


def _clauses(tokens: list[Token], words: list[str], at: int) -> Iterator[Change]:
    """Yield the changes to the clause or expression that begins at a token."""
    start, word = tokens[at].start, words[at]
    following = words[at + 1] if at + 1 < len(words) else ""

    def without(first: int, stops: set[str], separator: str, before: str) -> Iterator[Change]:
        """Yield a change that removes the whole list, and then a change for each part that removes the part."""
        parts = _split(tokens, words, first, {*stops, separator}, separator)
        end = tokens[parts[-1][1]].end
        if before != "set":
            yield start, end, "", f"without {before}"
        for part in parts if len(parts) > 1 else ():
            rest = [_text(tokens, *other) for other in parts if other != part]
            joined = f" {separator} ".join(rest) if separator == "and" else ", ".join(rest)
            yield start, end, f"{before} {joined}", f"{before} without {_one_line(_text(tokens, *part))}"

    if word in ("coalesce", "nullif", "date_trunc") and following == "(":
        arguments = _split(tokens, words, at + 2, {","}, ",")
        text = [_text(tokens, *argument) for argument in arguments]
        for argument in {"coalesce": text, "nullif": text[:1], "date_trunc": text[1:]}[word]:
            yield start, tokens[arguments[-1][1] + 1].end, argument, f"{word}(…) -> {_one_line(argument)}"
    elif word == "filter" and following == "(":
        close = _end(tokens, words, at + 2, set()) + 1
        condition = _text(tokens, at + 3, close - 1)
        yield start, tokens[close].end, "", f"without filter {_one_line(condition)}"
        yield start, tokens[close].end, f"filter (where not ({condition}))", f"filter not {_one_line(condition)}"
    elif word == "order" and following == "by":
        yield from without(at + 2, {"limit", "for"}, ",", "order by")
        for _, last in _split(tokens, words, at + 2, {",", "limit", "for"}, ","):
            if words[last] not in ("asc", "desc", "last"):
                yield tokens[last].end, tokens[last].end, " desc", f"{_one_line(words[last])} desc"
    elif word in ("where", "having"):
        yield from without(
            at + 1, {"group", "order", "limit", "returning", "union", "on", "having", "for"}, "and", word
        )
    elif word == "limit":
        yield start, tokens[at + 1].end, "", "without limit"
    elif word == "for" and following in ("update", "no"):
        last = _end(tokens, words, at + 1, set())
        yield start, tokens[last].end, "", f"without {_one_line(_text(tokens, at, last))}"
        if words[last] == "locked":
            yield tokens[last - 1].start, tokens[last].end, "", "without skip locked"
    elif word == "set" and following != "true":
        yield from without(at + 1, {"where", "from", "returning"}, ",", "set")
    elif words[at : at + 3] == ["do", "update", "set"]:
        yield start, tokens[_end(tokens, words, at + 3, {"returning"})].end, "do nothing", "do nothing"
    elif word == "when":
        then = words.index("then", at)
        last = _end(tokens, words, then + 1, {"when", "else", "end"})
        yield start, tokens[last].end, "", f"without {_one_line(_text(tokens, at, last))}"


def _end(tokens: list[Token], words: list[str], first: int, stops: set[str]) -> int:
    """Return the last token of the clause that begins at `first`: it ends before a stop or a closing bracket."""
    depth = 0
    for at in range(first, len(tokens)):
        if words[at] in ("(", "["):
            depth += 1
        elif words[at] in (")", "]"):
            if depth == 0:
                return at - 1
            depth -= 1
        elif depth == 0 and (words[at] in stops or words[at] == ";"):
            return at - 1
    return len(tokens) - 1


def _split(tokens: list[Token], words: list[str], first: int, stops: set[str], separator: str) -> list[tuple[int, int]]:
    """Return the parts of the list that begins at `first`, each as its first and its last token."""
    parts = []
    while True:
        last = _end(tokens, words, first, stops)
        parts.append((first, last))
        if last + 1 >= len(tokens) or words[last + 1] != separator:
            return parts
        first = last + 2


def _text(tokens: list[Token], first: int, last: int) -> str:
    """Return the tokens from `first` to `last` as SQL on one line, without comments."""
    parts = []
    for before, token in zip([None, *tokens[first:last]], tokens[first : last + 1], strict=True):
        parts.append(("" if before is None or before.end == token.start else " ") + token.text)
    return "".join(parts)
