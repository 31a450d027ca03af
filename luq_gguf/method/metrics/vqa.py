"""Scores of answers to questions about images, each as its benchmark's paper defines it. Pure functions on strings.

vqa       VQAv2 and TextVQA: soft score against ten people's answers (Antol et al. 2015; VQA evaluation code)
exact     the same words
yes-no    POPE: accuracy, and F1 of "yes" (Li et al. 2023)
anls      DocVQA: average normalized Levenshtein similarity (Biten et al. 2019)
relaxed   ChartQA: numbers within 5%, else the same text (Methani et al. 2020, Masry et al. 2022)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

_NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
# The forms that get their apostrophes back; "hed've" and "he'dve" are those of "he'd've".
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
I'd've I'm I've
"""


def _restored() -> dict[str, str]:
    forms = {}
    for form in _CONTRACTIONS.split():
        parts = form.lower().split("'")
        for marks in itertools.product(("", "'"), repeat=len(parts) - 1):
            bare = "".join(part + mark for part, mark in zip(parts, (*marks, ""), strict=True))
            forms[bare] = form
    return forms


_RESTORED = _restored()


def normalize(answer: str) -> str:
    """Return an answer as VQAv2 compares it: lower case, no articles or punctuation, digits for number words."""
    text = " ".join(answer.split())
    spaced = _COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        loose = f"{mark} " in text or f" {mark}" in text or spaced
        answer = answer.replace(mark, "" if loose else " ")
    words = []
    for word in _PERIOD.sub("", answer).lower().split():
        word = str(max(0, _NUMBERS.index(word) - 1)) if word in _NUMBERS else word
        if word not in _ARTICLES:
            words.append(_RESTORED.get(word, word))
    return " ".join(words)


def vqa(answer: str, references: Sequence[str]) -> float:
    """Return VQAv2's soft score: 1 where three other people gave this answer, a third for each of fewer, averaged over
    leaving each person out.

    Made for ten references; a single one is compared as it is.
    """
    given, expected = normalize(answer), [normalize(reference) for reference in references]
    if len(expected) == 1:
        return float(given == expected[0])
    agreeing = expected.count(given)
    scores = [min(1.0, (agreeing - (reference_answer == given)) / 3) for reference_answer in expected]
    return sum(scores) / len(scores)


def exact(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer has the words of a reference, in any case and punctuation."""

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    return float(any(words(answer) == words(reference) for reference in references))


def says_yes(answer: str) -> bool:
    """Read free text as POPE does: no if the first sentence contains no or not, else yes."""
    words = answer.split(".")[0].replace(",", "").lower().split()
    return not {"no", "not"} & set(words)


def yes_no(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer means what the first reference means."""
    return float(says_yes(answer) == says_yes(references[0]))


def f1_of_yes(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return POPE's F1 with yes as the positive class; 0 where no yes is correct."""
    answered, expected = [says_yes(a) for a in answers], [says_yes(r) for r in references]
    hits = sum(a and b for a, b in zip(answered, expected, strict=True))
    return 2 * hits / (sum(answered) + sum(expected)) if hits else 0.0


def anls(answer: str, references: Sequence[str]) -> float:
    """Return 1 - edit distance / length of the longer text, for the nearest reference; 0 from half the length on."""
    from rapidfuzz.distance import Levenshtein  # takes a moment to import

    given = " ".join(answer.lower().split())
    best = 0.0
    for reference in references:
        expected = " ".join(reference.lower().split())
        away = Levenshtein.distance(given, expected) / max(len(given), len(expected), 1)
        best = max(best, 1 - away if away < 0.5 else 0.0)
    return best


def _number(text: str) -> float | None:
    plain = text.strip().rstrip(".").replace(",", "").lstrip("$")
    try:
        return float(plain[:-1]) / 100 if plain.endswith("%") else float(plain)
    except ValueError:
        return None


def relaxed(answer: str, references: Sequence[str]) -> float:
    """Return 1 where a number is within 5% of a reference, or other text equals a reference."""
    given = _number(answer)
    for reference in references:
        expected = _number(reference)
        if given is not None and expected:
            if abs(given - expected) <= 0.05 * abs(expected):
                return 1.0
        elif answer.strip().rstrip(".").lower() == reference.strip().rstrip(".").lower():
            return 1.0
    return 0.0


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "vqa": vqa,
    "exact": exact,
    "yes-no": yes_no,
    "anls": anls,
    "relaxed": relaxed,
}
