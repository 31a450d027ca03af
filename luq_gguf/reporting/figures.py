"""Draws the figures of a run: entropies, orders, the trade-off. Lines differ by marker and dash too, for grey print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luq_gguf.core import atomic
from luq_gguf.core.measurements import Estimate
from luq_gguf.core.speeds import BenchRow
from luq_gguf.core.sweeps import MixPoint, SweepPoint
from luq_gguf.core.types import Profile
from luq_gguf.method import uniform
from luq_gguf.method.orders import ORDERS, is_seeded
from luq_gguf.reporting.plain_text import plain_text

STYLES: Mapping[str, Mapping[str, Any]] = {
    **{name: {**order.line, "label": order.label} for name, order in ORDERS.items()},
    "best": {"color": "#e08214", "marker": "*", "linestyle": "-", "label": "best plan"},
}


def save(
    path: Path,
    draw: Callable[[Any], None],
    size: tuple[float, float] = (6.4, 3.8),
    grid: str = "y",
    columns: int = 1,
    rows: int = 1,
) -> None:
    """Save a PNG whose bytes depend only on what is drawn; with several columns, `draw` gets all axes, row by row."""
    from matplotlib.figure import Figure

    with plain_text():
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        draw(axes if columns > 1 else axes[0])
        for panel in axes:
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis=grid, linewidth=0.4, alpha=0.6)
            panel.set_axisbelow(True)
        with atomic.whole(path) as part:
            figure.savefig(part, format="png", dpi=150, metadata={"Software": None})


def _log_scale(axes: Any) -> None:
    """Use a log scale with plain text labels: matplotlib's own are formulas, and "$" does not begin one here."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def entropy_by_layer(profile: Profile, low_layers: Sequence[int], path: Path) -> None:
    """Draw the entropy of each layer, in bits, with its spread over K-means seeds; low layers are filled."""

    def draw(axes: Any) -> None:
        for chosen, face, label in ((True, "#0b559f", "low"), (False, "white", "high")):
            layers = [layer for layer in profile.layers if (layer.layer in set(low_layers)) == chosen]
            axes.errorbar(
                [layer.layer for layer in layers],
                [layer.bits for layer in layers],
                yerr=[layer.spread_bits for layer in layers],
                fmt="o",
                color="#0b559f",
                markerfacecolor=face,
                capsize=3,
                label=label if low_layers else None,
            )
        axes.set(xlabel="decoder layer", ylabel="entropy, bits")
        if low_layers:
            axes.legend(frameon=False, title="plan")

    save(path, draw)


def entropy_by_modality(profile: Profile, path: Path) -> bool:
    """Draw entropy by depth for samples with and without images; return False if there is only one kind."""
    series = {name: [layer.by_modality.get(name) for layer in profile.layers] for name in ("multimodal", "text")}
    if any(value is None for values in series.values() for value in values):
        return False

    def draw(axes: Any) -> None:
        numbers = [layer.layer for layer in profile.layers]
        axes.plot(numbers, series["multimodal"], "o-", color="#0b559f", label="samples with images")
        axes.plot(numbers, series["text"], "s--", color="#b2182b", label="text-only samples")
        axes.set(xlabel="decoder layer", ylabel="entropy, bits")
        axes.legend(frameon=False)

    save(path, draw)
    return True


def order_matters(points: Sequence[SweepPoint], metric: str, path: Path) -> bool:
    """Draw a metric by the number of low layers, a line for every order; return False if it was not measured."""
    values: dict[str, dict[int, list[float]]] = {order: {} for order in STYLES}
    for point in points:
        if point.n_low is None:
            continue
        if (estimate := point.metrics.estimate(metric)) is None:
            return False
        if point.order in values:
            values[point.order].setdefault(point.n_low, []).append(estimate.value)

    def draw(axes: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        for order, by_count in values.items():
            if not by_count:
                continue
            counts, style = sorted(by_count), STYLES[order]
            middle = [sum(by_count[n]) / len(by_count[n]) for n in counts]
            axes.plot(counts, middle, markersize=5, **style)
            if is_seeded(order) and max(map(len, by_count.values())) > 1:
                low, high = [min(by_count[n]) for n in counts], [max(by_count[n]) for n in counts]
                axes.fill_between(counts, low, high, color=style["color"], alpha=0.2, linewidth=0)
        if metric == "kld":
            axes.set(ylabel="mean KLD from the 16-bit file, nats")
            _log_scale(axes)
        else:
            shown = [value for by_count in values.values() for of_count in by_count.values() for value in of_count]
            axes.set(ylabel=metric, ylim=(min(shown) - 0.02, min(max(shown) + 0.005, 1.002)))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel="number of low layers")
        axes.legend(frameon=False, fontsize=8)

    save(path, draw)
    return True


ARMS: Mapping[str, dict[str, Any]] = {
    "both": {"color": "#0b559f", "marker": "o", "linestyle": "-", "label": "ranking and importance"},
    "ranking": {"color": "#b2182b", "marker": "s", "linestyle": "--", "label": "ranking alone"},
    "imatrix": {"color": "#1b7837", "marker": "^", "linestyle": "-.", "label": "importance alone"},
}


def mix_effect(points: Sequence[MixPoint], n_low: int, metric: str, path: Path) -> bool:
    """Draw a metric by alpha at one number of low layers, a line for each thing that changes with alpha.

    Returns False if the metric was not measured.
    """
    lines: dict[str, list[tuple[float, Estimate]]] = {arm: [] for arm in ARMS}
    for point in sorted(points, key=lambda p: p.alpha):
        if point.n_low != n_low:
            continue
        if (estimate := point.metrics.estimate(metric)) is None:
            return False
        if point.changes in lines:
            lines[point.changes].append((point.alpha, estimate))

    def draw(axes: Any) -> None:
        for arm, style in ARMS.items():
            alphas, estimates = [alpha for alpha, _ in lines[arm]], [estimate for _, estimate in lines[arm]]
            bars = [
                [0.0 if e.low is None else e.value - e.low for e in estimates],
                [0.0 if e.high is None else e.high - e.value for e in estimates],
            ]
            axes.errorbar(alphas, [e.value for e in estimates], yerr=bars, capsize=3, markersize=5, **style)
        name = "mean KLD from the 16-bit file, nats" if metric == "kld" else metric
        axes.set(xlabel="alpha: share of calibration samples with images", ylabel=name)
        axes.set_ylim(bottom=0 if metric == "kld" else None)
        axes.legend(frameon=False, fontsize=8, title="what changes with alpha", title_fontsize=8)

    save(path, draw)
    return True


def sizes(files: Sequence[tuple[str, Mapping[str, int]]], path: Path) -> None:
    """Draw the bytes of files as stacked bars. `files`: (name, part -> bytes), with the same parts in all of them."""
    unit, name = unit_of(max(sum(parts.values()) for _, parts in files))
    looks = (("#0b559f", ""), ("#9ecae1", "//"), ("#dddddd", ".."), ("#ffffff", ""))

    def draw(axes: Any) -> None:
        left = [0.0] * len(files)
        for (part, _), (colour, hatch) in zip(files[0][1].items(), looks, strict=False):
            widths = [parts[part] / unit for _, parts in files]
            axes.barh(
                [label for label, _ in files], widths, left=left, color=colour, hatch=hatch, edgecolor="#333333",
                linewidth=0.5, label=part,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for row, total in enumerate(left):
            axes.annotate(f"{total:.2f}", (total, row), xytext=(4, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.set(xlabel=f"size, {name}", xlim=(0, max(left) * 1.12))
        axes.figure.legend(frameon=False, fontsize=8, ncols=4, loc="outside upper center")

    save(path, draw, (6.4, 1.2 + 0.45 * len(files)), grid="x")


def throughput(rows: Sequence[BenchRow], path: Path) -> None:
    """Draw decode and prefill of files side by side, in tokens/s: medians, with error bars from the slowest to the
    fastest sample."""
    decode = [(row.name.replace(".gguf", ""), row.decode_tps) for row in rows]
    prefill = [(row.name.replace(".gguf", ""), row.prefill_tps) for row in rows if row.prefill_tps]
    looks = ((decode, "decode", "#0b559f", ""), (prefill, "prefill", "#9ecae1", "//"))

    def draw(axes: Sequence[Any]) -> None:
        for panel, (shown, title, colour, hatch) in zip(axes, looks, strict=True):
            labels, medians = [label for label, _ in shown], [tps.median for _, tps in shown]
            least = [tps.median - min(tps.samples) for _, tps in shown]
            most = [max(tps.samples) - tps.median for _, tps in shown]
            panel.barh(
                labels, medians, xerr=[least, most], color=colour, hatch=hatch, edgecolor="#333333", linewidth=0.5,
                capsize=3,
            )  # fmt: skip
            panel.invert_yaxis()
            panel.set(xlabel=f"{title}, tokens/s", xlim=(0, None))
        axes[1].set_yticklabels([])

    save(path, draw, (7.6, 1.2 + 0.45 * len(rows)), grid="x", columns=2)


def unit_of(n_bytes: int) -> tuple[int, str]:
    """Return the unit, in bytes and by name, that sizes around this one are shown in."""
    return (1024**3, "GiB") if n_bytes > 2**30 // 10 else (1024**2, "MiB")


def trade_off(points: Sequence[SweepPoint], path: Path) -> bool:
    """Draw mean KLD by file size, for orders of low layers and uniform files; return False if no KLD was measured."""
    shown = [
        (point.order, point.n_bytes, point.metrics.kld.mean)
        for point in points
        if point.metrics.kld and point.metrics.kld.mean and point.order != uniform.REFERENCE
    ]
    if not shown:
        return False
    unit, name = unit_of(max(n_bytes for _, n_bytes, _ in shown))

    def draw(axes: Any) -> None:
        for line_order in (*(name for name, order_rule in ORDERS.items() if order_rule.by_size), "best"):
            line = sorted((n_bytes / unit, kld) for order, n_bytes, kld in shown if order == line_order)
            if line:
                axes.plot([x for x, _ in line], [y for _, y in line], markersize=5, **STYLES[line_order])
        others = sorted((point for point in shown if uniform.is_uniform(point[0])), key=lambda point: point[1])
        for number, (order, n_bytes, kld) in enumerate(others):
            at = n_bytes / unit, kld
            axes.plot(*at, "D", color="black", markersize=5, markerfacecolor="white")
            label, below = uniform.ftype_of(order), number % 2 == 1  # neighbours would cover each other
            offset = (0, -7 if below else 7)
            axes.annotate(
                label, at, textcoords="offset points", xytext=offset, fontsize=8, ha="center",
                va="top" if below else "bottom",
            )  # fmt: skip
        axes.plot([], [], "D", color="black", markerfacecolor="white", label="uniform file, same imatrix")
        axes.set(xlabel=f"size of the text model file, {name}", ylabel="mean KLD from the 16-bit file, nats")
        _log_scale(axes)
        axes.legend(frameon=False, fontsize=8)

    save(path, draw)
    return True
