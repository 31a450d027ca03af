"""Writes what a model card says about a finished run. Each figure was measured on this very file, or is left out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import EvalResult, largest
from luq_gguf.core.profile_facts import CalibrationFacts
from luq_gguf.core.shown_pictures import ShownPictures
from luq_gguf.core.types import Plan
from luq_gguf.llamacpp import converter_child, labels, tools
from luq_gguf.publishing import card_plan, card_table
from luq_gguf.publishing.artifacts import RunArtifacts
from luq_gguf.publishing.card import BaseCard, CardContent, Figure, Result, cell
from luq_gguf.quantization import recipe
from luq_gguf.reporting import comparison_text, picture_text, split_text
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
    shards: Mapping[str, Sequence[str]],
    base: BaseCard,
    base_model: str | None,
    licences: Mapping[str, str | None],
) -> CardContent:
    """Build the card's content.

    `shards` names the files of each model in the repository, the main one's first; `licences` maps the Hub datasets
    that it was calibrated with to their licences.
    """
    plan, profile = artifacts.plan, artifacts.profile
    heads, cells, conditions = card_table.measured(artifacts)
    split_heads, splits = card_table.by_split(artifacts)
    by_hand, own = _by_hand(artifacts), shards[artifacts.model.name]
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
        first_file=own[0],
        more_files=tuple(own[1:]),
        mmproj=artifacts.mmproj.name if artifacts.mmproj else None,
        measured_heads=heads,
        files=card_table.files(artifacts, shards, cells, len(heads)),
        conditions=conditions or [UNMEASURED],
        warnings=[busy] if artifacts.speeds and artifacts.bench and (busy := card_table.busy(artifacts.bench)) else [],
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
        split_heads=split_heads,
        splits=splits,
        split_conditions=f"{split_text.PER_QUESTION} {split_text.PAIRED}",
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
    for name, benchmark in card_table.benchmarks(measured).items():
        for metric_name, metric in benchmark.metrics.items():
            rows_of_index.append(Result(task, name, metric_name, metric_name, round(metric.value, 4)))
    return rows_of_index


def _sets(results: Sequence[EvalResult]) -> list[str | None]:
    """The names of the data of all measurements, each once."""
    return list(dict.fromkeys(result.conditions.data for result in results))


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


def _shown(shown: ShownPictures) -> list[str]:
    """How llama.cpp shows pictures to the model, where the processor does otherwise."""
    sentences = [picture_text.limits_sentence(shown.limits, "`")] if shown.limits else []
    return sentences + ([picture_text.example_sentence(shown.example)] if shown.differs and shown.example else [])


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
    files = [*artifacts.models, *([artifacts.mmproj] if artifacts.mmproj else []), artifacts.imatrix]
    return rows + [(f"sha256 of {cell(file.name)}", f"`{file.sha256}`") for file in files]


def _licence(base: BaseCard, base_model: str | None) -> str:
    whose = f"{base_model}'s" if base_model else "the base model's"
    if base.licence_name:
        name, link = cell(base.licence_name), base.licence.get("license_link")
        linked = f"[{name}]({link})" if link and link.startswith("https://") else name
        return f"These files are under {whose} licence, {linked}."
    return f"These files are under {whose} licence; its card names none, or could not be read."
