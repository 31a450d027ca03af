"""Scores of answers to questions about images, each as its benchmark's paper defines it. Pure functions on strings.

vqa       VQAv2 and TextVQA: soft score against ten people's answers (Antol et al. 2015; VQA evaluation code)
exact     the same words and signs (words.py)
choice    the letter of an option: rules find it in free text, as MMBench's do first (Liu et al. 2023)
yes-no    POPE: accuracy, and F1 of "yes" (Li et al. 2023)
anls      DocVQA: average normalized Levenshtein similarity (Biten et al. 2019)
relaxed   ChartQA: numbers within 5%, else the same text (Methani et al. 2020, Masry et al. 2022)
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luq_gguf.method.metrics import words

PEOPLE = 10  # answers that VQAv2's soft score is made for
RULES = 2  # to be raised where a score changes: cached figures are of one set of rules

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
    """Return an answer as VQAv2 compares it: lower case, no articles or punctuation, digits for number words. What
    would be nothing then ("a", "?") stays as it is."""
    answer = unicodedata.normalize("NFC", answer)
    text = " ".join(answer.split())
    plain = text.lower()
    spaced = _COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        loose = f"{mark} " in text or f" {mark}" in text or spaced
        answer = answer.replace(mark, "" if loose else " ")
    kept = []
    for word in _PERIOD.sub("", answer).lower().split():
        word = str(max(0, _NUMBERS.index(word) - 1)) if word in _NUMBERS else word
        if word not in _ARTICLES:
            kept.append(_RESTORED.get(word, word))
    return " ".join(kept) or plain


def vqa(answer: str, references: Sequence[str]) -> float:
    """Return VQAv2's soft score: 1 where three other people gave this answer, a third for each of fewer, averaged over
    leaving each person out.

    Made for ten references: fewer are not votes but alternatives, of which any is right.
    """
    given, expected = normalize(answer), [normalize(reference) for reference in references]
    if len(expected) < PEOPLE:
        return float(given in expected)
    agreeing = expected.count(given)
    scores = [min(1.0, (agreeing - (reference_answer == given)) / 3) for reference_answer in expected]
    return sum(scores) / len(scores)


def exact(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer has the words and signs of a reference, in any case and punctuation."""
    return float(any(words.same(answer, reference) for reference in references))


_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f\n]+")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_NEGATIVE = {"no", "not", "nope", "none", "cannot"}


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence that has any, without markup and punctuation, contractions with their apostrophes."""
    text = text.lower().replace("\u2019", "'")
    found = (_WORD.findall(sentence) for sentence in _SENTENCE.split(text))
    return [[_RESTORED.get(word, word) for word in sentence] for sentence in found if sentence]


def says_yes(answer: str) -> bool | None:
    """Read free text as POPE does: no if the first sentence denies (no, not, n't), else yes; None without a word."""
    sentences = _sentences(answer)
    if not sentences:
        return None
    return not any(word in _NEGATIVE or word.endswith("n't") for word in sentences[0])


def is_yes_or_no(reference: str) -> bool:
    """Return whether a reference is the word yes or no alone, in any case and punctuation."""
    return _sentences(reference) in ([["yes"]], [["no"]])


def expects_yes(references: Sequence[str]) -> bool:
    """Return what most references say, or of as many of both the first. Raises ValueError where one is neither."""
    for reference in references:
        if not is_yes_or_no(reference):
            raise ValueError(f"{reference!r} is neither yes nor no")
    votes = [bool(says_yes(reference)) for reference in references]
    return votes[0] if votes.count(True) * 2 == len(votes) else votes.count(True) * 2 > len(votes)


def yes_no(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer means what the references say. Raises ValueError as `expects_yes` does."""
    return float(says_yes(answer) is expects_yes(references))


def f1_of_yes(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return POPE's F1 with yes as the positive class, one reference each; 0 where no yes is correct."""
    answered, expected = [says_yes(a) is True for a in answers], [says_yes(r) is True for r in references]
    hits = sum(a and b for a, b in zip(answered, expected, strict=True))
    return 2 * hits / (sum(answered) + sum(expected)) if hits else 0.0


_BOXED = re.compile(r"\\boxed\s*\{(?:\\\w+\{)?")
_MARKUP = re.compile(r"[*_`\"\u201c\u201d$\\{}]|</?\w+>")
_LABEL = re.compile(
    r"\s*(?:[(\[]\s*([A-Za-z])\s*[)\]][.:,]?|([A-Za-z])\s*(?:[).:!](?=\s|$)|[-\u2013\u2014](?=\s)|$))\s*"
)
# A letter that is no article or pronoun.
_LETTER = r"[(\[]?([B-HJ-Z]|[AI](?!\s+(?!because|since|as\b)[a-z]))(?![\w'])"
_SEVERAL = re.compile(r"[(\[]?\b[A-Z]\b[)\]]?(?:\s*(?:,|/|or\b|and\b)\s*(?i:option\s+)?[(\[]?[A-Z]\b[)\]]?)+")
_FINAL = re.compile(r"\b(?i:answer)\b(?:[^.:\n]{0,60}?\b(?:is|would be|should be)\b)?[\s:]*(?i:option\s+)?" + _LETTER)
_SMALL = re.compile(r"\banswer(?: is)?[\s:]+([a-z])[).\s]*$", re.IGNORECASE)
_NAMED = re.compile(r"\b(?i:option|choice)[\s:]+" + _LETTER)
_REASON = re.compile(r"([A-Z])\s+(?:is|because|since|as)\b")
_LAST = re.compile(r"(?:\b(?:is|be|choose|pick|select)\b|'s)[\s:]*" + _LETTER + r"[)\]]?[\s.!]*$")
_DENIED = re.compile(r"(?:\bnot|n't)\s+(?:option\s+)?[(\[]?[A-Z]\b[)\]]?")
_OFFERED = re.compile(r"(?:^|[\s(\[])([A-Z])[.):\]](?=\s|$)", re.MULTILINE)


def _option(text: str) -> tuple[str | None, str]:
    """The letter at the beginning of a text ("B. red"), in upper case, and what follows it."""
    match = _LABEL.match(text)
    return ((match[1] or match[2]).upper(), text[match.end() :]) if match else (None, text)


def chosen_option(answer: str) -> str | None:
    """Return the letter that free text chooses, in upper case; None where it chooses none, or several.

    What it calls its answer counts first, then the letter that it begins with, then the only one that it names.
    """
    text = _MARKUP.sub("", _BOXED.sub(" answer: ", answer)).replace("\u2019", "'")
    text = _SEVERAL.sub("", _DENIED.sub("", text)).strip()
    if final := _FINAL.findall(text):
        return str(final[-1])
    if letter := _option(text)[0]:
        return letter if {_option(line)[0] for line in text.splitlines()} <= {None, letter} else None
    if match := _REASON.match(text) or _LAST.search(text) or _SMALL.search(text):
        return str(match[1]).upper()
    named = set(_NAMED.findall(text)) or set(re.findall(r"\(([A-Z])\)", text))
    return named.pop() if len(named) == 1 else None


def is_option(reference: str) -> bool:
    """Return whether a reference is an option's letter, with or without its text: B, (b), "B. red"."""
    return _option(reference)[0] is not None


def offers(prompt: str, references: Sequence[str]) -> bool:
    """Return whether a prompt lists options by their letters, A and B at least, and each reference is one of them."""
    letters = set(_OFFERED.findall(prompt))
    return {"A", "B"} <= letters and bool(references) and all(_option(ref)[0] in letters for ref in references)


def choice(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer chooses a reference's letter, or without any letter has the words of its text."""
    letter = chosen_option(answer)
    for reference in references:
        expected, text = _option(reference)
        if letter is not None and letter == expected:
            return 1.0
        if letter is None and text and words.same(answer, text):
            return 1.0
    return 0.0


def anls(answer: str, references: Sequence[str]) -> float:
    """Return 1 - edit distance / length of the longer text, for the nearest reference; 0 from half the length on."""
    from rapidfuzz.distance import Levenshtein  # takes a moment to import

    given = _plain(answer)
    best = 0.0
    for reference in references:
        expected = _plain(reference)
        away = Levenshtein.distance(given, expected) / max(len(given), len(expected), 1)
        best = max(best, 1 - away if away < 0.5 else 0.0)
    return best


def _plain(text: str) -> str:
    """Lower case, one Unicode form, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _number(text: str) -> float | None:
    """A finite number, with a thousands comma, a dollar or percent sign, or a typographic minus."""
    plain = text.strip().rstrip(".").replace(",", "").replace("\u2212", "-").lstrip("$")
    try:
        number = float(plain[:-1]) / 100 if plain.endswith("%") else float(plain)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in plain else None  # Python reads 1_0 as ten


def relaxed(answer: str, references: Sequence[str]) -> float:
    """Return 1 where a number is within 5% of a reference, or other text equals a reference."""
    given = _number(answer)
    for reference in references:
        expected = _number(reference)
        if given is not None and expected:
            if abs(given - expected) <= 0.05 * abs(expected):
                return 1.0
        elif _plain(answer).rstrip(".") == _plain(reference).rstrip("."):
            return 1.0
    return 0.0


@dataclass(frozen=True)
class Metric:
    """How answers are scored: a function of an answer and the accepted ones that returns 0 to 1.

    `accepts` says whether a question's accepted answers can be compared with, and `wants` what they have to be.
    """

    score: Callable[[str, Sequence[str]], float]
    accepts: Callable[[Sequence[str]], bool] = bool
    wants: str = "an answer"


METRICS = {
    "vqa": Metric(vqa),
    "exact": Metric(exact),
    "choice": Metric(choice, lambda references: any(map(is_option, references)), "the letter of an option"),
    "yes-no": Metric(yes_no, lambda references: all(map(is_yes_or_no, references)), "yes or no"),
    "anls": Metric(anls),
    "relaxed": Metric(relaxed),
}


def automatic(prompt: str, references: Sequence[str]) -> str:
    """Return the metric of one question where none was asked for: `vqa` of ten answers or more, `choice` where the
    prompt lists options by letter and the answers are such letters, else `exact`."""
    if len(references) >= PEOPLE:
        return "vqa"
    return "choice" if offers(prompt, references) else "exact"
