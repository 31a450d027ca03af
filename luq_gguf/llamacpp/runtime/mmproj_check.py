"""Asks libmtmd whether it can use the mmproj file that the converter would write, before any weight is read.

The file is a header before a hole. libmtmd's loader goes through it as through a real one: it asks for the metadata and
the tensors that the file's projector needs. So no table of ours says what that is for each of its projectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.errors import CheckpointError
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.gguf import header_only

_MISSING = re.compile(r"unable to find tensor (?P<name>\S+)")
_WHY = re.compile(r"failed to load model '.*': (?:\w+: )?(?P<words>.+)")
_ASSERTION = re.compile(r"(?P<words>GGML_ASSERT\(.*)")
_PROGRAM = Path(__file__).with_name("load_mmproj.py")


def check(header: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], name: str) -> None:
    """Check the vision half of the model called `name`: an mmproj file with the metadata of `header`, a GGUF file
    without tensors, and these tensors.

    Raises CheckpointError naming the tensor that libmtmd misses, or with its words.
    """
    path = header.with_name(f"mmproj{atomic.SUFFIX}")
    lines: list[str] = []
    try:
        metadata = header_only.write(path, header, tensors).metadata
        command: list[str | Path] = [tools.python(), _PROGRAM, tools.pinned_libraries(), path]
        child.run(command, child.Failure(CheckpointError, "it"), on_line=lines.append)
    except CheckpointError as error:
        output = "\n".join(lines)
        if missing := _MISSING.search(output):
            raise CheckpointError(
                f"llama.cpp's converter would write the vision half of {name} without {missing['name']}, which libmtmd "
                f"needs for its projector ({metadata.get('clip.projector_type', 'unnamed')}).",
                "Check that the checkpoint is complete, and save it again under the names that it has on the Hub.",
            ) from None
        why = _WHY.search(output) or _ASSERTION.search(output)
        raise CheckpointError(
            "libmtmd cannot load the vision half that llama.cpp's converter would write of "
            f"{name}: {why['words'] if why else error.message.splitlines()[0].strip(':')}",
            "Check that config.json and the processor's files belong to these weights.",
        ) from None
    finally:
        path.unlink(missing_ok=True)
