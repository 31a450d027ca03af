"""What people see on stdout: tables or JSON. What a command is doing goes to stderr (reporting/progress.py)."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luq_gguf import kernels
from luq_gguf.core import json_output
from luq_gguf.core.checks import CheckReport
from luq_gguf.core.given_imatrix import why_without
from luq_gguf.core.json_value import given
from luq_gguf.core.terminal import is_plain
from luq_gguf.core.types import LayerEntropy, Plan, PredictedSpeed, Profile
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.method.metrics.intervals import with_interval
from luq_gguf.reporting.plan_text import describe, rules_line, unsettled_line


def _console(**options: Any) -> Console:
    """A console that obeys NO_COLOR entirely: rich itself keeps bold and italic then."""
    return Console(color_system=None if is_plain() else "auto", **options)


def print_json(content: Any) -> None:
    sys.stdout.write(json_output.indented(content))


def print_table(table: Table) -> None:
    """Print a table within a terminal's width, or at its full width to a file or a pipe, so that no figure is cut."""
    console = _console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        full_width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console = _console(width=max(console.width, full_width))
    console.print(table)


def print_checks(title: str, report: CheckReport, bad: str, *, as_json: bool) -> int:
    """Print checks as a table or JSON, and return the exit code. `bad` marks a check that failed."""
    if as_json:
        print_json(report.to_json())
        return 0 if report.ok else 1
    table = Table(title=Text(title))
    for name in ("", "check", "result", "what to do"):
        table.add_column(name, overflow="fold")
    for check in report.checks:
        mark = Text("ok", style="green") if check.ok else Text(bad, style="red")
        table.add_row(mark, Text(check.name), Text(check.found), Text(check.hint))
    print_table(table)
    return 0 if report.ok else 1


def profile_table(profile: Profile, low: tuple[int, ...] = ()) -> Table:
    """Return a table with a row per layer: entropy, spread, modalities, and whether it is low."""
    table = Table(title=Text(f"Entropy of decoder layers of {profile.model}, bits"))
    for name in ("layer", "entropy", "spread", "multimodal", "text", *(["plan"] if low else [])):
        table.add_column(name, justify="right")
    for layer in profile.layers:
        cells = [str(layer.layer), f"{layer.bits:.4f}", f"{layer.spread_bits:.4f}"]
        cells += [_bits(layer, "multimodal"), _bits(layer, "text")]
        table.add_row(*cells, *(["low" if layer.layer in low else ""] if low else []))
    return table


def agreement_line(profile: Profile) -> str:
    """Return a line that says how well the ways of estimating the entropies agree on the ranking."""
    taus = ", ".join(f"{way} {tau:.2f}" for way, tau in profile.kendall_tau.items())
    return f"Kendall's tau of the ranking: {taus}" if taus else ""


def print_profile(profile: Profile, out: Path, *, as_json: bool) -> None:
    """Print the table and where the files are, or JSON."""
    if as_json:
        print_json(profile.to_json())
        return
    print_table(profile_table(profile))
    click.echo(agreement_line(profile))
    click.echo(f"profile  {out / 'profile.json'}\nimatrix  {out / 'imatrix.gguf'}")


def _bits(layer: LayerEntropy, modality: str) -> str:
    value = layer.by_modality.get(modality)
    return "" if value is None else f"{value:.4f}"


def plan_lines(plan: Plan) -> list[str]:
    """Return sentences about a plan."""
    lines = [
        describe(plan),
        f"predicted file: {format_size(plan.predicted_file_bytes, up=True)} ({format_bpw(plan.bpw)} bpw), "
        "without mmproj and KV cache",
    ]
    lines += _memory_lines(plan)
    lines += filter(None, [rules_line(plan)])
    if plan.speed:
        lines += _speed_lines(plan, plan.speed)
    lines += _quality_lines(plan)
    if unsettled := unsettled_line(plan):
        lines.append(unsettled)
    if plan.without_importance:
        listed = [f"{name} {plan.tensor_types[name]}" for name in plan.without_importance]
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        lines.append(
            f"{len(listed)} matrices have no importance, as {why_without(plan.imatrix)}; they never become low, and "
            f" get types that need none: {', '.join(listed[:3])}{more}"
        )
    low = set(plan.low_layers)
    crossing = [pair for pair in plan.near_ties if (pair[0] in low) != (pair[1] in low)]
    for a, b in crossing:
        lines.append(f"near tie at the boundary: layers {a} and {b} differ by less than the spread over seeds")
    inside = [f"{a}~{b}" for a, b in plan.near_ties if (a, b) not in crossing]
    if inside:
        lines.append(f"other near ties in the ranking: {', '.join(inside)}")
    return lines


def _memory_lines(plan: Plan) -> list[str]:
    """What the file needs of memory, where the budget is one of that."""
    parts, context = plan.budget.get("memory"), plan.budget.get("context")
    if not isinstance(parts, dict) or not isinstance(context, dict):
        return []
    needed = plan.predicted_file_bytes + sum(parts.values())
    buffers = parts["compute_bytes"] + parts["image_bytes"]
    return [
        f"memory: {format_size(needed, up=True)}, with mmproj ({format_size(parts['mmproj_bytes'])}), KV cache of "
        f"{context['n_ctx']} tokens ({format_size(parts['kv_cache_bytes'])}) and buffers ({format_size(buffers)})"
    ]


def _quality_lines(plan: Plan) -> list[str]:
    """What was expected and measured of the plan's file, and of others of its size."""
    kld, expected, lines = plan.measured_kld, plan.predicted_kld, []
    if kld:
        prediction = f" (predicted {expected.value:.3g} +- {expected.error:.2g})" if expected else ""
        figure = with_interval(f"{kld.mean:.3g}", kld.low, kld.high, ".3g")
        lines.append(f"measured: mean KLD {figure} from the 16-bit file" + prediction)
        lines += filter(None, [kld.on.caveat])
    if expected and (lowest := given(expected.of_all_types_within_budget)):
        lines.append(
            f"{expected.files_measured} files measured, {expected.swaps_measured} of them swaps, of which "
            f"{expected.swaps_that_helped} helped; the lowest estimate for any choice of types is "
            f"{lowest.estimate:.3g} (bound {lowest.bound:.3g})"
        )
    for file in plan.compared:
        lines.append(f"compared with {file.name}, {format_size(file.file_bytes)}, mean KLD {file.kld:.3g}")
    return lines


def _speed_lines(plan: Plan, speed: PredictedSpeed) -> list[str]:
    decode, prefill = speed.decode_tps / speed.high_decode_tps, speed.prefill_tps / speed.high_prefill_tps
    lines = [
        f"predicted on this machine ({speed.threads} threads): decode {decode:.2f} x {plan.high} "
        f"({speed.decode_tps:.1f} tokens/s), prefill of {speed.prompt_tokens} tokens {prefill:.2f} x"
    ]
    if speed.low_layer_ratio < 1:
        other = (
            f"the smallest type that is faster is {speed.faster} (--low {speed.faster}: "
            f"{format_size(speed.faster_bytes or 0)})"
            if speed.faster
            else f"no type between {plan.low} and {speed.high_type} is faster"
            if speed.others_known
            else "--predict-speed measures whether another type is faster"
        )
        lines.append(
            f"layers in {plan.low} decode at {speed.low_layer_ratio:.2f} times the speed of {speed.high_type} here; "
            f"{other}"
        )
        if plan.low in kernels.TYPES:
            lines.append(
                f"that is the speed of stock llama.cpp; with the library of luq-gguf kernels it runs {plan.low} faster"
            )
    return lines


def info(line: str) -> None:
    click.echo(line, err=True)


def shell_path(path: Path) -> str:
    """Return a path as a command line in a shell takes it: quoted where needed, and never like an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
