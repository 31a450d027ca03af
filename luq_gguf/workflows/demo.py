"""The demo: a whole conversion of a tiny model from the repository, and how it changes the answers."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics.intervals import share_bounds
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run.preflight import safe_name
from luq_gguf.workflows import easy_vqa
from luq_gguf.workflows.convert import Conversion, convert


@dataclass(frozen=True)
class FileResult:
    """One file's answers to the same test questions."""

    label: str
    path: Path
    n_bytes: int
    bpw: float
    answers: tuple[str, ...]
    accuracy: float
    interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        facts = {"label": self.label, "file": str(self.path), "n_bytes": self.n_bytes, "bpw": self.bpw}
        return facts | {"accuracy": self.accuracy}


@dataclass(frozen=True)
class Demo:
    """What the demo made and measured; `files` are 16-bit, Q4_K_M, LUQ."""

    converted: Conversion
    questions: tuple[easy_vqa.Question, ...]
    files: tuple[FileResult, ...]

    def to_json(self) -> dict[str, Any]:
        files = [file.to_json() for file in self.files]
        return self.converted.to_json() | {"n_questions": len(self.questions), "files": files}


def unpack(name: str, into: Path) -> tuple[Path, Path | None]:
    """Return the folder of a tiny model ("qwen2.5-vl" or "llava-1.5") and that of easy-VQA's data, None for the
    installed package's: in a clone they lie in the tests, and a wheel carries the first model in an archive, which is
    unpacked into a folder. Raises CheckpointError where there is neither."""
    package = Path(__file__).resolve().parents[1]
    folder, archive = package.parent / "tests" / "models" / f"tiny-{name}", package / "_demo.zip"
    if (folder / "config.json").is_file():
        return folder, None
    if not archive.is_file():
        raise CheckpointError("The demo's models are in the repository, not in this package.", "Run it in a clone.")
    with zipfile.ZipFile(archive) as bundle:
        if f"tiny-{name}/config.json" not in bundle.namelist():
            raise CheckpointError(
                f"The demo's {name} model is in the repository, not in this package.",
                "Run it in a clone, or run luq-gguf demo without --model.",
            )
        for entry in bundle.infolist():  # what is there stays as it is, so that a second demo repeats no stage
            path = into / entry.filename
            if not path.is_file() or path.stat().st_size != entry.file_size:
                bundle.extract(entry, into)
    return into / f"tiny-{name}", into / "easy-vqa"


def run(out: Path, options: RunOptions, reporter: Reporter, *, model: str, low_layers: int, n_questions: int) -> Demo:
    """Convert with that many layers low, then ask all three files the same test questions."""
    run_dir, data = out / model, out / "easy-vqa"
    checkpoint, source = unpack(model, out / "unpacked")
    calibration = CalibrationSet(easy_vqa.write_set(data / "train", "train", 256, data=source), samples=256)
    options = replace(options, keep_f16=True, overwrite=True)  # a demo's folder holds nothing but demos
    wanted = PlanRequest(Budget(low_layers=low_layers))
    converted = convert(str(checkpoint), run_dir, wanted, calibration, options, reporter)
    baseline = quantization_stage.baseline(run_dir, options, reporter)
    f16 = run_dir / f"{safe_name(checkpoint.name)}-F16.gguf"
    pool = easy_vqa.questions("test", source)
    order = np.random.default_rng(0).permutation(len(pool))[:n_questions]
    questions = tuple(pool[i] for i in order)
    pictures = write_pictures(data / "test", questions)
    files = tuple(
        measure(label, path, converted.mmproj, questions, pictures, options.threads, reporter.progress)
        for label, path in (("16-bit", f16), ("Q4_K_M", baseline.path), (f"LUQ-{low_layers}", converted.model.path))
    )
    return Demo(converted, questions, files)


def write_pictures(folder: Path, questions: tuple[easy_vqa.Question, ...]) -> dict[Path, Path]:
    """Write the questions' images as the models see them, once; return their paths by their path in easy-VQA."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {question.image: folder / f"{question.image.stem}.png" for question in questions}
    for source, target in pictures.items():
        if not target.exists():
            easy_vqa.load_image(source).save(target)
    return pictures


def measure(
    label: str,
    path: Path,
    mmproj: Path | None,
    questions: tuple[easy_vqa.Question, ...],
    pictures: dict[Path, Path],
    threads: int | None,
    progress: Callable[[str, float, float], None],
) -> FileResult:
    """Ask a file all questions through llama.cpp; its greedy answers are compared by their words."""
    answers = []
    with LlamaClient(path, mmproj, threads=threads, n_ctx=512) as client:
        for done, question in enumerate(questions, 1):
            answers.append(easy_vqa.normalize(client.ask(question.text, pictures[question.image], max_tokens=4).text))
            progress(f"questions to {label}", done, len(questions))
    right = sum(a == q.answer for a, q in zip(answers, questions, strict=True))
    info = reader.read(path)
    interval = share_bounds(right, len(questions), "wilson")
    return FileResult(label, path, info.n_bytes, info.bpw, tuple(answers), right / len(questions), interval)
