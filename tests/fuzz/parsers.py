"""A coverage-guided fuzzer on the parsers that run in our own process; not part of the test suite.

    python -m pip install --target /tmp/fuzzlib atheris==3.0.0
    PYTHONPATH=/tmp/fuzzlib python tests/fuzz/parsers.py gguf -max_total_time=150

The first argument is one of the parsers below; the others are libFuzzer's. Two minutes each are enough to see whether a
change broke something. The corpus that it begins with is that of tests/support/hostile.py. Anything but a value or a
LuqError ends it with the input in a file named crash-*, slowness in timeout-*: those become tests.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import hostile

with atheris.instrument_imports(include=["luq_gguf", "json"]):
    from luq_gguf.core.errors import LuqError
    from luq_gguf.hf import checkpoint, datasets, weights_files
    from luq_gguf.llamacpp.gguf import imatrix, reader
    from luq_gguf.run import folder as run_folder
    from luq_gguf.run import serialization

FOLDER = Path(tempfile.mkdtemp())


def _run_json(path: Path) -> None:
    run_folder.RunFolder(path.parent).read()


def _index(path: Path) -> None:
    weights_files.find(path.parent)


PARSERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "gguf": ("a.gguf", reader.read),
    "imatrix": ("imatrix.gguf", imatrix.read),
    "safetensors": ("a.safetensors", checkpoint.safetensors_shapes),
    "index": ("model.safetensors.index.json", _index),
    "jsonl": ("a.jsonl", lambda path: list(datasets.read_jsonl(path))),
    "plan": ("plan.json", serialization.read_plan),
    "profile": ("profile.json", serialization.read_profile),
    "run": ("run.json", _run_json),
}


def _seeds(parser: str, folder: Path) -> None:
    """The corpus, and a whole file of each kind from which the fuzzer can learn the keys."""
    given = {
        "gguf": hostile.gguf_files() | {"whole": hostile.WHOLE},
        "imatrix": {"whole": hostile.imatrix()},
        "safetensors": hostile.safetensors_files() | {"whole": hostile.safetensors(hostile.one_tensor())},
        "index": {"whole": b'{"weight_map": {"w": "a.safetensors"}}'},
        "jsonl": hostile.question_files() | {"whole": hostile.LINE.encode() * 2},
        "plan": {"whole": hostile.PLAN.encode()},
        "profile": {"whole": hostile.PROFILE.encode()},
        "run": {"whole": hostile.RUN.encode()},
    }[parser]
    for name, content in given.items():
        if len(content) < 100_000:
            (folder / name).write_bytes(content)


def main() -> None:
    name, parse = PARSERS[sys.argv[1]]
    corpus = Path(tempfile.mkdtemp())
    _seeds(sys.argv[1], corpus)

    def once(data: bytes) -> None:
        (FOLDER / name).write_bytes(data)
        try:
            parse(FOLDER / name)
        except LuqError as refused:
            if not refused.message or not refused.hint:
                raise RuntimeError("an error without a hint") from refused

    atheris.Setup([sys.argv[0], *sys.argv[2:], "-timeout=10", "-rss_limit_mb=4096", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
