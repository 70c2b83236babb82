"""Text for a terminal: how wide it is, and how it stays on its line."""

import itertools
import unicodedata

COLUMNS = 100  # that a line has at most

JOINERS = "\u200c\u200d"  # some scripts and emoji need them
EMOJI_PRESENTATION = "\ufe0f"


def cut(text: str, width: int) -> str:
    """Return a text on one line and no wider than `width` columns of a terminal. `…` is in the place of the rest."""
    text = plain(text)
    if width_of(text) <= width:
        return text
    widths = itertools.accumulate(map(_character_width, text))
    return "".join(each for each, end in zip(text, widths, strict=True) if end < width) + "…"


def plain(text: str) -> str:
    """Return a text without characters that move the cursor, or change the direction, the colours or the line."""
    spaced = "".join(" " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each for each in text)
    return "".join(each for each in spaced if unicodedata.category(each) != "Cf" or each in JOINERS)


def width_of(text: str) -> int:
    """Return how many columns a terminal needs for a text, or a little more for a sequence of joined emoji."""
    return sum(_character_width(each) for each in text)


def _character_width(character: str) -> int:
    if character == EMOJI_PRESENTATION:  # makes the character before it as wide as an emoji
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
