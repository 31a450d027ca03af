"""Checks that prompts and their answers fit in the context, by counting tokens: no weights are loaded for that, so it
is done before anything heavy, also with a header-only GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from luq_gguf.core.errors import EvaluationError, RunnerError
from luq_gguf.core.turns import described
from luq_gguf.core.types import Sample
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.runtime import chat_template
from luq_gguf.llamacpp.runtime.client import LlamaClient

_MARKER = "<__media__>"  # libmtmd's


def place_of(name: str, number: int, sample: Sample) -> str:
    """Return where a question stands in the data set of that name, as people find it."""
    if sample.line:
        return f"{name}, line {sample.line}"
    names = ", ".join(image.name for image in sample.images)
    return f"{name}, question {number + 1}" + (f" ({names})" if names else "")


def check_context(
    model: Path,
    mmproj: Path | None,
    name: str,
    samples: Mapping[int, Sample],
    *,
    n_ctx: int,
    max_tokens: int,
    image_tokens: tuple[int | None, int | None] = (None, None),
) -> None:
    """Raise EvaluationError where a prompt, with its images and an answer of `max_tokens`, does not fit in `n_ctx`, or
    the file's chat template cannot place its images and turns.

    `samples` are the questions of the data set `name` by their number; `model` may be a header-only GGUF;
    `image_tokens` are as LlamaClient's.
    """
    _check_template(model, name, samples)
    too_long: dict[int, int] = {}
    with LlamaClient(model, mmproj, n_ctx=n_ctx, weights=False, image_tokens=image_tokens) as client:
        for number, sample in samples.items():
            try:
                n_prompt = client.count(sample.conversation, sample.images)
            except RunnerError as error:
                raise RunnerError(f"{place_of(name, number, sample)}: {error.message}", error.hint) from None
            if n_prompt + max_tokens > n_ctx:
                too_long[number] = n_prompt
    if not too_long:
        return
    first, most = next(iter(too_long)), max(too_long.values()) + max_tokens
    image = ("", " with its image", " with its images")[min(2, len(samples[first].images))]
    more = f"; {len(too_long) - 1} more are too long, too" if len(too_long) > 1 else ""
    raise EvaluationError(
        f"{place_of(name, first, samples[first])}: the prompt has {too_long[first]} tokens{image}, and its answer may "
        f"have {max_tokens}, but the context has {n_ctx}{more}.",
        f"Give --ctx {most}, leave such lines out, or scale their images down.",
    )


def _check_template(model: Path, name: str, samples: Mapping[int, Sample]) -> None:
    """Raise EvaluationError where the file's chat template cannot place the images and turns of a prompt."""
    asked = {number: sample for number, sample in samples.items() if not sample.is_single}
    metadata = reader.read(model).metadata if asked else {}
    for number, sample in asked.items():
        try:
            chat_template.render_turns(metadata.get("tokenizer.chat_template"), sample.conversation, _MARKER)
        except ValueError as error:
            asked_of = metadata.get("general.name") or model.name
            raise EvaluationError(
                f"{place_of(name, number, sample)}: {asked_of} cannot take {described(sample.conversation)}, because "
                f"{error}.",
                "Leave such lines out.",
            ) from None
