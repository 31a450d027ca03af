"""Puts what `luq-gguf demo` needs into the wheel, as one archive: a model of tests/models, and easy-VQA's questions.

The model's weights are rounded to 4 significant bits, since 16 would make the wheel twice as large: the middle of each
interval stands for all numbers in it, which are off by at most 6% and not in one direction.
"""

from __future__ import annotations

import json
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODEL = "qwen2.5-vl"
N_TRAIN = 256  # questions of the train split: as many as the demo calibrates with
ROUNDED = bytes(low & 0xF0 | 0x08 for low in range(256))  # the low byte of a bfloat16 is one bit of exponent, then 7


class DemoArchive(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a clone has the files themselves
            return
        self._folder = tempfile.TemporaryDirectory()  # until the wheel is written
        archive = Path(self._folder.name) / "demo.zip"
        write(Path(self.root), archive)
        build_data["force_include"][str(archive)] = "luq_gguf/_demo.zip"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()


def write(root: Path, archive: Path) -> None:
    """Write the archive from a clone and the installed easy-vqa."""
    import easy_vqa

    data = Path(easy_vqa.__file__).parent / "data"
    folder = root / "tests" / "models" / f"tiny-{MODEL}"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_BZIP2, compresslevel=9) as bundle:
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            name = f"tiny-{MODEL}/{path.name}"
            _add(bundle, name, rounded(content) if path.suffix == ".safetensors" else content)
        for split, count in (("train", N_TRAIN), ("test", None)):
            questions = json.loads((data / split / "questions.json").read_text())
            chosen = questions if count is None else spread(questions, count)
            _add(bundle, f"easy-vqa/{split}/questions.json", json.dumps(chosen).encode())
            for image in sorted({image for *_, image in chosen}):
                picture = data / split / "images" / f"{image}.png"
                _add(bundle, f"easy-vqa/{split}/images/{image}.png", picture.read_bytes(), zipfile.ZIP_STORED)
        _add(bundle, "easy-vqa/LICENSE", next(data.parents[1].glob("easy_vqa-*/LICENSE")).read_bytes())


def spread(questions: list[Any], count: int) -> list[Any]:
    """Return so many questions that stand equally far apart in the list."""
    return [questions[at * len(questions) // count] for at in range(count)]


def rounded(safetensors: bytes) -> bytes:
    """Return a bfloat16 file of safetensors with 4 significant bits per weight."""
    begin = 8 + struct.unpack("<Q", safetensors[:8])[0]
    header, weights = safetensors[:begin], bytearray(safetensors[begin:])
    if any(entry["dtype"] != "BF16" for name, entry in json.loads(header[8:]).items() if name != "__metadata__"):
        raise ValueError("The demo's model is not in bfloat16.")
    weights[0::2] = bytes(weights[0::2]).translate(ROUNDED)
    return header + weights


def _add(bundle: zipfile.ZipFile, name: str, content: bytes, method: int = zipfile.ZIP_BZIP2) -> None:
    """Add a file with a fixed date, so that the same clone gives the same wheel."""
    bundle.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content, method)
