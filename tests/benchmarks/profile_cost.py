#!/usr/bin/env python3
"""Time and memory of the profiling pass against the bare forward pass over the same batches.

    python tests/benchmarks/profile_cost.py [MODEL_FOLDER] [--samples 128] [--pairs 7]

Prints the median of the paired ratios (bare and tapped pass in turn) and how far the process's memory grew.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch

from luq_gguf.calibration import profiler
from luq_gguf.calibration.batches import batches
from luq_gguf.calibration.hooks import CalibrationHooks
from luq_gguf.calibration.reservoir import Reservoir
from luq_gguf.core.types import RunOptions
from luq_gguf.hf import checkpoint, datasets, devices
from luq_gguf.hf import model as hf_model
from luq_gguf.hf.decoder import decoder_layers
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import load_model_spec
from luq_gguf.workflows import easy_vqa

TINY = Path(__file__).parent.parent / "models" / "tiny-qwen2.5-vl"


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=TINY)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        images = easy_vqa.write_set(work, "train", args.samples)
        chosen = datasets.read_calibration(
            str(images), None, n_samples=args.samples, alpha=0.5, seed=0, cache=work / "cache"
        )
        opened = checkpoint.open_checkpoint(str(args.model))
        model, processor = hf_model.load_reference(opened, devices.choose_device("auto", opened, print))
        prepared = list(batches(model, processor, chosen))
        loaded = peak_mib()
        layers = decoder_layers(model)
        with RunFolder(work / "run", create=True) as run:
            names = load_model_spec(run, str(args.model), RunOptions(allow_fallback=True)).names
        width = model.config.get_text_config().hidden_size
        dtype = next(model.parameters()).dtype

        def bare() -> float:
            started = time.perf_counter()
            for batch in prepared:
                profiler.forward(model, batch)
            return time.perf_counter() - started

        def tapped() -> float:
            for file in work.glob("reservoir-*"):
                file.unlink()
            reservoir = Reservoir(work, profiler.CAPACITY, len(layers), width, dtype, 0)
            hooks = CalibrationHooks(model, names, reservoir)
            started = time.perf_counter()
            with hooks.attached():
                for batch in prepared:
                    hooks.expect(batch.valid, batch.ids, multimodal=batch.multimodal)
                    profiler.forward(model, batch)
            spent = time.perf_counter() - started
            reservoir.close()
            return spent

        with torch.inference_mode():
            bare()
            before = peak_mib()
            tapped()
            ratios = [tapped() / bare() for _ in range(args.pairs)]
        print(f"batches {len(prepared)}, tokens {sum(int(b.valid.sum()) for b in prepared)}")
        print(f"tapped / bare: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
        print(
            f"peak memory: {loaded:.0f} MiB loaded, {before:.0f} after bare passes, {peak_mib():.0f} after tapped ones"
        )


if __name__ == "__main__":
    main()
