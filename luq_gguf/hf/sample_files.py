"""Reads samples from a .jsonl file, line by line, and says of a line that is none what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from luq_gguf.core import json_input, text_input
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.types import Sample
from luq_gguf.hf import sample_rows

LONGEST_LINE = 4 * 1024 * 1024  # characters


def read_jsonl(path: Path, *, with_splits: bool = False) -> Iterator[Sample]:
    """Yield a sample for each line {"image", "prompt", "answers"}, {"messages"} or {"conversations"}; paths are
    relative to the file. Only measuring reads its "split". Raises CalibrationError with the line number and the
    reason."""
    if what := text_input.problem(path):
        raise CalibrationError(f"{path.name} is {what}.", text_input.HINT)
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        # readline with a limit: a file without line ends may be larger than memory
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), 1):
            line = line.strip().removeprefix("\ufeff")  # files put together have marks in the middle
            if not line:
                continue
            try:
                yield _sample(line, number, path.parent, with_splits=with_splits)
            except ValueError as error:
                if number == 1 and line.startswith("["):
                    raise _json_list(path) from None
                raise CalibrationError(
                    f"{path.name}, line {number} is not a sample: {error}.",
                    'Each line is an object {"image": "a.png", "prompt": "...", "answers": ["..."]}, or has "messages" '
                    'or "conversations".',
                ) from None


def _json_list(path: Path) -> CalibrationError:
    return CalibrationError(
        f"{path.name} is a JSON list, and not one object per line.", f"Run jq -c '.[]' {path.name} > {path.stem}.jsonl."
    )


def _sample(line: str, number: int, folder: Path, *, with_splits: bool) -> Sample:
    """Return the sample of a line of that number. Raises ValueError with the reason where it is none."""
    if text_input.not_decoded(line) is not None:
        raise ValueError("it is not UTF-8")
    try:
        row = json_input.parse(line, LONGEST_LINE, unique=True)
    except json.JSONDecodeError as error:
        escaped = "; write / in paths, or \\\\ for one backslash" if "escape" in error.msg else ""
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno}{escaped})") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON that is read ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    sample = sample_rows.sample_of(
        row, lambda value: sample_rows.path_of(folder, sample_rows.image_name(value)), line=number
    )
    if sample is None:
        raise ValueError(sample_rows.missing_prompt(row))
    if not sample.images:
        sample_rows.check_no_other_image(row)
    for text in (*(turn.text for turn in sample.conversation), *sample.answers):
        sample_rows.check_text(text)
    return replace(sample, split=sample_rows.split_of(row)) if with_splits else sample
