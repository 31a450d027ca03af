"""The report's sections on splits of the questions, and on differences that are paired question by question."""

from __future__ import annotations

from collections.abc import Sequence

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import EvalResult
from luq_gguf.method.metrics import pairs
from luq_gguf.reporting import split_text
from luq_gguf.reporting.page import Section, largest_of_each


def splits_section(results: Sequence[EvalResult]) -> Section:
    """Make the section on accuracy by split; it has no rows where no set has any."""
    shown = split_text.alike(largest_of_each(results))
    rows = split_text.accuracy_rows(shown)
    head = ("file", *split_text.heads(given(shown[0].splits) or {})) if shown else ()
    return Section("Accuracy by split", (split_text.PER_QUESTION, split_text.PAIRED), head, rows)


def differences_section(results: Sequence[EvalResult]) -> Section:
    """Make the section on how files differ that answered the same questions; it has no rows where no two did."""
    differences = pairs.all_between(largest_of_each(results)[::-1])
    head, rows = split_text.difference_heads(differences), split_text.difference_rows(differences)
    return Section("Differences between files", (split_text.PAIRED,), head, rows)
