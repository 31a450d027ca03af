"""Measures how fast files run on this CPU: with llama-bench for text, with libmtmd for a whole answer about an image.

One file is loaded at a time. Files take turns, repetition by repetition, and each round starts with another file, so
that whatever slows the machine meanwhile affects all of them alike; ratios are of the same repetition.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from msgspec import UNSET

from luq_gguf.core import machine
from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.speeds import (
    BUSY,
    ON_CPU,
    Bench,
    BenchConditions,
    BenchMachine,
    BenchRow,
    LlamaBuild,
    Ratio,
    Samples,
)
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp import gpu, llama_bench, tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.gpu import Offload
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.method.metrics import intervals

HEADROOM = 400 * 2**20  # context, compute buffers and the program itself, beside the weights
IMAGE_ROUNDS = 3
IMAGE_PROMPT = "Describe this image in detail."


@dataclass(frozen=True)
class BenchRequest:
    """Describes what is measured of each file: with which numbers of threads (the number of cores, if none is given),
    for prompts of how many tokens, and how often; `gpu_layers` of the layers on a GPU (None: as llama.cpp decides)."""

    threads: tuple[int, ...] = field(default_factory=lambda: (machine.cores(),))
    prompts: tuple[int, ...] = (64, 256)
    n_generate: int = 32
    repetitions: int = 10
    image: Path | None = None
    allow_swap: bool = False
    kernels: bool = False
    gpu_layers: int | None = None


@dataclass(frozen=True)
class Arm:
    """A file that is compared, and the mmproj that it is run with, if any. `sha256` is given for a file that will be
    kept; `kernels` is the plugin that llama.cpp loads with it."""

    path: Path
    n_bytes: int
    bpw: float
    types: frozenset[str]
    mmproj: Path | None = None
    fits: bool = True
    sha256: str | None = None
    kernels: Path | None = None


@dataclass
class _Samples:
    """Samples so far, in tokens/s by (threads, prompt, generated); those of an image by what was timed."""

    tps: dict[tuple[int, int, int], list[float]] = field(default_factory=dict)
    image: dict[str, list[float]] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    image_peak_rss_bytes: int = 0


def make_arm(path: Path, mmproj: Path | None = None) -> Arm:
    """Read the facts of a file with all its shards. Raises GGUFFileError if it is not a readable GGUF, EvaluationError
    if it is not a text model."""
    info = shards.read(path)
    if "token_embd.weight" not in info.types:
        raise EvaluationError(f"{path.name} is not a text model.", "Give the model's file, not its mmproj or imatrix.")
    matrices = frozenset(tensor.type for tensor in info.tensors if len(tensor.shape) > 1)
    return Arm(info.path, info.n_bytes, info.bpw, matrices, mmproj)


def find_baseline(arms: Sequence[Arm]) -> Arm | None:
    """Return the only file of stock Q4_K_M, by its name and its types; None if there is none or more than one."""
    stock = {"Q4_K", "Q6_K", "Q5_0", "Q8_0", "F32", "F16"}
    candidates = [
        arm for arm in arms if "Q4_K_M" in arm.path.name and arm.types <= stock and "-LUQ" not in arm.path.name
    ]
    return candidates[0] if len(candidates) == 1 else None


def check_memory(arms: Sequence[Arm], *, allow_swap: bool) -> list[Arm]:
    """Return the files, each with whether it fits in free memory. Raises EvaluationError naming one that does not."""
    available, checked = machine.available_bytes(), []
    for arm in arms:
        needed = arm.n_bytes + (arm.mmproj.stat().st_size if arm.mmproj else 0) + HEADROOM
        fits = needed <= available
        if not fits and not allow_swap:
            raise EvaluationError(
                f"{arm.path.name} needs about {format_size(needed)} of memory, but "
                f"only {format_size(available)} is free, so its speed would be that of the disk.",
                "Close other programs, leave the file out, or add --allow-swap to measure it anyway.",
            )
        checked.append(replace(arm, fits=fits))
    return checked


def bench(
    arms: Sequence[Arm],
    baseline: Arm | None,
    request: BenchRequest,
    conditions: BenchConditions,
    save: Callable[[Bench], None],
    reporter: Reporter,
) -> Bench:
    """Measure all files and return what bench.json says; `save` gets what is known after every run."""
    llama, offload = tools.find(), gpu.offload(request.gpu_layers)
    arms = check_memory(arms, allow_swap=request.allow_swap)
    busy = machine.busy_share()
    if busy > BUSY:
        reporter.info(
            f"other programs are using {busy:.0%} of this machine: the figures will be lower and less certain"
        )
    measured = [_Samples() for _ in arms]
    others: list[float] = []
    measuring_machine = _machine(busy)

    def so_far() -> Bench:
        machine_and_others = replace(measuring_machine, others_share_during=max(others, default=0.0))
        return Bench(machine_and_others, conditions, tuple(_rows(arms, measured, baseline, request)))

    total = request.repetitions * len(arms)
    reporter.progress("runs of llama-bench", 0, total)
    for done in range(total):
        number = (done + done // len(arms)) % len(arms)
        llama_run = _run(llama, arms[number], measured[number], request)
        others.append(llama_run.others_share)
        if not arms[number].kernels:
            commit, backends = llama_run.build["build_commit"], llama_run.build["backends"]
            layers_on = gpu.placement(int(llama_run.build["n_gpu_layers"]), str(llama_run.build["gpu_info"]))
            measuring_machine = replace(
                measuring_machine, llama_cpp_commit=commit, backends=backends, layers_on=layers_on
            )
        save(so_far())
        reporter.progress("runs of llama-bench", done + 1, total)
    if offload and offload.why_not:
        reporter.info(f"answers about an image are not timed: {offload.why_not}")
    elif request.image or any(arm.mmproj for arm in arms):
        if offload is None and measuring_machine.layers_on not in (UNSET, ON_CPU):
            reporter.info("answers about an image are timed on the CPU; --gpu-layers N times them on the GPU, too")
        _bench_images(arms, measured, request, offload, lambda: save(so_far()), reporter)
    if max(others) > BUSY >= busy:
        sentence = f"other programs used up to {max(others):.0%} of this machine during the measurement"
        reporter.info(f"{sentence}: measure again when the machine is idle")
    return so_far()


def _run(llama: LlamaCpp, arm: Arm, samples_so_far: _Samples, request: BenchRequest) -> llama_bench.Run:
    workload = llama_bench.Workload(request.threads, request.prompts, request.n_generate, gpu_layers=request.gpu_layers)
    run = llama_bench.run(llama, arm.path, workload, kernels=arm.kernels)
    for key, samples in run.tps.items():
        samples_so_far.tps.setdefault(key, []).extend(samples)
    samples_so_far.peak_rss_bytes = max(samples_so_far.peak_rss_bytes, run.peak_rss_bytes)
    return run


def _bench_images(
    arms: Sequence[Arm],
    measured: Sequence[_Samples],
    request: BenchRequest,
    offload: Offload | None,
    keep: Callable[[], None],
    reporter: Reporter,
) -> None:
    """Time whole answers about one image, the same for all files."""
    rounds = min(IMAGE_ROUNDS, request.repetitions)
    chosen = [(arm, samples) for arm, samples in zip(arms, measured, strict=True) if arm.mmproj]
    with tempfile.TemporaryDirectory() as folder:
        image = request.image or _made_image(Path(folder))
        for done in range(rounds * len(chosen)):
            arm, samples = chosen[(done + done // len(chosen)) % len(chosen)]
            threads = max(request.threads)
            with LlamaClient(arm.path, arm.mmproj, threads=threads, kernels=arm.kernels, gpu=offload) as client:
                watch = machine.PeakMemory(client.pid)
                try:
                    client.ask("Hello.", max_tokens=1)  # reads the weights once, as llama-bench's warm-up does
                    timed = client.time(IMAGE_PROMPT, image, max_tokens=request.n_generate)
                finally:
                    watch.stop()
            for name, value in timed.items():
                samples.image.setdefault(name, []).append(float(value))
            samples.image_peak_rss_bytes = max(samples.image_peak_rss_bytes, watch.n_bytes)
            keep()
            reporter.progress("answers about an image", done + 1, rounds * len(chosen))


def _made_image(folder: Path) -> Path:
    """Make an image of 448 x 448 pixels: what it shows does not affect the speed, its size does."""
    from PIL import Image

    ramp = np.linspace(0, 255, 448).astype(np.uint8)
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.full((448, 448), 128, np.uint8)], axis=-1)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def _machine(busy: float) -> BenchMachine:
    pin = tools.pin()
    build = LlamaBuild(f"{pin['package']} {pin['version']}", tuple(pin["cmake_args"]))
    return BenchMachine(**vars(machine.describe()), busy_share_before=busy, build=build)


def make_conditions(request: BenchRequest, baseline: Arm | None) -> BenchConditions:
    """Return how files are measured."""
    return BenchConditions(
        repetitions=request.repetitions,
        prompt_tokens=request.prompts,
        generated_tokens=request.n_generate,
        threads=request.threads,
        image=request.image.name if request.image else "made, 448 x 448",
        order="files take turns, repetition by repetition",
        ratio="geometric mean over repetitions; interval: 95%, of the same command run again",
        baseline=baseline.path.name if baseline else None,
    )


def _rows(
    arms: Sequence[Arm], measured: Sequence[_Samples], baseline: Arm | None, request: BenchRequest
) -> list[BenchRow]:
    """Make a row for every file and number of threads; what has not been measured yet is left out or None."""
    at = next((i for i, arm in enumerate(arms) if baseline and arm.path == baseline.path), None)
    rows = []
    for arm, figures in zip(arms, measured, strict=True):
        for threads in request.threads:
            decode = figures.tps.get((threads, 0, request.n_generate))
            if not decode:
                continue
            baseline_tps = measured[at].tps if at is not None else {}
            prefill = {n: figures.tps[threads, n, 0] for n in request.prompts if (threads, n, 0) in figures.tps}
            longest = max(prefill, default=None)
            rows.append(
                BenchRow(
                    file=arm.path.name,
                    sha256=arm.sha256,
                    kernels=arm.kernels is not None,
                    n_bytes=arm.n_bytes,
                    bpw=arm.bpw,
                    threads=threads,
                    decode_tps=intervals.spread_of(decode),
                    prefill_tps=intervals.spread_of(prefill[longest]) if longest else None,
                    prefill={str(n): intervals.spread_of(samples) for n, samples in prefill.items()},
                    decode_ratio=_ratio(baseline_tps.get((threads, 0, request.n_generate)), decode),
                    prefill_ratio=_ratio(baseline_tps.get((threads, longest, 0)), prefill[longest])
                    if longest
                    else None,
                    peak_rss_bytes=figures.peak_rss_bytes,
                    fits_memory=arm.fits,
                    image=_image_row(figures) if figures.image and threads == max(request.threads) else None,
                )
            )
    return rows


def _image_row(samples: _Samples) -> dict[str, Samples | int]:
    spreads = {name: intervals.spread_of(values) for name, values in samples.image.items()}
    return {**spreads, "peak_rss_bytes": samples.image_peak_rss_bytes}


def _ratio(baseline: Sequence[float] | None, samples: Sequence[float]) -> Ratio | None:
    """Return the ratio over the repetitions that both have; None if there are none."""
    n = min(len(baseline), len(samples)) if baseline else 0
    if not baseline or n == 0:
        return None
    return intervals.paired_ratio(np.array(baseline[:n]), np.array(samples[:n]))
