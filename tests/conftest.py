"""Shared fixtures: caches in a temporary folder, no network, the real little model and the real llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent / "support"))

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="session", autouse=True)
def _caches_in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf-home"))


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the trained models."""
    return MODELS


@pytest.fixture(scope="session", params=["tiny-qwen2.5-vl", "tiny-llava-1.5"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Each of the trained models in turn."""
    return MODELS / request.param


@pytest.fixture(scope="session")
def llama():
    from luq_gguf.llamacpp import tools

    return tools.find()


@pytest.fixture(scope="session")
def calibration_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from luq_gguf.workflows import easy_vqa

    return easy_vqa.write_set(tmp_path_factory.mktemp("calibration"), "train", 64)


@pytest.fixture(scope="session")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str, str]]:
    """200 test questions of easy-VQA: picture, question, answer."""
    from luq_gguf.workflows import easy_vqa

    path = easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 200)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(path.parent / row["image"], row["prompt"], row["answers"][0]) for row in rows]


def luq(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "luq_gguf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, **options)


@pytest.fixture(scope="session")
def cli():
    return luq


@dataclass(frozen=True)
class Run:
    folder: Path
    result: dict
    arguments: tuple[str | Path, ...]

    @property
    def model(self) -> Path:
        return Path(self.result["model"])

    @property
    def mmproj(self) -> Path:
        return Path(self.result["mmproj"])

    @property
    def f16(self) -> Path:
        return self.folder / f"{Path(self.arguments[1]).name}-F16.gguf"


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, calibration_file: Path) -> Run:
    """The shipped model converted once, six layers low, by the command line; the 16-bit file kept."""
    folder = tmp_path_factory.mktemp("run") / "out"
    arguments: tuple[str | Path, ...] = (
        "convert",
        tiny_model,
        "--out",
        folder,
        "--calib",
        calibration_file,
        "--samples",
        "64",
    )
    arguments += ("--low-layers", "6", "--keep-f16", "--json")
    done = luq(*arguments)
    assert done.returncode == 0, done.stderr
    return Run(folder, json.loads(done.stdout), arguments)
