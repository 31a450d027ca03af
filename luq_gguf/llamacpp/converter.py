"""llama.cpp's convert_hf_to_gguf.py, run as a child process and never imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.errors import CheckpointError, ConversionError
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.tools import LlamaCpp

_PERCENT = re.compile(r"Writing:\s+(\d+)%")
_MISSING_KEY = re.compile(r"^KeyError: '(\w+)'$", re.MULTILINE)
_TENSOR = re.compile(r"(?P<name>[\w.]+), +torch\.\S+ --> (?P<type>\w+), shape = \{(?P<shape>[\d, ]+)\}")


def _command(llama: LlamaCpp, checkpoint: Path, out: Path, name: str, options: Sequence[str] = ()) -> list[str | Path]:
    return [tools.python(), llama.converter, *arguments(str(checkpoint), str(out), name, options)]


def arguments(checkpoint: str, out: str, name: str, options: Sequence[str] = ()) -> list[str]:
    """Return the converter's arguments that make the 16-bit file of a text model; `options` are a checkpoint's
    `converter_options`."""
    return [checkpoint, "--outfile", out, "--outtype", "f16", f"--model-name={name}", *options]


def metadata_only(
    llama: LlamaCpp, checkpoint: Path, out: Path, name: str, options: Sequence[str] = ()
) -> reader.GGUFInfo:
    """Write the model's metadata and vocabulary without tensors, in seconds for any size of model.

    Raises CheckpointError with the converter's words, as for a tokenizer it does not know.
    """
    command = [*_command(llama, checkpoint, out, name, options), "--vocab-only"]
    child.run(command, child.Failure(CheckpointError, "llama.cpp's converter"), environment=tools.python_environment())
    return reader.read(out)


def text_tensors(
    llama: LlamaCpp, checkpoint: Path, out: Path, name: str, options: Sequence[str] = ()
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return GGUF name -> 16-bit type and shape (torch order) of every tensor that the converter would write for the
    text model.

    It walks through the checkpoint without reading weights, so split, fused, added and skipped tensors are all as in
    the real file. Raises CheckpointError with its words where it cannot convert the model.
    """
    tensors = _listed(
        [*_command(llama, checkpoint, out, name, options), "--dry-run"],
        "llama.cpp's converter cannot convert this model; it",
    )
    if not tensors:
        raise CheckpointError(
            "llama.cpp's converter did not list any tensors.",
            "Check with luq-gguf doctor whether this llama.cpp is the pinned version.",
        )
    return tensors


def vision_tensors(llama: LlamaCpp, checkpoint: Path, out: Path, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the same for the vision half; empty where the converter does not recognize any of its tensors.

    Raises CheckpointError with its words where it cannot write this model's.
    """
    command = [*_command(llama, checkpoint, out, name), "--mmproj", "--dry-run"]
    try:
        return _listed(command, "llama.cpp's converter cannot write the vision half of this model; it")
    except CheckpointError as error:
        missing = _MISSING_KEY.search(error.message)
        if missing is None:
            raise
        raise CheckpointError(
            f"{name} has no {missing[1]} in its configuration, which llama.cpp's converter needs for the vision half.",
            f"Add {missing[1]} to preprocessor_config.json, with the value that the model was trained with: its "
            "authors' own file has it.",
        ) from None


def _listed(command: list[str | Path], what: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors that a dry run lists."""
    tensors = {}

    def on_line(line: str) -> None:
        if match := _TENSOR.search(line):
            tensors[match["name"]] = match["type"], tuple(int(n) for n in match["shape"].split(",")[::-1])

    environment = tools.python_environment()
    child.run(command, child.Failure(CheckpointError, what), on_line=on_line, environment=environment)
    return tensors


def to_16_bit(
    llama: LlamaCpp,
    checkpoint: Path,
    out: Path,
    name: str,
    options: Sequence[str] = (),
    *,
    mmproj: bool = False,
    on_progress: Callable[[float], None] = lambda share: None,
) -> reader.GGUFInfo:
    """Convert the text model, or the vision half, to a 16-bit GGUF file; it is written next to its name and renamed
    when complete.

    Returns its tensors, without metadata.
    """

    def on_line(line: str) -> None:
        if match := _PERCENT.search(line):
            on_progress(int(match[1]) / 100)

    with atomic.whole(out) as part:
        prefixed = part.with_name(f"mmproj-{part.name}")  # the converter prefixes mmproj files
        try:
            child.run(
                _command(llama, checkpoint, part, name, options) + (["--mmproj"] if mmproj else []),
                child.Failure(ConversionError, "llama.cpp's converter"),
                on_line=on_line,
                environment=tools.python_environment(),
                into=out.parent,
            )
            if not part.exists():
                prefixed.replace(part)
        finally:
            prefixed.unlink(missing_ok=True)
    return reader.read_tensors(out)
