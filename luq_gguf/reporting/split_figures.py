"""Draws accuracy by split of the questions: one part of a set may lose what the mean over all of it does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Estimate
from luq_gguf.core.sweeps import SweepPoint
from luq_gguf.method import uniform
from luq_gguf.method.orders import is_seeded
from luq_gguf.reporting import split_text
from luq_gguf.reporting.figures import STYLES, save

PANELS = 12  # of a figure: more would be too small to read


@dataclass(frozen=True)
class _Panel:
    """A split's panel, or that of all questions (None)."""

    title: str
    split: str | None

    def accuracy(self, point: SweepPoint) -> tuple[Estimate | None, Estimate | None]:
        """A point's accuracy here, and its change from the 16-bit file."""
        if self.split is None:
            return point.metrics.accuracy, point.metrics.accuracy_change
        figures = (given(point.metrics.splits) or {}).get(self.split)
        return (figures.accuracy, given(figures.accuracy_change)) if figures else (None, None)

    def band(self, point: SweepPoint) -> tuple[float, float] | None:
        """Where a point's accuracy is by the interval of its paired change."""
        accuracy, change = self.accuracy(point)
        if accuracy is None or change is None or change.low is None or change.high is None:
            return None
        before = accuracy.value - change.value
        return before + change.low, before + change.high

    def range_of(self, point: SweepPoint) -> list[float]:
        """All that is drawn of a point."""
        accuracy, band = self.accuracy(point)[0], self.band(point) if point.order == "entropy" else None
        return ([accuracy.value] if accuracy else []) + [min(max(end, 0.0), 1.0) for end in band or ()]


def _draw_panel(axis: Any, panel: _Panel, points: Sequence[SweepPoint], counted: Sequence[SweepPoint]) -> None:
    for order in (name for name in STYLES if any(point.order == name for point in counted)):
        by_count: dict[int, list[float]] = {}
        for point in counted:
            if point.order == order and (accuracy := panel.accuracy(point)[0]):
                by_count.setdefault(point.n_low or 0, []).append(accuracy.value)
        counts = sorted(by_count)
        middle = [sum(by_count[n]) / len(by_count[n]) for n in counts]
        label = str(STYLES[order]["label"]).partition(" (")[0] if is_seeded(order) else STYLES[order]["label"]
        axis.plot(counts, middle, markersize=3.5, linewidth=1.2, **{**STYLES[order], "label": label})
    paper = sorted((p for p in counted if p.order == "entropy"), key=lambda p: p.n_low or 0)
    bands = [(point.n_low, *band) for point in paper if (band := panel.band(point))]
    if bands:
        numbers, low, high = zip(*bands, strict=True)
        look = {"color": STYLES["entropy"]["color"], "alpha": 0.15, "linewidth": 0}
        axis.fill_between(numbers, low, high, label="95% interval of its change, paired", **look)
    wide = next((panel.accuracy(point)[0] for point in points if point.order == uniform.REFERENCE), None)
    if wide:
        axis.axhline(wide.value, color="black", linewidth=0.8, linestyle=":", label="16-bit file")


def accuracy_by_split(points: Sequence[SweepPoint], path: Path) -> bool:
    """Draw accuracy by the number of low layers, a panel for all questions and one for every split, each with a line
    for every order and one for the 16-bit file; return False if there are no splits, or more than can be read.

    Around the paper's order, the band is the 95% interval of the paired change from the 16-bit file.
    """
    splits = split_text.splits_of(points)
    counted = [point for point in points if point.n_low is not None and point.order in STYLES]
    if not counted or not splits or len(splits) >= PANELS:
        return False
    panels = [_Panel(split_text.all_head(splits), None)]
    panels += [_Panel(split_text.head(name, figures), name) for name, figures in splits.items()]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        seen = [value for panel in panels for point in points for value in panel.range_of(point)]
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, points, counted)
            axis.set_title(panel.title, fontsize=9)
            axis.set_ylim(max(min(seen) - 0.03, -0.005), min(max(seen) + 0.03, 1.005))
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.tick_params(labelsize=8)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        figure = axes[0].figure
        figure.supxlabel("number of low layers", fontsize=9)
        figure.supylabel("accuracy", fontsize=9)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside upper center")

    save(path, draw, (2.7 * columns + 0.4, 2.3 * rows + 0.8), columns=columns, rows=rows)
    return True
