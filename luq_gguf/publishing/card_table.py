"""The model card's table of files: what each is, its size, and what was measured of it, under which conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Benchmark, EvalResult, largest
from luq_gguf.core.picture_geometry import LimitOptions
from luq_gguf.core.speeds import BUSY, ON_CPU, Bench
from luq_gguf.core.types import STOCK, Plan
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.llamacpp import labels
from luq_gguf.method.metrics import intervals, pairs
from luq_gguf.method.metrics.intervals import format_ratio
from luq_gguf.publishing import card_plan
from luq_gguf.publishing.artifacts import OutputFile, RunArtifacts
from luq_gguf.publishing.card import FileRow, cell
from luq_gguf.reporting import choice_text, split_text


def measured(artifacts: RunArtifacts) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Heads of the measured columns, cells of each file that was measured, and the conditions of both."""
    heads: list[str] = []
    cells: dict[str, list[str]] = {file.name: [] for file in (*artifacts.models, *artifacts.compared)}
    conditions: list[str] = []
    results_of_model = artifacts.evals.get(artifacts.model.name, ())
    main = largest(results_of_model)
    if main:
        _add_quality(artifacts, main, heads, cells)
        conditions.append(_quality_conditions(main))
        if artifacts.mmproj and main.n_samples != main.n_chunks:
            conditions.append(_pictures(main))
        n_others = sum(result.is_measured for result in results_of_model) - 1
        if n_others:
            listed = "another measurement" if n_others == 1 else f"{n_others} other measurements"
            conditions.append(f"This is the measurement on the most samples; eval.json has {listed} of this file.")
        conditions += _differences(artifacts, main)
        conditions += card_plan.better_elsewhere(artifacts)
    if artifacts.speeds and artifacts.bench:
        _add_speed(artifacts, heads, cells)
        bench = artifacts.bench
        conditions.append(
            f"Speed: {cell(bench.machine.cpu)}{_layers_on(bench)}, {bench.most_threads} threads, medians of "
            f"{bench.conditions.repetitions} repetitions; ratios have the interval in which another run of the same "
            "command is expected to fall (95%)."
        )
    for name, benchmark in benchmarks(results_of_model).items():
        figures = ", ".join(f"{metric_name} {metric.value:.4g}" for metric_name, metric in benchmark.metrics.items())
        conditions.append(f"{cell(name)} by lmms-eval, {benchmark.n_samples} samples: {cell(figures)}.")
    return heads, cells, conditions


def busy(bench: Bench) -> str | None:
    """A sentence where the machine had other work, so that the speeds are not its own."""
    shares = bench.machine.busy_share_before, given(bench.machine.others_share_during) or 0.0
    if max(shares) <= BUSY:
        return None
    return (
        f"The speeds were measured while other programs used up to {max(shares):.0%} of this machine: on an idle one "
        "they are higher, and ratios may differ."
    )


def _quality_conditions(main: EvalResult) -> str:
    on_text = not main.accuracy and not main.kld_prompt
    what = f"{main.n_chunks} chunks of 512 tokens" if on_text else f"{main.n_samples} samples"
    sentence = f"Quality: {what} of {cell(str(main.conditions.data))}"
    sentence += f" against {cell(main.reference)}" if main.reference else ""
    sentence += "; 95% intervals are in brackets" if main.kld or main.accuracy else ""
    if caveat := main.conditions.overlap(main.n_samples):
        sentence += f". {caveat[0].upper()}{caveat[1:]}"
    return sentence + (". KLD is in nats, measured after every text token." if main.kld else ".")


def _pictures(main: EvalResult) -> str:
    """What was done to the pictures of questions before llama.cpp saw them."""
    if not main.conditions.has_fitted_images:
        return "The pictures were given to llama.cpp as they are."
    numbers = given(main.conditions.image_min_tokens), given(main.conditions.image_max_tokens)
    options = " ".join(LimitOptions(*numbers).arguments)
    limits = f", with `{options}`" if options else ""
    return f"The pictures were first resized as the base model's own processor does{limits} (`luq-gguf fit`)."


def _add_quality(artifacts: RunArtifacts, main: EvalResult, heads: list[str], cells: dict[str, list[str]]) -> None:
    same = _same(artifacts, main)
    if main.kld:
        heads += ["mean KLD", "same top token"]
        for name, result in same.items():
            cells[name] += _divergence(result) if result and result.reference == main.reference else ["", ""]
    if main.accuracy:
        heads.append("accuracy")
        changes = {name: given(result.accuracy_change) if result else None for name, result in same.items()}
        for name, result in same.items():
            share = result.accuracy if result else None
            if share is None and name == main.reference:
                share = given(main.reference_accuracy)
            cells[name].append(split_text.share(share))
        if any(changes.values()):
            heads.append("accuracy, change from 16 bit")
            for name, change in changes.items():
                cells[name].append("" if name == main.reference else split_text.change(change))
    if main.perplexity:
        heads.append("perplexity")
        for name, result in same.items():
            cells[name].append(f"{result.perplexity:.4f}" if result and result.perplexity else "")


def _differences(artifacts: RunArtifacts, main: EvalResult) -> list[str]:
    """A sentence for every other file that answered the same questions, except for the one that `main` is compared with
    anyway."""
    others = [result for name, result in _same(artifacts, main).items() if result and name != main.file]
    paired = [other for other in others if other.file != main.reference and pairs.why_not(other, main) is None]
    return [
        f"Accuracy of {cell(main.file)} minus that of {cell(other.file)}, over the same questions: "
        f"{split_text.change(pairs.between(other, main).accuracy_change)}."
        for other in paired
    ]


def by_split(artifacts: RunArtifacts) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of accuracy by split: of the main file, and of others that were asked the same; none
    where the questions have no splits."""
    main = largest(artifacts.evals.get(artifacts.model.name, ()))
    if main is None:
        return [], []
    shown = split_text.alike([main, *(r for r in _same(artifacts, main).values() if r and r.file != main.file)])
    if main not in shown:
        return [], []
    rows = [[cell(text) for text in row] for row in split_text.accuracy_rows(shown)]
    return ["file", *(cell(head) for head in split_text.heads(given(main.splits) or {}))], rows


def _same(artifacts: RunArtifacts, main: EvalResult) -> dict[str, EvalResult | None]:
    """The measurement of every file under the conditions of `main`."""
    names = [file.name for file in (*artifacts.models, *artifacts.compared)]
    return {name: _same_data(artifacts.evals.get(name, ()), main) for name in names} | {artifacts.model.name: main}


def _divergence(result: EvalResult) -> list[str]:
    kld, same_top = result.kld, result.same_top
    if kld is None or same_top is None:
        return ["", ""]
    return [intervals.with_interval(f"{kld.mean:.2e}", kld.low, kld.high, ".1e"), f"{same_top:.1%}"]


def _same_data(results: Sequence[EvalResult], main: EvalResult) -> EvalResult | None:
    """The measurement of another file under the conditions of `main`."""

    def conditions(result: EvalResult) -> tuple[object, ...]:
        asked = result.conditions
        return asked.data_sha256, asked.max_tokens, asked.has_fitted_images

    return next((result for result in results if conditions(result) == conditions(main)), None)


def _add_speed(artifacts: RunArtifacts, heads: list[str], cells: dict[str, list[str]]) -> None:
    assert artifacts.bench
    baseline = artifacts.bench.conditions.baseline
    heads += ["decode, tokens/s", "prefill, tokens/s"]
    stock = next((row for name, row in artifacts.speeds.items() if name == baseline), None)
    heads += [f"decode, relative to {artifacts.plan.high if stock else cell(str(baseline))}"] if baseline else []
    for name in cells:
        row = artifacts.speeds.get(name)
        prefill = row.prefill_tps if row else None
        cells[name].append(f"{row.decode_tps.median:.1f}" if row else "")
        cells[name].append(f"{prefill.median:.1f}" if prefill else "")
        if baseline:
            cells[name].append(format_ratio(row.decode_ratio) if row else "")


def files(
    artifacts: RunArtifacts, shards: Mapping[str, Sequence[str]], cells: Mapping[str, Sequence[str]], n: int
) -> list[FileRow]:
    plan, blank, main = artifacts.plan, [""] * n, artifacts.model
    models = [(main.name, main.n_bytes, plan), *((file.name, file.n_bytes, file.plan) for file in artifacts.others)]
    advice = choice_text.advice({name: n_bytes for name, n_bytes, _ in models}, _klds(artifacts))
    rows = []
    for name, n_bytes, its_plan in sorted(models, key=lambda model: model[1]):
        what = [f"text model, {_kinds(its_plan)}, {format_bpw(its_plan.bpw)} bits per weight"]
        what[0] += f" in {len(shards[name])} shards" if len(shards[name]) > 1 else ""
        rows.append(FileRow(cell(shards[name][0]), "; ".join(what + advice[name]), format_size(n_bytes), cells[name]))
    if artifacts.mmproj:
        rows.append(
            FileRow(
                cell(artifacts.mmproj.name), "vision encoder (mmproj)", format_size(artifacts.mmproj.n_bytes), blank
            )
        )
    about = "importance matrix, measured with images" if artifacts.mmproj else "importance matrix"
    about = f"{cell(plan.imatrix.file)}, the importance matrix of another publisher" if plan.imatrix else about
    imatrix = f"{labels.folder_of(artifacts.model.name)}/{artifacts.imatrix.name}"
    rows.append(FileRow(cell(imatrix), about, format_size(artifacts.imatrix.n_bytes), blank))
    for file in artifacts.compared:
        if any(cells[file.name]):
            rows.append(_compared_row(file, cells[file.name]))
    return rows


def _kinds(plan: Plan) -> str:
    if plan.ranking == STOCK:
        return "llama-quantize's own mix"
    return "many types" if plan.is_mixed else f"{len(plan.low_layers)} layers low"


def _klds(artifacts: RunArtifacts) -> dict[str, float]:
    """The mean KL divergence of each file that was measured as the main one was."""
    main = largest(artifacts.evals.get(artifacts.model.name, ()))
    if main is None:
        return {}
    klds = {artifacts.model.name: main.kld}
    for file in artifacts.others:
        result = _same_data(artifacts.evals.get(file.name, ()), main)
        klds[file.name] = result.kld if result and result.reference == main.reference else None
    return {name: kld.mean for name, kld in klds.items() if kld}


def _compared_row(file: OutputFile, cells: Sequence[str]) -> FileRow:
    return FileRow(cell(file.name), "for comparison, not in this repository", format_size(file.n_bytes), cells)


def benchmarks(results: Sequence[EvalResult]) -> dict[str, Benchmark]:
    """Of every benchmark the measurement on the most samples, and of several such the last."""
    measured: dict[str, Benchmark] = {}
    for result in results:  # the last one comes first
        for name, benchmark in (given(result.benchmarks) or {}).items():
            if name not in measured or benchmark.n_samples > measured[name].n_samples:
                measured[name] = benchmark
    return measured


def _layers_on(bench: Bench) -> str:
    """Where the layers ran, if not all of them on the CPU."""
    layers_on = given(bench.machine.layers_on)
    return f", {cell(layers_on)}" if layers_on and layers_on != ON_CPU else ""
