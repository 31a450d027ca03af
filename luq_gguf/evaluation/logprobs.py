"""Measures a file's log-probabilities on prompts and texts part by part and keeps them, so that nothing is measured
twice.

Of a reference, the log-probabilities of the k most probable tokens of every position are kept; another file is compared
with them while its own are in memory. A part is a few prompts; a killed measurement only repeats the part it was in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.types import EvalData
from luq_gguf.evaluation import cache as measurement_cache
from luq_gguf.evaluation.cache import Arrays
from luq_gguf.evaluation.parts import (
    Measure,
    check_finite,
    floor_file_of,
    loaded,
    measure_floor,
    measure_missing,
    measure_part,
)
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import kld as kld_metric
from luq_gguf.method.metrics.kld import TopLogprobs

CONTROLS = 64  # positions kept with all of the vocabulary, to say what the rest's single bucket costs
CHUNK = 512  # tokens of text read at once, the second half is scored: as llama-perplexity does


@dataclass(frozen=True)
class Case:
    """What was measured of one prompt or chunk: `name` is q<number> or t<number>.

    kld, same_top [n] are None without a reference; n_prompt positions of them belong to the prompt, the others to the
    answer. nll [n] is of texts, `answer` of prompts. `missing`: the KLD that kept tokens do not show, where known.
    """

    name: str
    answer: str | None
    n_prompt: int
    kld: np.ndarray | None
    same_top: np.ndarray | None
    nll: np.ndarray | None
    missing: float | None


def measure_reference(
    target: EvalTarget,
    data: EvalData,
    work: Path,
    progress: Callable[[float, float], None] = lambda done, total: None,
    *,
    check: bool = False,
    floor: bool = False,
) -> Path:
    """Measure a reference's log-probabilities as far as they are missing, and return the folder that has them. With
    `check`, prompts that do not fit in the context are refused before the first is measured (EvaluationError); with
    `floor`, its own noise floor is measured too."""
    folder = _folder(work, "reference", target, data)

    def measure(client: LlamaClient, name: str) -> tuple[Arrays, str | None]:
        scored = _score(client, target, data, name, None)
        top = kld_metric.keep_top(scored.rows, target.top)
        arrays = {"tokens": top.tokens, "log_probabilities": top.log_probabilities, "tail": top.tail}
        arrays |= {"prompt": scored.prompt, "forced": scored.forced}
        if scored.nll is not None:
            arrays["nll"] = scored.nll
        if target.top < client.n_vocab and int(name[1:]) < CONTROLS:
            at = max(0, len(scored.prompt) - 1)
            arrays["control"] = scored.rows[at : at + 1]
        return arrays, scored.answer

    floor_file = floor_file_of(work, target, data) if floor else None
    measure_missing(target, data, folder, work, measure, progress, check=check, floor=floor_file)
    return folder


def compare(
    target: EvalTarget,
    data: EvalData,
    reference: Path | None,
    work: Path,
    progress: Callable[[float, float], None] = lambda done, total: None,
    *,
    check: bool = False,
) -> list[Case]:
    """Return a file's answers and, with a reference's folder, its divergences; what was measured before is read. Its
    noise floor is measured with them, and a file that is the reference is not asked again: its divergence is 0.

    `work` keeps the figures, and what is shared between files, such as image embeddings; `check` is that of
    `measure_reference`, for a file without a reference.
    Raises EvaluationError if the file tokenizes a prompt differently from the reference.
    """
    if reference and reference.name == _folder_name("reference", target, data):
        return [_own_case(name, arrays, answer) for name, arrays, answer in measurement_cache.read(reference, data)]
    folder = _folder(work, f"file-{reference.name if reference else 'alone'}", target, data)
    measure, floor = _comparison(target, data, reference), floor_file_of(work, target, data) if reference else None
    measure_missing(target, data, folder, work, measure, progress, check=check, floor=floor)
    return _checked(target, [_case(*kept) for kept in measurement_cache.read(folder, data)])


def race(
    target: EvalTarget,
    data: EvalData,
    reference: Path,
    work: Path,
    folder: Path,
    order: Sequence[str],
    goes_on: Callable[[Sequence[Case]], bool] = lambda cases: True,
    make: Callable[[], object] = lambda: None,
) -> list[Case]:
    """Return what `compare` does, but of the cases in an order, and of as many as `goes_on` asks for after each.

    `folder` keeps the file's figures case by case, and its noise floor behind all of them; `make` makes the file, if
    something of it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measure, floor = _comparison(target, data, reference), floor_file_of(folder, target, data)
    cases: list[Case] = []
    with ExitStack() as stack:

        @cache
        def client() -> LlamaClient:
            make()
            return stack.enter_context(loaded(target, work))

        for name in order:
            if not goes_on(cases):
                return _checked(target, cases)
            if not measurement_cache.path(folder, [name]).exists():
                measure_part(client(), [name], data, folder, measure)
            cases += [_case(*kept) for kept in measurement_cache.read(folder, data, [[name]])]
        if not floor.exists():
            measure_floor(client(), target, data, floor)
    return _checked(target, cases)


def _comparison(target: EvalTarget, data: EvalData, reference: Path | None) -> Measure:
    reference_arrays = measurement_cache.Reference(reference) if reference else None

    def measure(client: LlamaClient, name: str) -> tuple[Arrays, str | None]:
        expected = reference_arrays.arrays(name) if reference_arrays else None
        scored = _score(client, target, data, name, expected["forced"] if expected else None)
        arrays = {"n_prompt": np.array([max(0, len(scored.prompt) - 1)])}
        if scored.nll is not None:
            arrays["nll"] = scored.nll
        if expected:
            if not np.array_equal(expected["prompt"], scored.prompt):
                raise EvaluationError(
                    f"{target.model.name} tokenizes {name} differently from the reference.",
                    "Compare files of the same model with the same vocabulary and chat template.",
                )
            top = TopLogprobs(expected["tokens"], expected["log_probabilities"], expected["tail"])
            arrays["kld"] = kld_metric.kl_from_top(top, scored.rows).astype(np.float32)
            arrays["same_top"] = expected["tokens"][:, 0] == scored.rows.argmax(axis=1)
            if "control" in expected:
                at = max(0, len(scored.prompt) - 1)
                full_kld = kld_metric.kl_divergence(expected["control"], scored.rows[at : at + 1])
                arrays["missing"] = full_kld - arrays["kld"][at : at + 1]
        return arrays, scored.answer

    return measure


def _checked(target: EvalTarget, cases: list[Case]) -> list[Case]:
    for values in (value for case in cases for value in (case.kld, case.nll) if value is not None):
        check_finite(values, target.model)  # of figures that were kept by a version that did not look
    return cases


def reference_answers(folder: Path, data: EvalData) -> list[str]:
    """Return the reference's greedy answers to all prompts."""
    return [answer for _, _, answer in measurement_cache.read(folder, data) if answer is not None]


def read_noise_floor(target: EvalTarget, data: EvalData, work: Path) -> float:
    """Return a file's noise floor, as it was measured in `work` with all else."""
    return float(json.loads(floor_file_of(work, target, data).read_text()))


@dataclass(frozen=True)
class _CaseLogprobs:
    rows: np.ndarray
    prompt: np.ndarray
    forced: np.ndarray
    answer: str | None
    nll: np.ndarray | None


def _score(
    client: LlamaClient, target: EvalTarget, data: EvalData, name: str, forced: np.ndarray | None
) -> _CaseLogprobs:
    number = int(name[1:])
    if name[0] == "q":
        sample = data.samples[number]
        most = target.max_tokens if target.answers or forced is None else 0
        measurement = client.measure(sample.conversation, sample.images, max_tokens=most, forced=_ints(forced))
        check_finite(measurement.log_probabilities, target.model)
        return _CaseLogprobs(
            measurement.log_probabilities,
            np.array(measurement.prompt, np.int32),
            np.array(measurement.forced, np.int32),
            measurement.text,
            None,
        )
    chunk = data.chunks[number]
    half = CHUNK // 2
    rows = client.score_tokens(chunk[:-1], half)
    check_finite(rows, target.model)
    nll = -np.take_along_axis(rows, np.array(chunk[half + 1 :])[:, None], axis=1)[:, 0]
    return _CaseLogprobs(rows, np.array(chunk, np.int32), np.empty(0, np.int32), None, nll)


def _ints(tokens: np.ndarray | None) -> list[int] | None:
    return None if tokens is None else [int(token) for token in tokens]


def _folder(work: Path, what: str, target: EvalTarget, data: EvalData) -> Path:
    folder = work / _folder_name(what, target, data)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folder_name(what: str, target: EvalTarget, data: EvalData) -> str:
    return f"{what}-{target.key()}-{data.asked_sha256[:16]}"


def _own_case(name: str, arrays: Arrays, answer: str | None) -> Case:
    """What a reference's measurements say of itself."""
    n, n_prompt = len(arrays["tokens"]), max(0, len(arrays["prompt"]) - 1) if name[0] == "q" else 0
    missing = 0.0 if "control" in arrays else None
    kld, same_top = np.zeros(n, np.float32), np.ones(n, np.bool_)
    return Case(name, answer, n_prompt, kld, same_top, arrays.get("nll"), missing)


def _case(name: str, arrays: Arrays, answer: str | None) -> Case:
    missing = arrays.get("missing")
    return Case(
        name,
        answer,
        int(arrays["n_prompt"][0]) if name[0] == "q" else 0,
        arrays.get("kld"),
        arrays.get("same_top"),
        arrays.get("nll"),
        None if missing is None else float(missing[0]),
    )
