"""Writes one self-contained page with all that is known of a run folder, and its figures as PNG files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import EvalResult, largest
from luq_gguf.core.speeds import Bench
from luq_gguf.core.sweeps import CalibrationMix, MeterConditions, MixPoint, Sweep, SweepPoint
from luq_gguf.core.types import Plan, Profile
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.method.metrics import intervals
from luq_gguf.method.metrics.intervals import format_ratio
from luq_gguf.reporting import comparison_text, figures, split_figures, split_text
from luq_gguf.reporting.plan_text import better_line, describe, unsettled_line

_BENCHMARK_HEAD = ("file", "benchmark", "value", "standard error", "samples")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>LUQ report: {{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .conditions { color: #555; font-size: .9rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
</style></head><body>
<h1>{{ title }}</h1>
{% for section in sections %}<h2>{{ section.title }}</h2>
{% for text in section.texts %}<p>{{ text }}</p>
{% endfor %}{% if section.rows %}<div class="wide"><table>
<tr>{% for cell in section.head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endif %}{% for image in section.images %}<figure>
<img alt="{{ image.caption }}" src="data:image/png;base64,{{ image.data }}">
<figcaption>{{ image.caption }}</figcaption></figure>
{% endfor %}{% if section.conditions %}<p class="conditions">{{ section.conditions }}</p>
{% endif %}{% endfor %}</body></html>
"""


@dataclass(frozen=True)
class Image:
    caption: str
    data: str


@dataclass(frozen=True)
class Section:
    """A section of the page: sentences, a table, images, and the conditions of the measurements."""

    title: str
    texts: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    images: Sequence[Image] = ()
    conditions: str = ""


def _image(path: Path, caption: str, conditions: str = "") -> Image:
    return Image(caption + (f" ({conditions})." if conditions else "."), base64.b64encode(path.read_bytes()).decode())


def render(title: str, sections: Sequence[Section]) -> str:
    """Render HTML that loads nothing from elsewhere; all texts are escaped."""
    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(_PAGE).render(title=title, sections=sections)


def profile_section(profile: Profile, plan: Plan | None, folder: Path) -> Section:
    low = plan.low_layers if plan else ()
    figures.entropy_by_layer(profile, low, folder / "entropy.png")
    estimator, calibration = profile.estimator, profile.calibration
    conditions = f"K = {estimator.k}, token vectors {_plain(estimator.token_vectors)}, alpha "
    conditions += f"{calibration.alpha}, {_plain(calibration.sources)}"
    what = "Entropy of each decoder layer's outputs; bars: standard deviation over K-means seeds"
    images = [_image(folder / "entropy.png", what, conditions)]
    if figures.entropy_by_modality(profile, folder / "modality.png"):
        what = "Entropy by depth, for tokens of samples with images and of samples without"
        images.append(_image(folder / "modality.png", what, conditions))
    texts = []
    if (unreached := given(calibration.never_active)) and unreached.sentence:
        texts.append(f"{unreached.sentence[0].upper()}{unreached.sentence[1:]}.")
    if profile.kendall_tau:
        agreement = ", ".join(f"{way} {tau:.2f}" for way, tau in profile.kendall_tau.items())
        texts.append(
            f"Agreement of the ranking between ways of estimating it (Kendall's tau; 1 is the same order): {agreement}."
        )
    facts = {**calibration.to_json(), **estimator.to_json()}
    return Section("Entropy", texts, images=images, conditions=_conditions_line(facts))


def plan_section(plan: Plan, types: Path | None) -> Section:
    texts = [
        f"{describe(plan)}.",
        f"Predicted file: {format_size(plan.predicted_file_bytes, up=True)}, {format_bpw(plan.bpw)} bits per weight.",
    ]
    if measured := plan.measured_kld:
        figure = intervals.with_interval(f"{measured.mean:.3g}", measured.low, measured.high, ".3g")
        texts.append(f"Measured during planning: mean KLD {figure}. Other files that were measured:")
        texts += [f"{file.name}, {format_size(file.file_bytes)}: {file.kld:.3g}." for file in plan.compared]
        if caveat := measured.on.caveat:
            texts.append(f"{caveat[0].upper()}{caveat[1:]}.")
    if better := better_line(plan):
        texts.append(f"{better[0].upper()}{better[1:]}.")
    if unsettled := unsettled_line(plan):
        texts.append(f"{unsettled[0].upper()}{unsettled[1:]}.")
    images = [_image(types, "Tensor types of every layer's matrices in the written file")] if types else []
    counted = "The size is that of the text model; the mmproj and the KV cache are not included."
    return Section("Plan", texts, images=images, conditions=counted)


def sweep_section(swept: Sweep, folder: Path) -> Section:
    points, conditions = swept.points, _measured_on(swept.conditions)
    images = []
    for metric, what in (("kld", "mean KLD"), ("accuracy", "accuracy")):
        drawn = folder / f"order-{metric}.png"
        if figures.order_matters(points, metric, drawn):
            images.append(_image(drawn, f"Order matters: {what} by the number of low layers", conditions))
    if figures.trade_off(points, folder / "trade-off.png"):
        what = "Trade-off: KL divergence by file size, compared with llama-quantize's uniform files"
        images.append(_image(folder / "trade-off.png", what, conditions))
    if split_figures.accuracy_by_split(points, folder / "splits.png"):
        what = (
            "Accuracy by split, and its mean over all questions, by the number of low layers; shaded: 95% interval of "
        )
        what += "the paired change from the 16-bit file, in the paper's order"
        images.append(_image(folder / "splits.png", what, conditions))
    scored = any(point.metrics.accuracy for point in points)
    names = list(split_text.splits_of(points))
    rows = []
    for name, point in split_text.named(points):
        cells = [split_text.change(point.metrics.accuracy_change)] if scored else []
        cells += [split_text.against_luq(points, point) if point.n_low is None else ""] if scored else []
        rows.append([*_row(name, point), *cells, *split_text.metrics_cells(point.metrics, names)])
    head = ["file", "size", "bits per weight of layers", "mean KLD", "95% interval", "same top token", "accuracy"]
    head += ["change from the 16-bit file", "LUQ of the same size minus this file"] if scored else []
    head += [f"{split_text.head(name, splits)}; change" for name, splits in split_text.splits_of(points).items()]
    texts = (split_text.PAIRED,) if scored else ()
    return Section("Sweep", texts, head, rows, images, _conditions_line(swept.conditions.to_json()))


def _measured_on(conditions: MeterConditions) -> str:
    n = f"{conditions.n_samples} questions" if conditions.n_samples else f"{conditions.n_chunks} chunks"
    return (
        f"{n} of {conditions.data}, after every text token, compared with {conditions.reference}; "
        f"low {conditions.low}, high {conditions.high}"
    )


def mix_section(mix: CalibrationMix, folder: Path) -> Section:
    """Make the section on what changes with alpha: files with its ranking, its importance, or both."""
    caption_conditions = (
        f"{_measured_on(mix.conditions)}; what does not change with alpha is the run's own, of alpha {mix.run_alpha:g}"
    )
    images = []
    for count in sorted({point.n_low for point in mix.points}):
        drawn = folder / f"alpha-{count}.png"
        if figures.mix_effect(mix.points, count, "kld", drawn):
            what = f"Mean KLD by alpha with {count} low layers; bars: 95% intervals"
            images.append(_image(drawn, what, caption_conditions))
    taus = ", ".join(f"{ranking.alpha:g}: {ranking.kendall_tau:.2f}" for ranking in mix.rankings)
    texts = [f"Kendall's tau between each alpha's ranking and the run's own (alpha {mix.run_alpha:g}): {taus}."]
    head = ("alpha", "low layers", "changes with alpha", "mean KLD", "95% interval", "accuracy")
    rows = []
    for point in sorted(mix.points, key=lambda p: (p.n_low, p.alpha)):
        _, _, _, kld, interval, _, accuracy = _row("", point)
        arm = figures.ARMS[point.changes]["label"]
        rows.append([f"{point.alpha:g}", str(point.n_low), arm, kld, interval, accuracy])
    return Section("Alpha", texts, head, rows, images, _conditions_line(mix.conditions.to_json()))


def sizes_section(files: Sequence[tuple[str, Mapping[str, int]]], folder: Path) -> Section:
    figures.sizes(files, folder / "sizes.png")
    head = ("file", *files[0][1], "total")
    rows = [[name, *map(format_size, parts.values()), format_size(sum(parts.values()))] for name, parts in files]
    return Section("Sizes", (), head, rows, [_image(folder / "sizes.png", "Sizes of the files of this run")])


def throughput_section(result: Bench, folder: Path) -> Section:
    """Make the section on bench.json: decode and prefill of files, with the machine that they were measured on."""
    conditions, machine = result.conditions, result.machine
    figures.throughput(result.rows_of_most_threads, folder / "throughput.png")
    length = max(conditions.prompt_tokens, default=0)
    caption_conditions = (
        f"{machine.cpu}, {result.most_threads} threads, {conditions.repetitions} repetitions, "
        f"prompts of {length} tokens"
    )
    what = "Decode and prefill; bars: medians, lines: from the slowest to the fastest repetition"
    images = [_image(folder / "throughput.png", what, caption_conditions)]
    baseline = conditions.baseline or "Q4_K_M"
    head = ("file", "threads", "decode", f"x {baseline}", "prefill", f"x {baseline}", "peak memory")
    cells = []
    for row in result.rows:
        prefill = f"{row.prefill_tps.median:.1f}" if row.prefill_tps else ""
        ratios = [format_ratio(row.decode_ratio), format_ratio(row.prefill_ratio)]
        speeds = [f"{row.decode_tps.median:.1f}", ratios[0], prefill, ratios[1]]
        cells.append([row.name, str(row.threads), *speeds, format_size(row.peak_rss_bytes)])
    machine_facts = {key: fact for key, fact in machine.to_json().items() if key != "build"}
    caption_conditions = _conditions_line({**conditions.to_json(), **machine_facts})
    return Section("Throughput", (), head, cells, images, caption_conditions)


def _row(name: str, point: SweepPoint | MixPoint) -> list[str]:
    bits, kld, accuracy = given(point.average_bits), point.metrics.kld, point.metrics.accuracy
    same_top = point.metrics.same_top
    return [
        name,
        format_size(point.n_bytes),
        f"{bits:.2f}" if bits is not None else "",
        f"{kld.mean:.2e}" if kld else "",
        intervals.between(kld.low, kld.high, ".1e") if kld else "",
        f"{same_top:.1%}" if same_top is not None else "",
        intervals.with_interval(f"{accuracy.value:.1%}", accuracy.low, accuracy.high, ".1%") if accuracy else "",
    ]


def largest_of_each(results: Sequence[EvalResult]) -> list[EvalResult]:
    """Return the measurement on the most samples of every file."""
    names = dict.fromkeys(result.file for result in results)
    return [main for name in names if (main := largest(result for result in results if result.file == name))]


def eval_section(results: Sequence[EvalResult]) -> Section:
    """Make the section on eval.json: of every file the largest measurement, with the conditions of the last file's,
    which comes first."""
    shown = largest_of_each(results)
    n_others = sum(result.is_measured for result in results) - len(shown)
    rows = [
        [
            result.file,
            f"{result.kld.mean:.2e}" if result.kld else "",
            f"{result.kld.floor:.1e}" if result.kld and result.kld.floor is not None else "",
            f"{result.same_top:.1%}" if result.same_top is not None else "",
            f"{result.accuracy.value:.1%}" if result.accuracy else "",
            split_text.change(given(result.accuracy_change)),
            f"{result.perplexity:.4f}" if result.perplexity else "",
            str(result.n_samples),
            str(result.conditions.data or "") + (", fitted pictures" if result.conditions.has_fitted_images else ""),
        ]
        for result in shown
    ]
    head = ("file", "mean KLD", "noise floor", "same top token", "accuracy", "change", "perplexity", "samples", "data")
    texts = ["Of every file, the measurement on the most samples is shown."] if n_others else []
    texts += [f"eval.json has {n_others} more."] if n_others else []
    conditions = _conditions_line((shown or results)[0].conditions.to_json())
    return Section("Measured files", texts, head, rows, conditions=conditions)


def reference_section(results: Sequence[EvalResult]) -> Section:
    """Make the section on the last comparison with transformers; it has no rows if there is none."""
    compared = next(filter(None, (given(result.against) for result in results)), None)
    if compared is None:
        return Section("", (), (), ())
    title = "From the checkpoint to the file"
    return Section(title, (comparison_text.conditions(compared),), comparison_text.HEAD, comparison_text.rows(compared))


def benchmarks_section(results: Sequence[EvalResult]) -> Section:
    """Make the section on benchmarks; it has no rows if none was measured."""
    rows = [
        [
            result.file,
            f"{name}: {metric_name}",
            f"{metric.value:.4g}",
            "" if metric.stderr is None else f"{metric.stderr:.2g}",
            str(benchmark.n_samples),
        ]
        for result in results
        for name, benchmark, metric_name, metric in result.benchmark_metrics
    ]
    return Section("Benchmarks", ("Run and scored by lmms-eval.",), _BENCHMARK_HEAD, rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items() if _is_shown(key, inner))
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _is_shown(key: str, value: Any) -> bool:
    return value not in (None, []) and key not in ("seen", "never_active")


def _conditions_line(conditions: Mapping[str, Any]) -> str:
    entries = (
        f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in conditions.items() if _is_shown(key, value)
    )
    return "Conditions: " + "; ".join(entries)
