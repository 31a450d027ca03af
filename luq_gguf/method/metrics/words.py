"""The words of an answer, for comparing it with another in any case, punctuation, markup and Unicode form.

Punctuation of sentences is dropped, but not what carries meaning: -5 is not 5, C++ not C#, 3.5 not 3-5, 50% not 50.
Marks that belong to letters (Hindi, Thai) are letters.
"""

from __future__ import annotations

import re
import unicodedata

_JOINERS = (
    "\u200c\u200d"  # they decide how letters of Persian and Indic scripts are joined; other formats are invisible
)
_ASCII = (
    {0xFF01 + at: 0x21 + at for at in range(94)} | dict.fromkeys(map(ord, "\u2019\u2018\u02bc"), "'") | {0x2212: "-"}
)
_MARKS = {"Po", "Ps", "Pe", "Pi", "Pf", "Pd", "Pc"}  # Unicode categories of punctuation
_MEANINGFUL = "%&@\\\u2030\u00a7"  # punctuation to Unicode, and a sign to people
_UNIT = re.compile(r"(?<=\d)\s+(?=[%\u2030\u00b0])")


def canonical(text: str) -> str:
    """Return a text in one Unicode form (NFC), case-folded, with ASCII's signs for their wide and curly forms."""
    text = unicodedata.normalize("NFC", text).translate(_ASCII)
    categories = ((character, unicodedata.category(character)) for character in text)
    shown = "".join(
        "-" if category == "Pd" else character
        for character, category in categories
        if category != "Cf" or character in _JOINERS
    )
    return unicodedata.normalize("NFC", shown.casefold())


def words(text: str) -> list[str]:
    """Return the words and signs of a text; none of one that is punctuation alone."""
    text = _UNIT.sub("", canonical(text))
    padded = f" {text} "
    kept = [
        character if not _is_dropped(padded[at], character, padded[at + 2]) else " "
        for at, character in enumerate(text)
    ]
    return "".join(kept).split()


def _is_dropped(before: str, character: str, after: str) -> bool:
    """Whether a character between two others is punctuation that only separates words."""
    if character == "`":
        return True
    if unicodedata.category(character) not in _MARKS or character in _MEANINGFUL:
        return False
    inside = _is_word(before) and _is_word(after)
    digits = before.isdigit() and after.isdigit()
    if character == "-":  # a sign, a range or a grade (A-), and not a hyphen or a dash
        return not digits and (inside or not (_is_word(before) or _is_word(after) or after == "."))
    if character == ".":
        return not (after.isdigit() and not before.isalpha())
    if character == "#":
        return not (_is_word(before) or _is_word(after))
    if character == "!":
        return after != "="
    if character in "'_*":  # within words; around them it quotes and marks up
        return not inside
    return not (digits and character in ",:/")


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M") or character in _JOINERS


def same(first: str, second: str) -> bool:
    """Whether two texts have the same words; of texts without any, whether they have the same characters."""
    one, other = words(first), words(second)
    if one or other:
        return one == other
    return canonical(first).split() == canonical(second).split()
