"""Makes tables of measurements for people."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Estimate, EvalResult, FileDifference, Metrics, ReferenceComparison, Spread
from luq_gguf.core.speeds import Bench, Samples, TypeSpeeds
from luq_gguf.core.sweeps import CalibrationMix, Sweep
from luq_gguf.core.types import Plan, QuantizedModel
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.method.metrics import intervals
from luq_gguf.method.metrics.intervals import format_ratio
from luq_gguf.method.orders import is_seeded
from luq_gguf.method.uniform import ftype_of
from luq_gguf.reporting import comparison_text, plan_text, split_text


def evals_table(results: Sequence[EvalResult]) -> Table:
    """Make a table of several files' figures on the same data, one file per row."""
    table = Table(title="All files")
    heads = ("file", "mean KLD, nats", "same top token", "accuracy", "change", "perplexity")
    for name in heads:
        table.add_column(name, justify="right" if name != "file" else "left", overflow="fold")
    for result in results:
        accuracy = result.accuracy
        cells = [
            f"{result.kld.mean:.2e}" if result.kld else "",
            "" if result.same_top is None else f"{result.same_top:.1%}",
            f"{accuracy.value:.1%}" if accuracy else "",
            split_text.change(given(result.accuracy_change)),
            f"{result.perplexity:.4f}" if result.perplexity else "",
        ]
        table.add_row(Text(result.file), *cells)
    return table


def differences_table(differences: Sequence[FileDifference]) -> Table:
    """Make a table of how the accuracies of files differ over the same questions, two files per row."""
    table = Table(title="Differences, paired question by question")
    for name in split_text.difference_heads(differences):
        table.add_column(Text(name), justify="left" if name == "accuracy" else "right", overflow="fold")
    for row in split_text.difference_rows(differences):
        table.add_row(*map(Text, row))
    return table


def files_table(files: Sequence[tuple[QuantizedModel, Plan]]) -> Table:
    """Make a table of model files, one per row, the smallest first."""
    table = Table(title="Files")
    for name in ("file", "contents", "size", "bpw"):
        table.add_column(name, justify="right" if name in ("size", "bpw") else "left", overflow="fold")
    for model, plan in sorted(files, key=lambda file: file[0].n_bytes):
        table.add_row(Text(model.path.name), plan_text.kind(plan), format_size(model.n_bytes), format_bpw(plan.bpw))
    return table


def eval_table(result: EvalResult) -> Table:
    """Make a table of what was measured of a file, one figure per row, with its interval or spread."""
    against = f"\nagainst {result.reference}" if result.reference else ""
    data = f"\n{result.n_samples} samples of {result.conditions.data}" if result.n_samples else ""
    data += ", with fitted pictures" if result.conditions.has_fitted_images else ""
    gpu_layers = given(result.conditions.gpu_layers)
    data += f"\n--gpu-layers {gpu_layers} on {', '.join(given(result.conditions.gpus) or ())}" if gpu_layers else ""
    table = Table(title=f"{result.file}{against}{data}")
    for name in ("", "value", "95% interval", "median", "90%", "99%"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)

    def add_share(name: str, share: Estimate | None, sign: str = "") -> None:
        if share:
            interval = intervals.between(share.low, share.high, f"{sign}.1%") or intervals.NO_INTERVAL
            table.add_row(Text(name), f"{share.value:{sign}.1%}", interval)

    def add_spread(name: str, spread: Spread | None) -> None:
        if spread:
            quantiles = (f"{value:.0e}" for value in (spread.median, spread.p90, spread.p99))
            table.add_row(
                name,
                f"{spread.mean:.1e}",
                intervals.between(spread.low, spread.high, ".1e") or intervals.NO_INTERVAL,
                *quantiles,
            )

    scored = f", {result.n_scored} questions" if given(result.n_scored) else ""
    splits = given(result.splits) or {}
    mean = (", mean of all" if scored else f", {split_text.all_head(splits)}") if splits else ""
    add_share(f"accuracy ({result.metric}{scored}){mean}", result.accuracy)
    for name, figures in splits.items():
        add_share(f"- {split_text.head(name, figures)}", figures.accuracy)
    add_share("- of the reference", given(result.reference_accuracy))
    add_share("- change", given(result.accuracy_change), "+")
    for name, figures in splits.items():
        add_share(f"- change, {name}", given(figures.accuracy_change), "+")
    add_spread("KLD, nats", result.kld)
    for name, figures in splits.items():
        if kld := given(figures.kld):
            inside = intervals.between(kld.low, kld.high, ".1e") or intervals.NO_INTERVAL
            table.add_row(Text(f"- {split_text.head(name, figures)}"), f"{kld.value:.1e}", inside)
    add_spread("- on prompts", result.kld_prompt)
    add_spread("- on answers", result.kld_answer)
    add_spread("KLD on text", result.kld_text)
    if result.kld and result.kld.floor is not None:
        table.add_row("- noise floor", f"{result.kld.floor:.1e}")
    if result.kld and result.same_top is not None:
        table.add_row("same top token", f"{result.same_top:.1%}")
    if (f1 := given(result.f1)) is not None:
        table.add_row("F1 of yes", f"{f1:.3f}")
    if result.perplexity:
        table.add_row(f"perplexity ({result.n_chunks} chunks)", f"{result.perplexity:.4f}")
    for name, benchmark, metric_name, metric in result.benchmark_metrics:
        stderr = "" if metric.stderr is None else f"standard error {metric.stderr:.4g}"
        table.add_row(f"{name}: {metric_name} ({benchmark.n_samples})", f"{metric.value:.4g}", stderr)
    return table


def reference_table(compared: ReferenceComparison) -> Table:
    """Make a table of what is lost on the way from a checkpoint in transformers to a file, one model per row."""
    table = Table(title=f"{compared.checkpoint} in transformers ({compared.dtype}) and its files")
    for name in comparison_text.HEAD:
        table.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
    for row in comparison_text.rows(compared):
        table.add_row(*map(Text, row))
    table.caption = comparison_text.conditions(compared)
    return table


def sweep_tables(swept: Sweep) -> list[Table]:
    """Make a table of KLD and accuracy by number of low layers and order, and one of uniform files next to LUQ."""
    points = {(p.order, p.seed, p.n_low): p for p in swept.points if p.n_low is not None}
    orders = list(dict.fromkeys(order for order, _, _ in points))
    columns = sorted({(order, seed) for order, seed, _ in points}, key=lambda c: (orders.index(c[0]), c[1]))
    conditions = swept.conditions
    by_count = Table(title=f"mean KLD in nats (accuracy) by number of layers in {conditions.low}\n{conditions.amount}")
    by_count.add_column("low", justify="right")
    by_count.add_column("size", justify="right")
    for order, seed in columns:
        by_count.add_column(order + (f" {seed}" if is_seeded(order) else ""), justify="right")
    for count in sorted({n_low for _, _, n_low in points}):
        row = [points.get((*column, count)) for column in columns]
        size = next(point.n_bytes for point in row if point)
        by_count.add_row(str(count), format_size(size), *(_figures(point.metrics if point else None) for point in row))
    uniform = Table(title="uniform files")
    scored = any(point.metrics.accuracy for point in swept.points)
    more = ("LUQ minus this file",) if scored else ()
    for name in ("file", "size", "bpw", "mean KLD (accuracy)", "LUQ at the same size", *more):
        uniform.add_column(name, justify="left" if name == "file" else "right")
    for point in sorted((p for p in swept.points if p.n_low is None), key=lambda p: p.n_bytes):
        luq = split_text.same_size(swept.points, point)
        luq_cell = f"{luq.n_low} low: {_figures(luq.metrics)}" if luq else "none that small"
        cells = [format_size(point.n_bytes), format_bpw(point.bpw), _figures(point.metrics), luq_cell]
        uniform.add_row(ftype_of(point.order), *cells, *([split_text.against_luq(swept.points, point)] if more else []))
    by_split = _by_split(swept)
    return [by_count, uniform, *([by_split] if by_split else [])]


def _by_split(swept: Sweep) -> Table | None:
    """A table of accuracy by split, in the paper's order and of uniform files; None where there are no splits."""
    splits = split_text.splits_of(swept.points)
    if not splits:
        return None
    table = Table(title=f"accuracy by split, in the order entropy\n{swept.conditions.amount}")
    table.add_column("file")
    for name in (*split_text.heads(splits), "change from the 16-bit file"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, point in split_text.named(swept.points):
        metrics = point.metrics
        parts = [metrics.accuracy, *(figures.accuracy for figures in (given(metrics.splits) or {}).values())]
        cells = [f"{part.value:.1%}" if part else "" for part in parts]
        table.add_row(name, *cells, split_text.change(metrics.accuracy_change))
    return table


def mix_table(mix: CalibrationMix) -> Table:
    """Make a table of KLD by alpha, where it changes the ranking, the importance, or both."""
    arms = ("both", "ranking", "imatrix")
    table = Table(
        title=f"mean KLD in nats (accuracy) by alpha, the share of samples with images\n"
        f"{mix.conditions.amount}; what does not change is the run's own, of alpha {mix.run_alpha:g}"
    )
    for name in ("low", "alpha", "tau of ranking", *(f"changes {arm}" for arm in arms)):
        table.add_column(name, justify="right")
    taus = {ranking.alpha: ranking.kendall_tau for ranking in mix.rankings}
    metrics_of = {(p.n_low, p.alpha, p.changes): p.metrics for p in mix.points}
    for count, alpha in sorted({(p.n_low, p.alpha) for p in mix.points}):
        cells = (_figures(metrics_of.get((count, alpha, arm))) for arm in arms)
        table.add_row(str(count), f"{alpha:g}", f"{taus[alpha]:.2f}", *cells)
    return table


def _figures(metrics: Metrics | None) -> str:
    if metrics is None:
        return ""
    kld = f"{metrics.kld.mean:.1e}" if metrics.kld else ""
    return kld + (f" ({metrics.accuracy.value:.1%})" if metrics.accuracy else "")


def bench_tables(result: Bench) -> list[Table]:
    """Make tables of decode, prefill and memory, with a row for every file and number of threads."""
    conditions = result.conditions
    names = _apart([row.name for row in result.rows])
    layers_on = given(result.machine.layers_on)
    turns = f"{conditions.repetitions} repetitions on {result.machine.cpu}" + (f", {layers_on}" if layers_on else "")
    baseline = names.get(conditions.baseline or "", "Q4_K_M (not given)")
    decode = _speed_table(f"decode of {conditions.generated_tokens} tokens, tokens/s, {turns}", baseline)
    prefill = _speed_table(f"prefill, tokens/s, {turns}", baseline, "prompt")
    files = Table(title="files")
    for name in ("file", "size", "peak memory", "image", "first token", f"{conditions.generated_tokens} tokens"):
        files.add_column(name, justify="left" if name == "file" else "right")
    for row in result.rows:
        cells = (names[row.name], str(row.threads))
        decode.add_row(*cells, *_speeds(row.decode_tps), format_ratio(row.decode_ratio))
        for length, spread in row.prefill.items():
            ratio = format_ratio(row.prefill_ratio) if spread == row.prefill_tps else ""
            prefill.add_row(*cells, length, *_speeds(spread), ratio)
    for row in result.rows_of_most_threads:
        times = (row.image_seconds(key) for key in ("encode_seconds", "first_token_seconds", "answer_seconds"))
        seconds = ("" if time is None else f"{time:.2f} s" for time in times)
        beyond = "" if row.fits_memory else " (exceeds free memory)"
        files.add_row(names[row.name] + beyond, format_size(row.n_bytes), format_size(row.peak_rss_bytes), *seconds)
    return [decode, prefill, files]


def _speed_table(title: str, baseline: str, *more: str) -> Table:
    table = Table(title=title)
    for name in ("file", "threads", *more, "median", "mean", "std", f"x {baseline} (95%)"):
        table.add_column(name, justify="left" if name == "file" else "right")
    return table


def _apart(names: list[str]) -> dict[str, str]:
    """Return file names without the words, between hyphens, that all of them begin with: the model's name."""
    words = [name.replace(".gguf", "").split("-") for name in names]
    same = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))))
    return {name: "-".join(parts[same:]) or name for name, parts in zip(names, words, strict=True)}


def _speeds(spread: Samples) -> tuple[str, str, str]:
    return f"{spread.median:.2f}", f"{spread.mean:.2f}", f"{spread.std:.2f}"


def types_table(speeds: TypeSpeeds, model: str) -> Table:
    """Make a table of the speed of layers in each type, compared with Q4_K."""
    shown = Table(
        title=f"layers of {model} by type, {speeds.threads} threads, prefill of {speeds.prompt_tokens} tokens"
    )
    for name in ("type", "bpw", "GB/s", "decode, 10^9 weights/s", "x Q4_K", "prefill, 10^9 weights/s", "x Q4_K"):
        shown.add_column(name, justify="left" if name == "type" else "right")
    for row in speeds.types:
        a, b = (f"{ratio:.2f}" if ratio else "" for ratio in (row.decode_ratio, row.prefill_ratio))
        decode, prefill = row.decode_weights_per_second / 1e9, row.prefill_weights_per_second / 1e9
        cells = (f"{row.gigabytes_per_second:.1f}", f"{decode:.1f}", a, f"{prefill:.0f}", b)
        shown.add_row(row.type, f"{row.bpw:.2f}", *cells)
    return shown
