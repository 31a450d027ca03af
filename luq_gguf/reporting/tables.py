"""Makes tables of measurements for people."""

from __future__ import annotations

import itertools
from typing import Any

from rich.table import Table

from luq_gguf.core.units import format_size
from luq_gguf.method.metrics.intervals import format_ratio
from luq_gguf.method.orders import is_seeded
from luq_gguf.method.speed_model import SpeedTable
from luq_gguf.method.uniform import ftype_of
from luq_gguf.reporting import figures


def eval_table(content: dict[str, Any]) -> Table:
    """Make a table of what was measured of a file, one figure per row, with its interval or spread."""
    against = f"\nagainst {content['reference']}" if content["reference"] else ""
    data = f"\n{content['n_samples']} samples of {content['conditions']['data']}" if content["n_samples"] else ""
    table = Table(title=f"{content['file']}{against}{data}")
    for name in ("", "value", "95% interval", "median", "90%", "99%"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)

    def share(name: str, key: str, sign: str = "") -> None:
        if content.get(key):
            value, low, high = (content[key][k] for k in ("value", "low", "high"))
            table.add_row(name, f"{value:{sign}.1%}", f"{low:{sign}.1%} to {high:{sign}.1%}")

    scored = f", {content['n_scored']} questions" if content.get("n_scored") else ""
    share(f"accuracy ({content['metric']}{scored})", "accuracy")
    share("- of the reference", "reference_accuracy")
    share("- change", "accuracy_change", "+")
    parts = {"KLD, nats": "kld", "- on prompts": "kld_prompt", "- on answers": "kld_answer", "KLD on text": "kld_text"}
    for name, key in parts.items():
        if content.get(key):
            spread = content[key]
            interval = f"{spread['low']:.1e} to {spread['high']:.1e}"
            quantiles = (f"{spread[q]:.0e}" for q in ("median", "p90", "p99"))
            table.add_row(name, f"{spread['mean']:.1e}", interval, *quantiles)
    if content.get("kld"):
        table.add_row("- noise floor", f"{content['kld']['floor']:.1e}")
        table.add_row("same top token", f"{content['same_top']:.1%}")
    if content.get("f1") is not None:
        table.add_row("F1 of yes", f"{content['f1']:.3f}")
    if content["perplexity"]:
        table.add_row(f"perplexity ({content['n_chunks']} chunks)", f"{content['perplexity']:.4f}")
    for name, entry in (content.get("benchmarks") or {}).items():
        for metric, figure in entry["metrics"].items():
            spread = "" if figure["stderr"] is None else f"standard error {figure['stderr']:.4g}"
            table.add_row(f"{name}: {metric} ({entry['n_samples']})", f"{figure['value']:.4g}", spread)
    return table


def sweep_tables(content: dict[str, Any]) -> list[Table]:
    """Make a table of KLD and accuracy by number of low layers and order, and one of uniform files next to LUQ."""
    points = [point for point in content["points"] if point["n_low"] is not None]
    others = [point for point in content["points"] if point["n_low"] is None]
    columns = sorted({(p["order"], p["seed"]) for p in points}, key=lambda c: [p["order"] for p in points].index(c[0]))
    conditions = content["conditions"]
    data = f"{conditions['n_samples'] or conditions['n_chunks']} samples of {conditions['data']}"
    by_count = Table(title=f"mean KLD in nats (accuracy) by number of layers in {conditions['low']}\n{data}")
    by_count.add_column("low", justify="right")
    by_count.add_column("size", justify="right")
    for order, seed in columns:
        by_count.add_column(order + (f" {seed}" if is_seeded(order) else ""), justify="right")
    for count in sorted({p["n_low"] for p in points}):
        row = {(p["order"], p["seed"]): p for p in points if p["n_low"] == count}
        size = format_size(next(iter(row.values()))["n_bytes"])
        by_count.add_row(str(count), size, *(_figures(row.get(column)) for column in columns))
    uniform = Table(title="uniform files")
    for name in ("file", "size", "bpw", "mean KLD (accuracy)", "LUQ at the same size"):
        uniform.add_column(name, justify="left" if name == "file" else "right")
    paper = [p for p in points if p["order"] == "entropy"]
    for point in sorted(others, key=lambda p: p["n_bytes"]):
        within = [p for p in paper if p["n_bytes"] <= point["n_bytes"]]
        best = min(within, key=lambda p: p["n_low"]) if within else None
        luq_cell = f"{best['n_low']} low: {_figures(best)}" if best else "none that small"
        name = ftype_of(point["order"])
        uniform.add_row(name, format_size(point["n_bytes"]), f"{point['bpw']:.2f}", _figures(point), luq_cell)
    return [by_count, uniform]


def mix_table(content: dict[str, Any]) -> Table:
    """Make a table of KLD by alpha, where it changes the ranking, the importance, or both."""
    conditions, arms = content["conditions"], ("both", "ranking", "imatrix")
    table = Table(
        title=f"mean KLD in nats (accuracy) by alpha, the share of samples with images\n"
        f"{conditions['n_samples'] or conditions['n_chunks']} samples of {conditions['data']}; what does not "
        f"change is the run's own, of alpha {content['run_alpha']:g}"
    )
    for name in ("low", "alpha", "tau of ranking", *(f"changes {arm}" for arm in arms)):
        table.add_column(name, justify="right")
    taus = {row["alpha"]: row["kendall_tau"] for row in content["rankings"]}
    point_of = {(p["n_low"], p["alpha"], p["changes"]): p for p in content["points"]}
    for count, alpha in sorted({(p["n_low"], p["alpha"]) for p in content["points"]}):
        cells = (_figures(point_of.get((count, alpha, arm))) for arm in arms)
        table.add_row(str(count), f"{alpha:g}", f"{taus[alpha]:.2f}", *cells)
    return table


def _figures(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    metrics = point["metrics"]
    kld = f"{metrics['kld']['mean']:.1e}" if metrics["kld"] else ""
    return kld + (f" ({metrics['accuracy']['value']:.1%})" if metrics["accuracy"] else "")


def bench_tables(content: dict[str, Any]) -> list[Table]:
    """Make tables of decode, prefill and memory, with a row for every file and number of threads."""
    conditions, rows = content["conditions"], content["rows"]
    names = _apart([figures.bench_name(row) for row in rows])
    turns = f"{conditions['repetitions']} repetitions on {content['machine']['cpu']}"
    baseline = names.get(conditions["baseline"], "Q4_K_M (not given)")
    decode = _speed_table(f"decode of {conditions['generated_tokens']} tokens, tokens/s, {turns}", baseline)
    prefill = _speed_table(f"prefill, tokens/s, {turns}", baseline, "prompt")
    files = Table(title="files")
    for name in ("file", "size", "peak memory", "image", "first token", f"{conditions['generated_tokens']} tokens"):
        files.add_column(name, justify="left" if name == "file" else "right")
    for row in rows:
        cells = (names[figures.bench_name(row)], str(row["threads"]))
        decode.add_row(*cells, *_speeds(row["decode_tps"]), format_ratio(row["decode_ratio"]))
        for length, spread in row["prefill"].items():
            ratio = format_ratio(row["prefill_ratio"]) if spread == row["prefill_tps"] else ""
            prefill.add_row(*cells, length, *_speeds(spread), ratio)
        if row["threads"] == max(conditions["threads"]):
            times = ("encode_seconds", "first_token_seconds", "answer_seconds")
            seconds = [f"{row['image'][key]['median']:.2f} s" for key in times] if row["image"] else ["", "", ""]
            beyond = "" if row["fits_memory"] else " (exceeds free memory)"
            size, peak = format_size(row["n_bytes"]), format_size(row["peak_rss_bytes"])
            files.add_row(names[figures.bench_name(row)] + beyond, size, peak, *seconds)
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


def _speeds(spread: dict[str, Any]) -> tuple[str, str, str]:
    return f"{spread['median']:.2f}", f"{spread['mean']:.2f}", f"{spread['std']:.2f}"


def types_table(rows: list[dict[str, Any]], model: str, table: SpeedTable) -> Table:
    """Make a table of the speed of layers in each type, compared with Q4_K."""
    shown = Table(title=f"layers of {model} by type, {table.threads} threads, prefill of {table.n_prompt} tokens")
    for name in ("type", "bpw", "GB/s", "decode, 10^9 weights/s", "x Q4_K", "prefill, 10^9 weights/s", "x Q4_K"):
        shown.add_column(name, justify="left" if name == "type" else "right")
    for row in rows:
        decode, prefill = row["decode_weights_per_second"], row["prefill_weights_per_second"]
        ratios = (row["decode_ratio"], row["prefill_ratio"])
        a, b = (f"{ratio:.2f}" if ratio else "" for ratio in ratios)
        speed = f"{row['gigabytes_per_second']:.1f}"
        shown.add_row(row["type"], f"{row['bpw']:.2f}", speed, f"{decode / 1e9:.1f}", a, f"{prefill / 1e9:.0f}", b)
    return shown
