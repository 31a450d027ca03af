"""What people see: a progress bar per stage and notes on stderr; tables or JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from luq_gguf.door import Listener
from luq_gguf.planner import format_size
from luq_gguf.values import LayerEntropy, Plan, Profile

errors = Console(stderr=True)


@contextmanager
def listener() -> Iterator[Listener]:
    """Bars with rate and time left on stderr while inside."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=errors)
    tasks: dict[str, TaskID] = {}

    def progress(stage: str, done: float, total: float) -> None:
        scale = 100 if total == 1.0 else 1  # shares are shown in percent
        if not tasks:
            bars.start()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total * scale, rate="")
        bars.update(tasks[stage], completed=done * scale, total=total * scale)
        task = bars.tasks[bars.task_ids.index(tasks[stage])]
        bars.update(tasks[stage], rate=f"{task.speed:.1f}/s" if task.speed and scale == 1 else "")

    try:
        yield Listener(progress, lambda sentence: errors.print(sentence, highlight=False, soft_wrap=True))
    finally:
        bars.stop()


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def print_table(table: Table) -> None:
    Console().print(table)


def profile_table(profile: Profile, low: tuple[int, ...] = ()) -> Table:
    """One row per layer: entropy, spread, modalities, and whether it is low."""
    table = Table(title=f"Entropy of decoder layers of {profile.model}, bits")
    for name in ("layer", "entropy", "spread", "multimodal", "text", *(["plan"] if low else [])):
        table.add_column(name, justify="right")
    for layer in profile.layers:
        cells = [str(layer.layer), f"{layer.bits:.4f}", f"{layer.spread_bits:.4f}"]
        cells += [_bits(layer, "multimodal"), _bits(layer, "text")]
        table.add_row(*cells, *(["low" if layer.layer in low else ""] if low else []))
    return table


def _bits(layer: LayerEntropy, modality: str) -> str:
    value = layer.by_modality.get(modality)
    return "" if value is None else f"{value:.4f}"


def plan_lines(plan: Plan) -> list[str]:
    """Sentences about a plan."""
    lines = [
        f"{len(plan.low_layers)} of {len(plan.order)} layers in {plan.low}, by {plan.ranking}: "
        f"{', '.join(map(str, plan.low_layers)) or 'none'}; all else as in {plan.high}",
        f"predicted file: {format_size(plan.predicted_file_bytes)} ({plan.bpw:.3f} bpw), without mmproj and KV cache",
    ]
    if plan.without_importance:
        told = [f"{name} {plan.tensor_types[name]}" for name in plan.without_importance]
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        lines.append(
            f"{len(told)} matrices that the reference model does not compute have no importance, and types that need "
            f"none: {', '.join(told[:3])}{more}"
        )
    low = set(plan.low_layers)
    crossing = [pair for pair in plan.near_ties if (pair[0] in low) != (pair[1] in low)]
    for a, b in crossing:
        lines.append(f"near tie at the border: layers {a} and {b} differ by less than the spread over seeds")
    inside = [f"{a}~{b}" for a, b in plan.near_ties if (a, b) not in crossing]
    if inside:
        lines.append(f"other near ties in the ranking: {', '.join(inside)}")
    return lines


def say(line: str) -> None:
    click.echo(line, err=True)
