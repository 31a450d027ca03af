"""Which differences between two answers count."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq_gguf.method.metrics import words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("-5", "5"), ("5", "0.5"), (".5", "5"), ("3.5", "3-5"), ("1/2", "12"), ("1,000", "1 000"), ("35%", "35")),
        *(("C++", "C#"), ("C++", "C"), ("+", "-"), ("<", ">"), ("a != b", "a = b"), ("x+1", "x-1"), ("$5", "5")),
        *(("A+", "A-"), ("A-", "A"), ("#red", "red"), ("-red", "red"), ("", "?"), ("?", "!"), ("a b", "ab")),
        *(("\u0926\u093f\u0928", "\u0926\u093e\u0928"), ("\u0e21\u0e35", "\u0e21"), ("\u00f1", "n")),
        ("\u0646\u0645\u06cc\u200c\u0634", "\u0646\u0645\u06cc\u0634"),
    ],
)
def test_what_carries_meaning_differs(one, other):
    assert not words.same(one, other)
    assert not words.same(other, one)
    assert words.same(one, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("Circle.", "circle"), ("**Red**", "red"), ("- red", "red"), ("## red", "red"), ("`red`", "red")),
        *(("T-shirt", "t shirt"), ("red/blue", "red, blue"), ("don\u2019t", "don't"), ("(red)", "red!")),
        *(("50 %", "50%"), ("\u22125", "-5"), ("3\u20135", "3-5"), ("10:30.", "10:30"), ("f(x)", "f x")),
        *(
            ("\u306f\u3044\u3002", "\u306f\u3044"),
            ("\uff21\uff22\uff11", "ab1"),
            ("\u0939\u093e\u0901\u0964", "\u0939\u093e\u0901"),
        ),
        *(("\ufeffred\u200b", "red"), ("Stra\u00dfe", "STRASSE"), ("  red\n", "red")),
    ],
)
def test_case_punctuation_markup_and_form_do_not(one, other):
    assert words.same(one, other)
    assert words.same(other, one)


@given(st.text(max_size=30), st.text(max_size=30))
def test_being_the_same_is_symmetric_and_independent_of_the_unicode_form(one, other):
    assert words.same(one, one)
    assert words.same(one, other) == words.same(other, one)
    for form in ("NFC", "NFD"):
        assert words.same(one, unicodedata.normalize(form, one))


@given(
    st.lists(st.text(st.characters(categories=["Ll", "Lu", "Lo", "Nd"]), min_size=1, max_size=6), min_size=1), st.data()
)
def test_words_are_found_between_any_punctuation(parts, data):
    separators = st.sampled_from([" ", "  ", "; ", " - ", "\n", " (", ") ", "? ", '" '])
    text = "".join(part + data.draw(separators) for part in parts)
    assert words.words(text) == words.words(" ".join(parts))
