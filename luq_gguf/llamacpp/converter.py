"""llama.cpp's convert_hf_to_gguf.py, run in a child process and never imported.

Its dry runs walk through a checkpoint without reading weights. `view` is the form in which it is shown the checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.checkpoint_view import View
from luq_gguf.core.errors import CheckpointError, ConversionError
from luq_gguf.core.tensor_sources import TensorSource, tensor_source
from luq_gguf.llamacpp import converter_process
from luq_gguf.llamacpp.child import Failure
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.tools import LlamaCpp

_PERCENT = re.compile(r"Writing:\s+(\d+)%")
_MISSING_KEY = re.compile(r"^KeyError: '(\w+)'$", re.MULTILINE)
_UNSUPPORTED = re.compile(r"Model \S+ is not supported$", re.MULTILINE)
_TENSOR = re.compile(r"(?P<name>[\w.]+), +torch\.\S+ --> (?P<type>\w+), shape = \{(?P<shape>[\d, ]+)\}")


def arguments(checkpoint: str, out: str, name: str, options: Sequence[str] = ()) -> list[str]:
    """Return the converter's arguments that make the 16-bit file of a text model; `options` are a checkpoint's
    `converter_options`."""
    return [checkpoint, "--outfile", out, "--outtype", "f16", f"--model-name={name}", *options]


class UnknownArchitectureError(CheckpointError):
    """An architecture that the converter does not know."""


def knows(llama: LlamaCpp, architecture: str) -> bool:
    """Return whether the converter has a class for an architecture, which may still not fit a checkpoint: its sources
    name all that it has."""
    sources = [llama.converter, llama.converter.parent / "conversion" / "__init__.py"]
    return any(f'"{architecture}"' in source.read_text(encoding="utf-8") for source in sources if source.is_file())


Tensors = dict[str, tuple[str, tuple[int, ...]]]  # GGUF name -> 16-bit type and shape (torch order)


def text_tensors(
    llama: LlamaCpp,
    checkpoint: Path,
    header: Path,
    name: str,
    view: View = (),
    sources: Path | None = None,
    *,
    options: Sequence[str] = (),
) -> Tensors:
    """Return every tensor that the converter would write for the text model, and write the metadata and the vocabulary
    that it would have to `header`, a GGUF file without tensors, and which of the checkpoint's tensors make them to
    `sources`, for `read_sources`.

    Split, fused, added and skipped tensors are all as in the real file. Raises CheckpointError with the converter's
    words where it cannot convert the model, as for a tokenizer that it does not know, and UnknownArchitectureError.
    """
    what = "llama.cpp's converter cannot convert this model; it"
    try:
        command = arguments(str(checkpoint), str(header), name, options)
        tensors = _listed(llama, command, what, header, view, sources)
    except CheckpointError as error:
        if _UNSUPPORTED.search(error.message):
            raise UnknownArchitectureError(error.message, error.hint) from None
        raise
    if not tensors:
        raise CheckpointError(
            "llama.cpp's converter did not list any tensors.",
            "Check with luq-gguf doctor whether this llama.cpp is the pinned version.",
        )
    return tensors


def vision_tensors(llama: LlamaCpp, checkpoint: Path, header: Path, name: str, view: View = ()) -> Tensors:
    """Return the same for the vision half; empty where the converter does not recognize any of its tensors.

    Raises CheckpointError with its words where it cannot write this model's.
    """
    command = [*arguments(str(checkpoint), str(header), name), "--mmproj"]
    try:
        return _listed(
            llama, command, "llama.cpp's converter cannot write the vision half of this model; it", header, view
        )
    except CheckpointError as error:
        missing = _MISSING_KEY.search(error.message)
        if missing is None:
            raise
        raise CheckpointError(
            f"{name} has no {missing[1]} in its configuration, which llama.cpp's converter needs for the vision half.",
            f"Add {missing[1]} to preprocessor_config.json, with the value that the model was trained with: its "
            "authors' own file has it.",
        ) from None


def read_sources(path: Path) -> dict[str, TensorSource]:
    """Return the sources of the file's matrices that a dry run has told."""
    return {name: tensor_source(value) for name, value in json.loads(path.read_text()).items()}


def _listed(
    llama: LlamaCpp, command: Sequence[str], what: str, header: Path, view: View, sources: Path | None = None
) -> Tensors:
    """The tensors that a dry run lists."""
    tensors = {}

    def on_line(line: str) -> None:
        if match := _TENSOR.search(line):
            tensors[match["name"]] = match["type"], tuple(int(n) for n in match["shape"].split(",")[::-1])

    failure = Failure(CheckpointError, what)
    command = [*command, "--dry-run"]
    converter_process.run(llama.converter, command, failure, view=view, header=header, sources=sources, on_line=on_line)
    return tensors


def to_16_bit(
    llama: LlamaCpp,
    checkpoint: Path,
    out: Path,
    name: str,
    options: Sequence[str] = (),
    *,
    mmproj: bool = False,
    view: View = (),
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
            converter_process.run(
                llama.converter,
                arguments(str(checkpoint), str(part), name, options) + (["--mmproj"] if mmproj else []),
                Failure(ConversionError, "llama.cpp's converter"),
                view=view,
                on_line=on_line,
                into=out.parent,
            )
            if not part.exists():
                prefixed.replace(part)
        finally:
            prefixed.unlink(missing_ok=True)
    return reader.read_tensors(out)
