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
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np

from luq_gguf.core import atomic
from luq_gguf.core.errors import EvaluationError, RunnerError
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.types import EvalData
from luq_gguf.evaluation import cache as measurement_cache
from luq_gguf.evaluation import noise_floor
from luq_gguf.evaluation.cache import Arrays
from luq_gguf.evaluation.context import check_context, place_of
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.gpu import Offload
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import kld as kld_metric
from luq_gguf.method.metrics.kld import TopLogprobs

HOW = 2  # in what way prompts and pictures are measured: what was kept of other numbers is not read
TOP = 1024  # tokens kept of a position; smaller vocabularies are kept whole
CONTROLS = 64  # positions kept with all of the vocabulary, to say what the rest's single bucket costs
CHUNK = 512  # tokens of text read at once, the second half is scored: as llama-perplexity does


@dataclass(frozen=True)
class EvalTarget:
    """A file and how it is run. `mmproj` is only needed for images; without `answers`, a file that is compared with a
    reference does not generate answers of its own, which takes one token at a time. `image_tokens` are libmtmd's
    --image-min-tokens and --image-max-tokens, None for its own limits. `gpu` says how many layers run on one. `made_of`
    is a key of all that a file was made of, which stands for its contents: it is not read for their hash then."""

    model: Path
    mmproj: Path | None = None
    threads: int | None = None
    n_ctx: int = 4096
    n_batch: int = 512
    max_tokens: int = 32
    top: int = TOP
    answers: bool = True
    image_tokens: tuple[int | None, int | None] = (None, None)
    gpu: Offload | None = None
    made_of: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the model's contents. All of a file is read for it, as it is to be measured."""
        return shards.sha256(self.model)

    def key(self) -> str:
        """Return a hash that changes with the files and with what is asked of them, but not with settings of speed, nor
        with the context: what does not fit in it is refused before it is measured."""
        vision = content_of(self.mmproj) if self.mmproj else None
        contents = self.made_of or self.sha256
        return hash_of(
            HOW, tools.identity(), contents, vision, self.max_tokens, self.top, self.answers, *self.circumstances
        )

    @property
    def circumstances(self) -> tuple[object, ...]:
        """What figures depend on beside files and questions, in keys: the token limits of pictures and the GPU. Empty
        where these are libmtmd's own and the CPU, as in keys of old."""
        limits = () if self.image_tokens == (None, None) else (self.image_tokens,)
        return (*limits, *([self.gpu.key] if self.gpu else []))


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

    floor_file = _floor_file(work, target, data) if floor else None
    measure_missing(target, data, folder, work, measure, progress, check=check, floor=floor_file)
    return folder


Measure = Callable[[LlamaClient, str], tuple[Arrays, str | None]]


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
    measure, floor = _comparison(target, data, reference), _floor_file(work, target, data) if reference else None
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
    measure, floor = _comparison(target, data, reference), _floor_file(folder, target, data)
    cases: list[Case] = []
    with ExitStack() as stack:

        @cache
        def client() -> LlamaClient:
            make()
            return stack.enter_context(_client(target, work))

        for name in order:
            if not goes_on(cases):
                return _checked(target, cases)
            if not measurement_cache.path(folder, [name]).exists():
                _measure_part(client(), [name], data, folder, measure)
            cases += [_case(*kept) for kept in measurement_cache.read(folder, data, [[name]])]
        if not floor.exists():
            _measure_floor(client(), target, data, floor)
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
        _check_finite(values, target.model)  # of figures that were kept by a version that did not look
    return cases


def reference_answers(folder: Path, data: EvalData) -> list[str]:
    """Return the reference's greedy answers to all prompts."""
    return [answer for _, _, answer in measurement_cache.read(folder, data) if answer is not None]


def read_noise_floor(target: EvalTarget, data: EvalData, work: Path) -> float:
    """Return a file's noise floor, as it was measured in `work` with all else."""
    return float(json.loads(_floor_file(work, target, data).read_text()))


def _floor_file(work: Path, target: EvalTarget, data: EvalData) -> Path:
    return work / f"floor-{hash_of(target.key(), data.sha256, noise_floor.HOW)}.json"


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
        _check_finite(measurement.log_probabilities, target.model)
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
    _check_finite(rows, target.model)
    nll = -np.take_along_axis(rows, np.array(chunk[half + 1 :])[:, None], axis=1)[:, 0]
    return _CaseLogprobs(rows, np.array(chunk, np.int32), np.empty(0, np.int32), None, nll)


def _check_finite(values: np.ndarray, model: Path) -> None:
    """Raise RunnerError where values are NaN or infinite: one such weight makes nonsense of every figure."""
    if not np.isfinite(values).all():
        raise RunnerError(
            f"The logits of {model.name} are not finite: its weights are damaged.",
            "Convert it again from a sound checkpoint; luq-gguf verify says more.",
        )


def _ints(tokens: np.ndarray | None) -> list[int] | None:
    return None if tokens is None else [int(token) for token in tokens]


def _folder(work: Path, what: str, target: EvalTarget, data: EvalData) -> Path:
    folder = work / _folder_name(what, target, data)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folder_name(what: str, target: EvalTarget, data: EvalData) -> str:
    return f"{what}-{target.key()}-{data.asked_sha256[:16]}"


def measure_missing(
    target: EvalTarget,
    data: EvalData,
    folder: Path,
    work: Path,
    measure: Measure,
    progress: Callable[[float, float], None],
    *,
    check: bool,
    floor: Path | None = None,
) -> None:
    """Measure the cases whose parts are not in `folder`, and the noise floor where the file `floor` is wanted and not
    there: all with one loaded model."""
    missing = [names for names in measurement_cache.names(data) if not measurement_cache.path(folder, names).exists()]
    total = len(data.samples) + len(data.chunks)
    done = total - sum(map(len, missing))
    wanted_floor = None if floor is None or floor.exists() else floor
    if not missing and wanted_floor is None:
        return
    if check and missing:
        numbers = [int(case[1:]) for names in missing for case in names if case[0] == "q"]
        asked = {number: data.samples[number] for number in numbers}
        room = {"n_ctx": target.n_ctx, "max_tokens": target.max_tokens}
        check_context(target.model, target.mmproj, _set_name(data), asked, **room, image_tokens=target.image_tokens)
    with _client(target, work) as client:
        for names in missing:
            _measure_part(client, names, data, folder, measure, partial(_tell, progress, done, total))
            done += len(names)
        if wanted_floor:
            _measure_floor(client, target, data, wanted_floor)


def _tell(progress: Callable[[float, float], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _client(target: EvalTarget, work: Path) -> LlamaClient:
    embeddings = None
    if target.mmproj:
        made_by = (HOW, tools.identity(), content_of(target.mmproj), *target.circumstances)
        embeddings = work / f"images-{hash_of(*made_by)[:16]}"
        embeddings.mkdir(exist_ok=True)
    return LlamaClient(
        target.model,
        target.mmproj,
        threads=target.threads,
        n_ctx=max(target.n_ctx, noise_floor.TOKENS),
        n_batch=target.n_batch,
        embeddings=embeddings,
        image_tokens=target.image_tokens,
        gpu=target.gpu,
    )


def _measure_part(
    client: LlamaClient,
    names: Sequence[str],
    data: EvalData,
    folder: Path,
    measure: Measure,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    arrays: Arrays = {}
    answers: dict[str, str] = {}
    for done, case in enumerate(names, 1):
        try:
            case_arrays, answer = measure(client, case)
        except RunnerError as error:
            if case[0] != "q":
                raise
            place = place_of(_set_name(data), number := int(case[1:]), data.samples[number])
            raise RunnerError(f"{place}: {error.message}", error.hint) from None
        arrays |= {f"{case}.{key}": np.ascontiguousarray(value) for key, value in case_arrays.items()}
        if answer is not None:
            answers[case] = answer
        progress(done)
    measurement_cache.save(folder, names, arrays, answers)


def _measure_floor(client: LlamaClient, target: EvalTarget, data: EvalData, kept: Path) -> None:
    value = noise_floor.measure(client, data, target.top)
    _check_finite(np.array(value), target.model)
    atomic.write_text(kept, json.dumps(value))


def _set_name(data: EvalData) -> str:
    return data.name.split(" + ")[0]


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
