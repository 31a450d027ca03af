"""Measures how good a file is on given data: divergence from a reference, accuracy, perplexity, with intervals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import UNSET

from luq_gguf.core import paths, question_scores, text_input
from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.images import content_key
from luq_gguf.core.measurements import Divergence, EvalConditions, EvalResult, Spread
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.sample_content import asked as asked_of
from luq_gguf.core.types import EvalData, Sample
from luq_gguf.evaluation import pictures, scoring, splits
from luq_gguf.evaluation.logprobs import (
    CHUNK,
    Case,
    compare,
    measure_reference,
    read_noise_floor,
    reference_answers,
)
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.hf import datasets
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import mmproj, reader, validate
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import intervals


@dataclass(frozen=True)
class Evaluation:
    """A file's measurements: what eval.json says about it, and what that was computed from."""

    result: EvalResult
    scores: np.ndarray | None
    cases: tuple[Case, ...]


def cache_folder(info: Callable[[str], None]) -> Path:
    """Return the folder where measurements of files outside run folders are kept; it is created if needed. `info` is
    told where it cannot be written."""
    folder = paths.writable("eval", info)
    (folder / ".lock").touch()
    tools.hold(folder / ".lock")
    return folder


def read_data(
    source: str | None, text: Path | None, model: Path, *, n_samples: int | None, n_chunks: int, seed: int, cache: Path
) -> EvalData:
    """Read questions from a set and the first chunks of a text, tokenized by the model's own tokenizer. Questions
    that repeat others, with the same image and answers, are left out.

    Raises EvaluationError if neither is given, and CalibrationError if they cannot be read.
    """
    if source is None and text is None:
        raise EvaluationError("There is no data to measure on.", "Give --data SET, --text FILE or --benchmarks LIST.")
    read = datasets.read_questions(source, n_samples, seed, cache) if source else ()
    chunks = _chunks(model, text, n_chunks) if text else ()
    digest, asked = (hashlib.sha256(json.dumps(chunks).encode()) for _ in range(2))
    samples: dict[str, Sample] = {}
    for sample in read:
        question = asked_of(sample, content_key)
        line = json.dumps([*question, sample.answers])
        if line not in samples:
            samples[line] = sample
            digest.update(line.encode())
            asked.update(json.dumps(question).encode())
    name = " + ".join(datasets.source_name(str(part)) for part in (source, text) if part)
    different = tuple(samples.values())
    return EvalData(name, different, chunks, digest.hexdigest(), asked.hexdigest(), len(read) - len(different))


def no_data(reference: Path | None) -> EvalData:
    """Return empty data, for benchmarks alone. Raises EvaluationError if there is a reference to compare with."""
    if reference:
        raise EvaluationError(
            f"Files are compared with {reference.name} on questions or a text, not on benchmarks.",
            "Give --data SET or --text FILE, or leave --reference out.",
        )
    nothing = hashlib.sha256(b"").hexdigest()
    return EvalData("", (), (), nothing, nothing)


def _chunks(model: Path, text: Path, n_chunks: int) -> tuple[tuple[int, ...], ...]:
    """Cut a text into whole chunks, each starting with BOS if the tokenizer adds it, as llama-perplexity does."""
    try:
        content = text_input.read(text)
    except OSError as error:
        raise EvaluationError(f"{text} cannot be read: {error.strerror}.", "Give --text a text file.") from None
    except ValueError as error:
        raise EvaluationError(f"{text.name} is {error}.", text_input.HINT) from None
    with LlamaClient(model, n_ctx=CHUNK) as client:
        tokens, bos = client.tokenize(content)
    count = min(n_chunks, len(tokens) // CHUNK)
    if not count:
        raise EvaluationError(
            f"{text.name} has {len(tokens)} tokens, but perplexity needs at least {CHUNK}.", "Give a longer text."
        )
    chunks = [tokens[at * CHUNK : (at + 1) * CHUNK] for at in range(count)]
    return tuple(tuple([bos, *chunk[1:]] if bos is not None else chunk) for chunk in chunks)


def find_mmproj(model: Path, given: Path | None, samples: Sequence[Sample]) -> Path | None:
    """Return a file's mmproj as `mmproj_beside` does; None if no sample has an image. Raises EvaluationError, also for
    an image that the model's processor rejects."""
    if not any(sample.images for sample in samples):
        return None
    half = mmproj_beside(model, given, "The data has")
    pictures.check(half, samples)
    return half


def mmproj_beside(model: Path, given: Path | None, what: str) -> Path:
    """Return the given mmproj, or the only one of its checkpoint beside the model, because `what` has images.

    Raises EvaluationError if there is not exactly one, and GGUFFileError if it was made from another checkpoint.
    """
    if given:
        mmproj.check_pair(model, given)
        return given
    candidates = mmproj.candidates(model)
    if len(candidates) != 1:
        problem = "there is no mmproj file" if not candidates else f"there are {len(candidates)} mmproj files"
        raise EvaluationError(f"{what} images, but {problem} beside {model.name}.", "Give --mmproj FILE.")
    mmproj.check_pair(model, candidates[0])
    return candidates[0]


def check_comparable(model: Path, reference: Path) -> None:
    """Raise EvaluationError if the reference is a different model: one with another shape or vocabulary."""
    ours, theirs = reader.read_tensors(model), reader.read_tensors(reference)
    facts = {
        "architecture": "general.architecture",
        "number of layers": f"{ours.arch}.block_count",
        "width": f"{ours.arch}.embedding_length",
    }
    different = {
        what: f": {ours.metadata.get(key)} and {theirs.metadata.get(key)}"
        for what, key in facts.items()
        if ours.metadata.get(key) != theirs.metadata.get(key)
    }
    for what, key in {"vocabulary": "tokenizer.ggml.tokens", "chat template": "tokenizer.chat_template"}.items():
        if validate.entry(model, key) != validate.entry(reference, key):
            different[what] = ""
    if different:
        what, shown = next(iter(different.items()))
        raise EvaluationError(
            f"{model.name} and {reference.name} are not the same model (different {what}{shown}).",
            "Give --reference the 16-bit file of the same checkpoint.",
        )


def evaluate(
    target: EvalTarget,
    reference: EvalTarget | None,
    data: EvalData,
    work: Path,
    *,
    metric: str = "auto",
    cases: Sequence[Case] | None = None,
    floor: float | None = None,
    reporter: Reporter = Reporter(),
    check: bool = False,
) -> Evaluation:
    """Measure a file, and the reference if it has not been measured on this data yet.

    Measurements are kept in `work`; the file's own may be given (`cases`, and its noise `floor`). With `check`, what
    does not fit in the context is refused before anything is measured (EvaluationError). A file that was `made_of` the
    reference's model is not compared with it, and has no sha256 in the result.
    """
    if data.chunks and target.n_ctx < CHUNK:
        raise EvaluationError(
            f"--ctx {target.n_ctx} is less than the {CHUNK} tokens that a chunk of --text has.", f"Give --ctx {CHUNK}."
        )
    chosen = scoring.choose_metrics(metric, data.samples)
    if chosen is None and reference is None and data.samples and not data.chunks:
        raise EvaluationError(
            f"None of the questions of {data.name} has an answer, and no reference was given: nothing can be measured.",
            'Add "answers" to the lines, or give --reference the 16-bit file of the same checkpoint.',
        )
    scoring.tell(chosen, data, reporter)
    folder, theirs = None, None
    if reference:
        if target.made_of is None:
            check_comparable(target.model, reference.model)
        name = f"reference {reference.model.name}"
        told = partial(reporter.progress, name)
        is_reference = target.key() == reference.key()
        folder = measure_reference(reference, data, work, told, check=check, floor=is_reference)
        theirs = reference_answers(folder, data)
    told = partial(reporter.progress, target.model.name)
    if cases is None:
        cases = compare(target, data, folder, work, told, check=check and reference is None)
        floor = read_noise_floor(target, data, work) if reference else None
    answers = [case.answer or "" for case in cases if case.name[0] == "q"]
    scores = scoring.scores(answers, data, chosen)
    before = None if scores is None or theirs is None else scoring.scores(theirs, data, chosen)
    different = set(_different(data))
    asked, read = ([case for case in cases if case.name[0] == kind and case.name in different] for kind in "qt")
    main = asked or read
    same = [case.same_top for case in main if case.same_top is not None]
    nll = [case.nll for case in cases if case.nll is not None]
    klds = {int(case.name[1:]): case.kld for case in asked if case.kld is not None}
    result = EvalResult(
        file=target.model.name,
        file_sha256=UNSET if target.made_of else target.sha256,
        reference=reference.model.name if reference else None,
        n_samples=len(data.samples) or len(data.chunks),
        metric=scoring.metric_name(chosen),
        accuracy=intervals.accuracy(scores) if scores is not None else None,
        f1=scoring.f1_of_yes(answers, data, chosen),
        reference_accuracy=intervals.accuracy(before) if before is not None else UNSET,
        accuracy_change=UNSET if before is None or scores is None else intervals.paired_difference(before, scores),
        kld=_divergence(main, cases, floor),
        kld_prompt=_spread([case.kld[: case.n_prompt] for case in asked if case.kld is not None]),
        kld_answer=_spread([case.kld[case.n_prompt :] for case in asked if case.kld is not None]),
        kld_text=_spread([case.kld for case in read if case.kld is not None]),
        same_top=float(np.concatenate(same).mean()) if same else None,
        perplexity=float(np.exp(np.concatenate(nll).mean())) if nll else None,
        n_chunks=len(data.chunks),
        conditions=EvalConditions(
            data=data.name or None,
            data_sha256=data.sha256,
            max_tokens=target.max_tokens,
            threads=target.threads,
            kept_tokens_per_position=reference.top if reference else None,
            interval=f"95%, percentile bootstrap over samples; none for fewer than {intervals.LEAST}",
            gpu_layers=target.gpu.layers if target.gpu else UNSET,
            gpus=target.gpu.devices if target.gpu else UNSET,
        ),
        n_scored=UNSET if scores is None or len(scores) == len(data.samples) else len(scores),
        scores=UNSET if scores is None else question_scores.packed(scores),
        splits=splits.by_split(data, chosen, scores, before, klds),
        splits_sha256=splits.sha256(data),
    )
    return Evaluation(result, scores, tuple(cases))


def main_cases(data: EvalData) -> list[str]:
    """Return the names of the cases that a mean divergence is over: different prompts, or texts where there are
    none."""
    names = _different(data)
    return [name for name in names if name[0] == "q"] or names


def _different(data: EvalData) -> list[str]:
    """Return the names of the cases of different prompts and chunks: what differs in its answers alone has the same
    divergence, which would count twice."""
    prompts = [(sample.images, sample.conversation) for sample in data.samples]
    names: list[str] = []
    for kind, contents in (("q", prompts), ("t", data.chunks)):
        first: dict[object, int] = {}
        for number, content in enumerate(contents):
            first.setdefault(content, number)
        names += [f"{kind}{number}" for number in first.values()]
    return names


def _divergence(main: Sequence[Case], cases: Sequence[Case], floor: float | None) -> Divergence | None:
    """Summarize the KLD over all text tokens of the prompts and answers, or of the texts if there are no prompts."""
    spread = _spread([case.kld for case in main if case.kld is not None])
    if spread is None:
        return None
    missing = [case.missing for case in cases if case.missing is not None]
    unseen = float(np.mean(missing)) if missing else 0.0
    return Divergence(**vars(spread), floor=floor, missing_beyond_kept=unseen)


def _spread(values: Sequence[np.ndarray]) -> Spread | None:
    """Summarize the values of all samples; None if no sample has any."""
    held = [value for value in values if len(value)]
    if not held:
        return None
    flat = np.concatenate(held).astype(np.float64)
    mean = intervals.mean_over_positions(held)
    median, p90, p99 = (float(np.quantile(flat, q)) for q in (0.5, 0.9, 0.99))
    return Spread(mean.value, mean.low, mean.high, median, p90, p99, len(flat))
