"""Measures what is missing of a file, part by part with one loaded model, and keeps each part as it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from luq_gguf.core import atomic
from luq_gguf.core.errors import RunnerError
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.types import EvalData
from luq_gguf.evaluation import cache as measurement_cache
from luq_gguf.evaluation import noise_floor
from luq_gguf.evaluation.cache import Arrays
from luq_gguf.evaluation.context import check_context, place_of
from luq_gguf.evaluation.target import HOW, EvalTarget
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.runtime.client import LlamaClient

Measure = Callable[[LlamaClient, str], tuple[Arrays, str | None]]


def floor_file_of(work: Path, target: EvalTarget, data: EvalData) -> Path:
    """Return the file that keeps a file's noise floor."""
    return work / f"floor-{hash_of(target.key(), data.sha256, noise_floor.HOW)}.json"


def check_finite(values: np.ndarray, model: Path) -> None:
    """Raise RunnerError where values are NaN or infinite: one such weight makes nonsense of every figure."""
    if not np.isfinite(values).all():
        raise RunnerError(
            f"The logits of {model.name} are not finite: its weights are damaged.",
            "Convert it again from a sound checkpoint; luq-gguf verify says more.",
        )


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
    with loaded(target, work) as client:
        for names in missing:
            measure_part(client, names, data, folder, measure, partial(_tell, progress, done, total))
            done += len(names)
        if wanted_floor:
            measure_floor(client, target, data, wanted_floor)


def _tell(progress: Callable[[float, float], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def loaded(target: EvalTarget, work: Path) -> LlamaClient:
    """Return a client of the file, to be entered; `work` keeps the embeddings of images for all files."""
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


def measure_part(
    client: LlamaClient,
    names: Sequence[str],
    data: EvalData,
    folder: Path,
    measure: Measure,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Measure a part and keep it. Raises RunnerError naming the line of a question."""
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


def measure_floor(client: LlamaClient, target: EvalTarget, data: EvalData, kept: Path) -> None:
    """Measure the noise floor of a loaded file and keep it."""
    value = noise_floor.measure(client, data, target.top)
    check_finite(np.array(value), target.model)
    atomic.write_text(kept, json.dumps(value))


def _set_name(data: EvalData) -> str:
    return data.name.split(" + ")[0]
