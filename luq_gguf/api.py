"""The product as a library: each function does what the command of its name does, and returns a frozen value with
`to_json()`.

Nothing is printed: a `Reporter` is told what happens (`progress()` gives one that shows it). Errors are children of
LuqError. Paths may be text. Where text stands for a CalibrationSet it names its images, and for a QuestionSet its
questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from luq_gguf.benchmarking.file_benchmark import BenchRequest
from luq_gguf.core import machine
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.checks import CheckReport
from luq_gguf.core.choice import Choice
from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.measurements import EvalResult
from luq_gguf.core.memory_use import ContextShape
from luq_gguf.core.picture_geometry import FittedPicture
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.speeds import Bench, TypeSpeeds
from luq_gguf.core.sweeps import Sweep
from luq_gguf.core.types import Budget, Plan, Profile, RunOptions
from luq_gguf.diagnostics import verify as verification
from luq_gguf.evaluation.benchmarks.run import BenchmarkRequest
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.method import orders, uniform
from luq_gguf.planning.mixed_precision import BestRequest
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.publishing import upload as publication
from luq_gguf.publishing.access import Target
from luq_gguf.publishing.upload import Upload
from luq_gguf.workflows import against as comparison
from luq_gguf.workflows import bench as benches
from luq_gguf.workflows import choose as choosing
from luq_gguf.workflows import convert as conversion
from luq_gguf.workflows import evaluate as evaluation
from luq_gguf.workflows import pictures as picture_files
from luq_gguf.workflows import pipeline
from luq_gguf.workflows.bench import ShapeRequest
from luq_gguf.workflows.calibration_mix import CalibrationMixRequest
from luq_gguf.workflows.choose import ChooseRequest
from luq_gguf.workflows.convert import Conversion
from luq_gguf.workflows.sweep import SweepRequest

Source = str | Path


def convert(
    model: Source,
    out: Source,
    budget: Budget | Sequence[Budget],
    calibration: CalibrationSet | Source = CalibrationSet(),
    *,
    questions: QuestionSet | Source | None = None,
    rank: str = "entropy",
    best: BestRequest | None = None,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    predict_speed: bool = False,
    context: ContextShape = ContextShape(4096),
    rules: PlanRules = PlanRules(),
    imatrix: Source | None = None,
    also: Sequence[str] = (),
    target: Target | None = None,
    base_model: str | None = None,
    check: bool = False,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Conversion:
    """Convert a checkpoint folder or Hub id to a LUQ GGUF file in the folder `out`; finished stages are not repeated.

    With several budgets there is a file for each, and with file types in `also` llama-quantize's own file of each
    beside them: one profile and one 16-bit file are enough for all.

    Layers become `low` in the order `rank` within the budget, or every tensor has the best type (`best`). Files are
    measured on `questions`, or on the calibration set's, where the plan asks for that; tensor types are, for
    `predict_speed`, where their speeds are not known. `rules` keep layers high, and name types of head and embeddings;
    importance is that of the GGUF file `imatrix`, where it is given. The result is published at `target`, whose write
    access is checked first. With `check`, what llama.cpp predicts with the 16-bit file is compared with transformers,
    as `verify` does `against` a checkpoint.
    """
    data = _set(calibration)
    budgets = [budget] if isinstance(budget, Budget) else list(budget)
    requests = [
        PlanRequest(
            each, rank, data.seed, best, _questions(questions), low, high, predict_speed,
            context=context, rules=rules, imatrix=_file(imatrix),
        )
        for each in budgets
    ]  # fmt: skip
    return conversion.convert(
        str(model), _path(out), requests, data, options, reporter,
        also=also, target=target, base_model=base_model, check=check,
    )  # fmt: skip


def profile(
    model: Source,
    out: Source,
    calibration: CalibrationSet | Source = CalibrationSet(),
    *,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Profile:
    """Run the calibration set through a model once; `out` receives profile.json and imatrix.gguf."""
    return pipeline.profile(str(model), _path(out), _set(calibration), options, reporter)


def plan(
    run: Source,
    budget: Budget,
    *,
    questions: QuestionSet | Source | None = None,
    rank: str = "entropy",
    best: BestRequest | None = None,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    seed: int = 0,
    predict_speed: bool = False,
    context: ContextShape = ContextShape(4096),
    rules: PlanRules = PlanRules(),
    imatrix: Source | None = None,
    model: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Plan:
    """Choose a type for every tensor of a profiled run folder's model, and write plan.json and tensor-types.txt.

    `model` is the checkpoint, if it is not where the profile found it, or a GGUF file in its place, which needs no
    profile where `rank` measures files or `rules` name the layers; the rest is as for `convert`.
    """
    wanted = PlanRequest(
        budget,
        rank,
        seed,
        best,
        _questions(questions),
        low,
        high,
        predict_speed,
        context=context,
        rules=rules,
        imatrix=_file(imatrix),
    )
    return pipeline.plan(_path(run), wanted, options, reporter, model=_text(model))


def quantize(
    run: Source,
    *,
    rules: PlanRules = PlanRules(),
    imatrix: Source | None = None,
    model: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Conversion:
    """Write the GGUF file and mmproj of a run folder's plan.json, and compare every tensor's type with the plan.

    `rules` change the plan before: layers become high, head and embeddings get types. Importance is that of the GGUF
    file `imatrix`, where it is given, in place of the plan's.
    """
    return pipeline.quantize_plan(
        _path(run), options, reporter, model=_text(model), imatrix=_file(imatrix), obeyed=rules
    )


def evaluate(
    file: Source,
    questions: QuestionSet | Source | None = None,
    *,
    reference: Source | None = None,
    mmproj: Source | None = None,
    benchmarks: BenchmarkRequest | None = None,
    fit_images: bool = False,
    threads: int | None = None,
    gpu_layers: int | None = None,
    against: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> EvalResult:
    """Measure a GGUF file on questions, text or benchmarks, and its divergence from a 16-bit `reference`.

    In a run folder the result is also written to eval.json. The mmproj is the only one beside the file, if not given.
    `gpu_layers` of the layers run on a GPU, if the llama.cpp in use can do that. With `fit_images`, for a file in its
    run folder or with `against`, the questions' pictures are first resized as `fit` does it. With a checkpoint to
    compare `against`, the same questions are asked to it in transformers, and the result says what is lost on the way
    from there to the file.
    """
    return evaluation.evaluate(
        _path(file),
        _path(reference) if reference else None,
        _questions(questions),
        mmproj=_path(mmproj) if mmproj else None,
        threads=threads,
        gpu_layers=gpu_layers,
        benchmark=benchmarks,
        fit_images=fit_images,
        model=_text(against),
        options=options,
        reporter=reporter,
    )


def evaluate_run(
    run: Source,
    questions: QuestionSet | Source | None = None,
    *,
    threads: int | None = None,
    gpu_layers: int | None = None,
    fit_images: bool = False,
    against: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> tuple[EvalResult, ...]:
    """Measure all model files of a run folder on the same questions or text, against its 16-bit file, and write the
    results to eval.json. The 16-bit file and the one of the high ftype are made where they are missing; the rest is as
    for `evaluate`."""
    return evaluation.evaluate_run(
        _path(run), _questions(questions), threads=threads, gpu_layers=gpu_layers, fit_images=fit_images,
        model=_text(against), options=options, reporter=reporter,
    )  # fmt: skip


def sweep(
    run: Source,
    questions: QuestionSet | Source,
    *,
    low_layers: Sequence[int] | None = None,
    rankings: Sequence[str] = orders.SWEPT,
    random_seeds: int = 1,
    uniform_types: Sequence[str] = uniform.SWEPT,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    mix: CalibrationMixRequest | None = None,
    imatrix: Source | None = None,
    model: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Sweep:
    """Measure files of a profiled run folder's model with more and more low layers (None: each number), in several
    orders, beside uniform files; `mix` also profiles it again with other multimodal shares. `model` and `imatrix` are
    as for `plan`.

    sweep.json is written after each point, and an interrupted sweep resumes where it stopped.
    """
    counts = None if low_layers is None else tuple(low_layers)
    request = SweepRequest(counts, tuple(rankings), random_seeds, tuple(uniform_types), low, high)
    return pipeline.sweep(
        _path(run),
        request,
        _questions(questions),
        options,
        reporter,
        mix_request=mix,
        model=_text(model),
        imatrix=_file(imatrix),
    )


def bench(
    files: Source | Sequence[Source] = (),
    *,
    run: Source | None = None,
    shape: ShapeRequest | str | None = None,
    request: BenchRequest | None = None,
    out: Source | None = None,
    mmproj: Source | None = None,
    model: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Bench:
    """Measure decode and prefill speed on this CPU: of files, of a run folder's, or of a geometry without weights.

    The result is also written to `out`, by default bench.json in the run folder or in the working folder.
    """
    listed = [files] if isinstance(files, str | Path) else list(files)
    if bool(listed) + (run is not None) + (shape is not None) != 1:
        raise EvaluationError("There is nothing to measure, or too much.", "Give files, a run folder or a shape.")
    written = _path(out or Path(run or "") / "bench.json").absolute()
    request = request or BenchRequest()
    if run is not None:
        return benches.bench_run(_path(run), request, written, reporter, options, model=_text(model))
    if shape is not None:
        wanted = ShapeRequest(shape) if isinstance(shape, str) else shape
        return benches.bench_synthetic(wanted, request, written, reporter)
    vision = _path(mmproj) if mmproj else None
    return benches.bench_files([_path(file) for file in listed], vision, request, written, reporter)


def bench_types(
    *,
    run: Source | None = None,
    shape: str = "qwen2.5-vl-7b",
    threads: int | None = None,
    again: bool = False,
    reporter: Reporter = Reporter(),
) -> TypeSpeeds:
    """Measure every candidate type in layers of a run folder's model or of a geometry; with `again`, not only those
    that have not been measured on this machine."""
    count = threads or machine.cores()
    return benches.bench_types(_path(run) if run else None, shape, count, reporter, again=again)


def fit(
    pictures: Source | Sequence[Source],
    model: Source,
    out: Source,
    *,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> tuple[FittedPicture, ...]:
    """Write pictures into the folder `out` so that llama.cpp shows a model what its own processor would have shown.

    `model` is a checkpoint folder, a Hub id or a run folder. Of the options it takes `overwrite`, `trust_remote_code`
    and `subfolder`, the folder of the checkpoint.
    """
    listed = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    return picture_files.fit([_path(picture) for picture in listed], str(model), _path(out), options, reporter)


def choose(source: ChooseRequest | Source, *, reporter: Reporter = Reporter()) -> Choice:
    """Say what each GGUF file of a folder or Hub repository needs of memory, which one is best for this machine, and
    how to run it. Only headers are read."""
    request = source if isinstance(source, ChooseRequest) else ChooseRequest(str(source))
    return choosing.choose(request, reporter)


def upload(
    run: Source,
    target: Target | str,
    *,
    base_model: str | None = None,
    dry_run: bool = False,
    reporter: Reporter = Reporter(),
) -> Upload:
    """Publish the files that `convert` made in a run folder, with a model card: all in one commit, or none.

    `target` is a repository on the Hub; `dry_run` only checks everything and lists what would be sent.
    """
    where = Target(target) if isinstance(target, str) else target
    return publication.upload(_path(run), where, dry_run=dry_run, base_model=base_model, reporter=reporter)


def verify(
    target: Source,
    *,
    mmproj: Source | None = None,
    threads: int | None = None,
    against: Source | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> CheckReport:
    """Check a run folder (hashes, types, mmproj) or a GGUF file (structure, loading, finite logits).

    With `against`, a checkpoint folder or Hub id, also measure how far llama.cpp's predictions with a run's 16-bit
    file, or with the file as it is, are from transformers'. Of the options it takes `device`, `trust_remote_code` and
    `subfolder`, the folder of the checkpoint.
    """
    half = _path(mmproj) if mmproj else None
    if against is None:
        return verification.verify(_path(target), half, threads)
    return comparison.verify(_path(target), half, str(against), replace(options, threads=threads), reporter)


def _path(source: Source) -> Path:
    return Path(source).expanduser()


def _file(source: Source | None) -> Path | None:
    return _path(source) if source else None


def _text(source: Source | None) -> str | None:
    return None if source is None else str(source)


def _set(given: CalibrationSet | Source) -> CalibrationSet:
    return given if isinstance(given, CalibrationSet) else CalibrationSet(given)


def _questions(given: QuestionSet | Source | None) -> QuestionSet:
    return given if isinstance(given, QuestionSet) else QuestionSet(given)
