"""Writes what a model card says about a finished run. Each figure was measured on this very file, or is left out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Benchmark, EvalResult, largest
from luq_gguf.core.picture_geometry import LimitOptions
from luq_gguf.core.profile_facts import CalibrationFacts
from luq_gguf.core.shown_pictures import ShownPictures
from luq_gguf.core.speeds import BUSY, ON_CPU, Bench
from luq_gguf.core.types import Plan
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.llamacpp import converter_child, labels, tools
from luq_gguf.method.metrics import intervals
from luq_gguf.method.metrics.intervals import format_ratio
from luq_gguf.publishing import card_plan
from luq_gguf.publishing.artifacts import OutputFile, RunArtifacts
from luq_gguf.publishing.card import BaseCard, CardContent, Figure, FileRow, Result, cell
from luq_gguf.quantization import recipe
from luq_gguf.reporting import comparison_text, picture_text
from luq_gguf.reporting.plan_text import describe
from luq_gguf.run import serialization

UNMEASURED = "Neither the quality nor the speed of this file was measured."
FIGURES = {
    "figures/entropy.png": "Entropy of each layer's outputs in bits, with its spread over seeds",
    "figures/types.png": "Tensor types of every layer's matrices",
}


def make_card_content(
    artifacts: RunArtifacts,
    repo: str,
    shards: Sequence[str],
    base: BaseCard,
    base_model: str | None,
    licences: Mapping[str, str | None],
) -> CardContent:
    """Build the card's content.

    `shards` names the model's files in the repository; `licences` maps the Hub datasets that it was calibrated with to
    their licences.
    """
    plan, profile = artifacts.plan, artifacts.profile
    heads, cells, conditions = _measured(artifacts)
    by_hand = _by_hand(artifacts)
    compared = next((c for r in artifacts.evals.get(artifacts.model.name, ()) if (c := given(r.against))), None)
    base_link = f"[{cell(base_model)}](https://huggingface.co/{base_model})" if base_model else cell(profile.model)
    n_low, n_layers, mixed = len(plan.low_layers), len(plan.order), plan.is_mixed
    how = f"{n_low} of {n_layers} decoder layers in {plan.low}, everything else as in {plan.high}"
    how = describe(plan) if mixed else how
    shown = ShownPictures.of_record(artifacts.facts.get("pictures"))
    return CardContent(
        title=f"{profile.model} LUQ-{plan.ranking if mixed else n_low} GGUF",
        summary=f"{base_link}, quantized layer by layer: {how}. It runs in stock llama.cpp.",
        repo=repo,
        tag=labels.tag_of(artifacts.model.name),
        first_file=shards[0],
        more_files=tuple(shards[1:]),
        mmproj=artifacts.mmproj.name if artifacts.mmproj else None,
        measured_heads=heads,
        files=_files(artifacts, shards, cells, len(heads)),
        conditions=conditions or [UNMEASURED],
        warnings=[busy] if artifacts.speeds and artifacts.bench and (busy := _busy(artifacts.bench)) else [],
        compared_conditions=cell(comparison_text.conditions(compared)) if compared else "",
        compared_heads=comparison_text.HEAD,
        compared=[[cell(text) for text in row] for row in comparison_text.rows(compared)] if compared else [],
        why=card_plan.why(artifacts),
        images=[Figure(name, caption) for name, caption in FIGURES.items()],
        calibration=_calibration(profile.calibration, licences) + _importance(plan),
        again=_again(artifacts, base_model),
        command=card_plan.command(artifacts, base_model),
        by_hand=by_hand,
        shown_differently=bool(by_hand) and converter_child.__name__ in by_hand[0],
        imatrix=artifacts.imatrix.name,
        folder=labels.folder_of(artifacts.model.name),
        llama_cpp=str(tools.pin()["version"]),
        pins=_pins(artifacts, base_model),
        licence=_licence(base, base_model),
        limits="".join(f" {part}" for part in shown.limits.arguments),
        pictures=_shown(shown),
        fit_program=shown.rule.program if shown.rule and shown.differs else "",
    )


def results(artifacts: RunArtifacts) -> list[Result]:
    """Return the measured file's figures for the Hub's model-index, of each set of data the largest measurement; shares
    are in percent."""
    rows_of_index: list[Result] = []
    task = "visual-question-answering" if artifacts.mmproj else "text-generation"
    measured = artifacts.evals.get(artifacts.model.name, ())
    main = [largest(r for r in measured if r.conditions.data == data) for data in _sets(measured)]
    for evaluated in filter(None, main):
        data = evaluated.conditions.data or ""
        if evaluated.accuracy:
            fitted = ", fitted pictures" if evaluated.conditions.has_fitted_images else ""
            name = f"accuracy ({evaluated.metric}{fitted})"
            rows_of_index.append(Result(task, data, "accuracy", name, round(100 * evaluated.accuracy.value, 2)))
        if evaluated.kld:
            rows_of_index.append(
                Result(
                    task,
                    data,
                    "kl_divergence",
                    "mean KL divergence from the 16-bit file",
                    float(f"{evaluated.kld.mean:.3g}"),
                )
            )
        if evaluated.perplexity:
            rows_of_index.append(
                Result("text-generation", data, "perplexity", "perplexity", round(evaluated.perplexity, 4))
            )
    for name, benchmark in _benchmarks(measured).items():
        for metric_name, metric in benchmark.metrics.items():
            rows_of_index.append(Result(task, name, metric_name, metric_name, round(metric.value, 4)))
    return rows_of_index


def _sets(results: Sequence[EvalResult]) -> list[str | None]:
    """The names of the data of all measurements, each once."""
    return list(dict.fromkeys(result.conditions.data for result in results))


def _measured(artifacts: RunArtifacts) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Heads of the measured columns, cells of each file that was measured, and the conditions of both."""
    heads: list[str] = []
    cells: dict[str, list[str]] = {file.name: [] for file in (artifacts.model, *artifacts.compared)}
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
        conditions += card_plan.better_elsewhere(artifacts)
    if artifacts.speeds and artifacts.bench:
        _add_speed(artifacts, heads, cells)
        bench = artifacts.bench
        conditions.append(
            f"Speed: {cell(bench.machine.cpu)}{_layers_on(bench)}, {bench.most_threads} threads, medians of "
            f"{bench.conditions.repetitions} repetitions; ratios have the interval in which another run of the same "
            "command is expected to fall (95%)."
        )
    for name, benchmark in _benchmarks(results_of_model).items():
        figures = ", ".join(f"{metric_name} {metric.value:.4g}" for metric_name, metric in benchmark.metrics.items())
        conditions.append(f"{cell(name)} by lmms-eval, {benchmark.n_samples} samples: {cell(figures)}.")
    return heads, cells, conditions


def _benchmarks(results: Sequence[EvalResult]) -> dict[str, Benchmark]:
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


def _busy(bench: Bench) -> str | None:
    """A sentence where the machine had other work, so that the speeds are not its own."""
    shares = bench.machine.busy_share_before, given(bench.machine.others_share_during) or 0.0
    if max(shares) <= BUSY:
        return None
    return (
        f"The speeds were measured while other programs used up to {max(shares):.0%} of this machine: on an idle one "
        "they are higher, and ratios may differ."
    )


def _by_hand(artifacts: RunArtifacts) -> list[str]:
    """The commands of recipe.json; none in a folder of an older version, or if they are about another file."""
    path = artifacts.run.file(recipe.NAME)
    if not path.exists():
        return []
    with serialization.reading(path, "quantize"):
        content = serialization.read_json(path, "quantize")
        if content["outputs"].get(artifacts.model.name) != artifacts.model.sha256:
            return []
        return [shlex.join(map(str, content["commands"][name])) for name in ("convert", "quantize")]


def _quality_conditions(main: EvalResult) -> str:
    on_text = not main.accuracy and not main.kld_prompt
    what = f"{main.n_chunks} chunks of 512 tokens" if on_text else f"{main.n_samples} samples"
    sentence = f"Quality: {what} of {cell(str(main.conditions.data))}"
    sentence += f" against {cell(main.reference)}" if main.reference else ""
    sentence += "; 95% intervals are in brackets" if main.kld or main.accuracy else ""
    if caveat := main.conditions.overlap(main.n_samples):
        sentence += f". {caveat[0].upper()}{caveat[1:]}"
    return sentence + (". KLD is in nats, measured after every text token." if main.kld else ".")


def _shown(shown: ShownPictures) -> list[str]:
    """How llama.cpp shows pictures to the model, where the processor does otherwise."""
    sentences = [picture_text.limits_sentence(shown.limits, "`")] if shown.limits else []
    return sentences + ([picture_text.example_sentence(shown.example)] if shown.differs and shown.example else [])


def _pictures(main: EvalResult) -> str:
    """What was done to the pictures of questions before llama.cpp saw them."""
    if not main.conditions.has_fitted_images:
        return "The pictures were given to llama.cpp as they are."
    numbers = given(main.conditions.image_min_tokens), given(main.conditions.image_max_tokens)
    options = " ".join(LimitOptions(*numbers).arguments)
    limits = f", with `{options}`" if options else ""
    return f"The pictures were first resized as the base model's own processor does{limits} (`luq-gguf fit`)."


def _add_quality(artifacts: RunArtifacts, main: EvalResult, heads: list[str], cells: dict[str, list[str]]) -> None:
    same = {name: _same_data(artifacts.evals.get(name, ()), main) for name in cells}
    same[artifacts.model.name] = main
    if main.kld:
        heads += ["mean KLD", "same top token"]
        for name, result in same.items():
            cells[name] += _divergence(result) if result and result.reference == main.reference else ["", ""]
    if main.accuracy:
        heads.append("accuracy")
        for name, result in same.items():
            share = result.accuracy if result else None
            if share is None and name == main.reference:
                share = given(main.reference_accuracy)
            cells[name].append(
                intervals.with_interval(f"{share.value:.1%}", share.low, share.high, ".1%") if share else ""
            )
    if main.perplexity:
        heads.append("perplexity")
        for name, result in same.items():
            cells[name].append(f"{result.perplexity:.4f}" if result and result.perplexity else "")


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


def _files(artifacts: RunArtifacts, shards: Sequence[str], cells: Mapping[str, Sequence[str]], n: int) -> list[FileRow]:
    plan, blank = artifacts.plan, [""] * n
    kinds = "many types" if plan.is_mixed else f"{len(plan.low_layers)} layers low"
    what = f"text model, {kinds}, {format_bpw(plan.bpw)} bits per weight"
    in_shards = f" in {len(shards)} shards" if len(shards) > 1 else ""
    rows = [
        FileRow(cell(shards[0]), what + in_shards, format_size(artifacts.model.n_bytes), cells[artifacts.model.name])
    ]
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


def _compared_row(file: OutputFile, cells: Sequence[str]) -> FileRow:
    return FileRow(cell(file.name), "for comparison, not in this repository", format_size(file.n_bytes), cells)


def _calibration(facts: CalibrationFacts, licences: Mapping[str, str | None]) -> str:
    commits, (images, text) = facts.commits, facts.sets

    def named(source: object) -> str:
        name = str(source)
        if name not in commits:
            return f"`{name}`, a local file or folder that is not published here"
        data, licence = name.split(":")[0], licences.get(name)
        licence_note = f"licence {cell(licence)}" if licence else "see its card for the licence"
        return f"[{cell(name)}](https://huggingface.co/datasets/{data}) at `{commits[name][:12]}` ({licence_note})"

    parts = []
    if facts.n_multimodal:
        parts.append(f"{facts.n_multimodal} samples with images from {named(images)}")
    if facts.n_text:
        parts.append(f"{facts.n_text} text-only samples from {named(text or images)}")
    return (
        f"{' and '.join(parts)}: {facts.n_tokens} tokens, alpha {facts.alpha:g}, seed {facts.seed}. sha256 of "
        f"the calibration set: `{facts.sha256}`."
    )


def _importance(plan: Plan) -> str:
    """Whose importance it is, where it is not the calibration's."""
    given = plan.imatrix
    if given is None:
        return ""
    return (
        f" Only the order of the layers comes from it: the importance of columns is that of `{cell(given.file)}`, "
        f"which another publisher made from {', '.join(f'`{cell(name)}`' for name in given.datasets)} (sha256 "
        f"`{given.sha256}`)."
    )


def _again(artifacts: RunArtifacts, base_model: str | None) -> str:
    calibration = artifacts.profile.calibration
    local = [source for source in calibration.sources if source not in calibration.commits]
    sentence = "The same inputs and seed give the same plan, and on the same machine the same bytes."
    if local or not base_model:
        sentence += " You need your own copy of these local inputs: " + ", ".join(
            f"`{name}`" for name in (*([] if base_model else [artifacts.profile.model]), *local)
        )
        sentence += "."
    return sentence


def _pins(artifacts: RunArtifacts, base_model: str | None) -> list[tuple[str, str]]:
    pin = tools.pin()
    hub_id = artifacts.base_model
    revision = artifacts.facts.get("revision")
    rows = [("base model", f"{hub_id} at `{revision}`")] if revision and hub_id == base_model else []
    rows.append(("luq-gguf", str(artifacts.facts.get("luq_gguf"))))
    rows.append(("llama.cpp", f"from {pin['package']} {artifacts.facts.get('llama_cpp')}"))
    files = [artifacts.model, *([artifacts.mmproj] if artifacts.mmproj else []), artifacts.imatrix]
    return rows + [(f"sha256 of {cell(file.name)}", f"`{file.sha256}`") for file in files]


def _licence(base: BaseCard, base_model: str | None) -> str:
    whose = f"{base_model}'s" if base_model else "the base model's"
    if base.licence_name:
        name, link = cell(base.licence_name), base.licence.get("license_link")
        linked = f"[{name}]({link})" if link and link.startswith("https://") else name
        return f"These files are under {whose} licence, {linked}."
    return f"These files are under {whose} licence; its card names none, or could not be read."
