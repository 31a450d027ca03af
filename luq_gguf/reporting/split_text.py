"""What people read about the splits of a set of questions, and about differences that are paired question by question.

"The mean" of a set is that over all of its questions, and not over its splits; of splits of one size both are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Difference, Estimate, EvalResult, FileDifference, Metrics, SplitFigures
from luq_gguf.core.sweeps import SweepPoint
from luq_gguf.method.metrics import intervals, pairs
from luq_gguf.method.uniform import ftype_of

PAIRED = (
    "Differences of accuracy are paired question by question: the mean over the same questions, in percentage points, "
    "with its 95% interval."
)
PER_QUESTION = "The mean is over all questions, and not over splits."


def head(name: str, figures: SplitFigures) -> str:
    """Return what a split is called in tables: "read, 256 questions"."""
    return f"{name}, {figures.n_samples:,} question{'' if figures.n_samples == 1 else 's'}"


def all_head(splits: Mapping[str, SplitFigures]) -> str:
    """Return what all questions of a set with splits are called in tables."""
    return f"mean of all {sum(figures.n_samples for figures in splits.values()):,} questions"


def heads(splits: Mapping[str, SplitFigures]) -> list[str]:
    """Return the heads of a table's columns of accuracy: all questions, and every split."""
    return [all_head(splits), *(head(name, figures) for name, figures in splits.items())]


def share(estimate: Estimate | None) -> str:
    """Return an accuracy with its interval, as text; empty for None."""
    if estimate is None:
        return ""
    return intervals.with_interval(f"{estimate.value:.1%}", estimate.low, estimate.high, ".1%")


def change(difference: Difference | None) -> str:
    """Return a paired difference of accuracies as text; empty for None."""
    return "" if difference is None else intervals.in_points(difference)


def alike(results: Iterable[EvalResult]) -> list[EvalResult]:
    """Return the measurements that have splits, of the set and the splits of the first of them and made as it was."""
    split = [result for result in results if given(result.splits)]
    keys = [_asked(result) for result in split]
    return [result for result, key in zip(split, keys, strict=True) if key == keys[0]]


def _asked(result: EvalResult) -> tuple[object, ...]:
    how = result.conditions
    return how.data_sha256, result.splits_sha256, result.metric, how.max_tokens, how.has_fitted_images


def accuracy_rows(results: Sequence[EvalResult]) -> list[list[str]]:
    """Return two rows of text for every file, as `heads` names the cells behind the first: its accuracy, and the change
    from its reference, where there is another file that is."""
    rows = []
    for result in results:
        figures = (given(result.splits) or {}).values()
        rows.append([result.file, share(result.accuracy), *(share(split.accuracy) for split in figures)])
        whole = given(result.accuracy_change)
        if whole and result.file != result.reference:
            changes = (change(given(split.accuracy_change)) for split in figures)
            rows.append([f"- change from {result.reference}", change(whole), *changes])
    return rows


def difference_heads(differences: Sequence[FileDifference]) -> list[str]:
    """Return the heads of a table of differences: the files, all questions, and every split."""
    return ["accuracy", "all questions", *dict.fromkeys(name for d in differences for name in given(d.splits) or {})]


def difference_rows(differences: Sequence[FileDifference]) -> list[list[str]]:
    """Return a row of text for every two files, as `difference_heads` names its cells."""
    names = difference_heads(differences)[2:]
    return [
        [
            f"{found.second} minus {found.first}",
            change(found.accuracy_change),
            *(change((given(found.splits) or {}).get(name)) for name in names),
        ]
        for found in differences
    ]


def metrics_cells(metrics: Metrics, names: Iterable[str]) -> list[str]:
    """Return a file's accuracy on every split of these names, with the change from the reference, as text."""
    splits = given(metrics.splits) or {}
    return [_of_split(splits.get(name)) for name in names]


def _of_split(figures: SplitFigures | None) -> str:
    if figures is None or figures.accuracy is None:
        return ""
    changed = given(figures.accuracy_change)
    return f"{figures.accuracy.value:.1%}" + (f"; {change(changed)}" if changed else "")


def splits_of(points: Iterable[SweepPoint]) -> Mapping[str, SplitFigures]:
    """Return the splits of a sweep's questions, with the figures of its first point; none where it has none."""
    return next((splits for point in points if (splits := given(point.metrics.splits))), {})


def named(points: Iterable[SweepPoint]) -> list[tuple[str, SweepPoint]]:
    """Return the points of a sweep that reports list, by what they are called: uniform files by size, and then those of
    the paper's order."""
    listed = list(points)
    uniform = sorted((p for p in listed if p.n_low is None), key=lambda p: (p.n_bytes, p.order))
    paper = sorted((p for p in listed if p.order == "entropy"), key=lambda p: p.n_low or 0)
    return [(ftype_of(p.order), p) for p in uniform] + [(f"LUQ, {p.n_low} low", p) for p in paper]


def same_size(points: Iterable[SweepPoint], other: SweepPoint) -> SweepPoint | None:
    """Return the LUQ file of the fewest low layers, in the paper's order, that is no larger than another file."""
    smaller = [p for p in points if p.order == "entropy" and p.n_low is not None and p.n_bytes <= other.n_bytes]
    return min(smaller, key=lambda point: point.n_low or 0, default=None)


def against_luq(points: Sequence[SweepPoint], other: SweepPoint) -> str:
    """Return how the accuracy of the LUQ file of the same size differs from another file's; empty where that is not
    known."""
    rival = same_size(points, other)
    return change(pairs.of_points(other.metrics, rival.metrics)) if rival else ""
