#!/usr/bin/env python3
"""Convert a large checkpoint, then do the same by hand with llama.cpp's tools, in turns; print time, memory and disk.

.venv/bin/python scripts/scale_study.py CHECKPOINT WORK --calib questions.jsonl [--turns 2] [--low-layers 12]

"By hand" means two runs of convert_hf_to_gguf.py (one for LLaVA-1.5, whose vision half it does not support) and one of
llama-quantize, with the same arguments. The two ways take turns in going first, and each begins when the disk is idle.
A turn of a 7B model takes about 20 minutes on two cores, and WORK needs room for a 16-bit file and for what is made
from it. Linux only: memory is VmRSS and RssAnon in /proc, sampled five times per second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import header_only
from luq_gguf.run.folder import RunFolder

GIB = 2**30


@dataclass
class Watched:
    """What a command and its children took: seconds, and the largest memory of each kind of process in bytes."""

    seconds: float = 0.0
    rss: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    anonymous: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    disk: int = 0


def watch(command: Sequence[str | Path], folder: Path, enough: Callable[[], bool] = lambda: False) -> Watched:
    """Run a command silently, to its end or until `enough` returns True. Raises CalledProcessError where it fails."""
    found, started, stopped = Watched(), time.monotonic(), False
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        for process in (child.pid, *_children(child.pid)):
            with suppress(OSError, KeyError, IndexError):
                _look(process, found)
        found.disk = max(found.disk, _disk(folder))
        if stopped := enough():
            child.send_signal(signal.SIGINT)
            child.wait()
        time.sleep(0.2)
    found.seconds = time.monotonic() - started
    if child.returncode and not stopped:
        raise subprocess.CalledProcessError(child.returncode, child.args)
    return found


def _children(process: int) -> list[int]:
    with suppress(OSError):
        listed = Path(f"/proc/{process}/task").glob("*/children")
        direct = [int(number) for file in listed for number in file.read_text().split()]
        return [*direct, *(grandchild for one in direct for grandchild in _children(one))]
    return []


def _look(process: int, found: Watched) -> None:
    told = Path(f"/proc/{process}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in told if line.startswith(("VmRSS", "RssAnon"))}
    command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    name = next((Path(part).name for part in command if part.endswith(("llama-quantize", tools.CONVERTER))), "luq-gguf")
    found.rss[name] = max(found.rss[name], 1024 * int(sizes["VmRSS"]))
    found.anonymous[name] = max(found.anonymous[name], 1024 * int(sizes["RssAnon"]))


def _disk(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # what is gone meanwhile is passed over
        for name in names:
            with suppress(OSError):
                total += 512 * os.lstat(os.path.join(place, name)).st_blocks
    return total


def by_hand(run: Path, checkpoint: Path, work: Path, threads: int, only_16_bit: bool) -> dict[str, Watched]:
    """Make the same files in `work` with llama.cpp's own tools."""
    clear(run, work)
    llama, f16 = tools.find(), work / "by-hand-F16.gguf"
    convert = [sys.executable, llama.converter, checkpoint, "--outtype", "f16", "--model-name", checkpoint.name]
    found = {}
    if "Qwen" in json.loads((checkpoint / "config.json").read_text())["architectures"][0]:
        found["mmproj"] = watch([*convert, "--mmproj", "--outfile", work / "mmproj.gguf"], work)
    found["f16"] = watch([*convert, "--outfile", f16], work)
    if only_16_bit:
        return found
    given = ["--imatrix", run / header_only.IMATRIX_NAME, "--tensor-type-file", run / "tensor-types.txt"]
    quantize = [llama.tool("llama-quantize"), *given, f16, work / "by-hand.gguf", "Q4_K_M", str(threads)]
    found["quantize"] = watch(quantize, work)
    return found


def clear(*folders: Path) -> None:
    """Remove the files of the previous turn and let the disk finish, so that both sides begin with an idle disk."""
    for folder in folders:
        for path in folder.glob("*.gguf"):
            if path.name != header_only.IMATRIX_NAME:
                path.unlink()
    os.sync()
    time.sleep(5)


def ours(run: Path, work: Path, threads: int, only_16_bit: bool, *more: str) -> tuple[Watched, dict[str, float]]:
    """Make the mmproj, 16-bit file and LUQ file again; return what the whole command took, and the seconds of its
    stages."""
    clear(run, work)
    with RunFolder(run) as held:
        for stage in ("mmproj", "f16", "quantize"):
            held.forget(stage)
    seconds: dict[str, float] = {}

    def enough() -> bool:  # looks, because the record of the 16-bit file goes with the file
        seconds.update({stage: record["seconds"] for stage, record in stages_of(run).items()})
        return only_16_bit and "f16" in stages_of(run)

    command = [sys.executable, "-m", "luq_gguf", "quantize", run, "--threads", str(threads), *more]
    watched = watch(command, run, enough)
    enough()
    if "quantize" in seconds:
        seconds["quantize"] -= seconds.get("f16", 0.0)  # which it makes first
    return watched, seconds


def stages_of(run: Path) -> dict[str, dict]:
    return json.loads((run / "run.json").read_text())["stages"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--samples", default=8, type=int)
    parser.add_argument("--low-layers", default=12, type=int)
    parser.add_argument("--low", default="IQ1_M", help="Q2_K takes a fifth of the time")
    parser.add_argument("--turns", default=2, type=int)
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--only-16-bit", action="store_true", help="turns of the two conversions only")
    parser.add_argument("--low-disk", action="store_true", help="at the end, convert once more in slices")
    args = parser.parse_args()
    run, hand = args.work / "run", args.work / "by-hand"
    hand.mkdir(parents=True, exist_ok=True)
    how = ["--samples", str(args.samples), "--low-layers", str(args.low_layers), "--low", args.low]
    how += ["--threads", str(args.threads)]
    command = [sys.executable, "-m", "luq_gguf", "convert", args.checkpoint, "--out", run, "--calib", args.calib, *how]
    whole = watch(command, run)
    for name, size in whole.rss.items():
        print(f"convert: {name}: {size / GIB:.2f} GiB resident, {whole.anonymous[name] / GIB:.2f} of it anonymous")
    told = ", ".join(f"{stage} {record['seconds']:.0f}" for stage, record in stages_of(run).items())
    print(f"convert: {whole.seconds:.0f} s ({told}), disk {whole.disk / GIB:.2f} GiB", flush=True)
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for turn in range(args.turns):
        if turn % 2:  # who goes first takes turns too
            watched, seconds = ours(run, hand, args.threads, args.only_16_bit)
        theirs = by_hand(run, args.checkpoint, hand, args.threads, args.only_16_bit)
        if not turn % 2:
            watched, seconds = ours(run, hand, args.threads, args.only_16_bit)
        pairs["all"].append((sum(seconds[stage] for stage in theirs), sum(one.seconds for one in theirs.values())))
        for stage, one in theirs.items():
            pairs[stage].append((seconds[stage], one.seconds))
            print(f"turn {turn}: {stage} {seconds[stage]:.1f} s, by hand {one.seconds:.1f} s", flush=True)
        print(f"turn {turn}: whole command {watched.seconds:.1f} s")
    for stage, both in pairs.items():
        mine, other = (statistics.median(side) for side in zip(*both, strict=True))
        print(f"| {stage} | {mine:.0f} s | {other:.0f} s | {statistics.median(a / b for a, b in both):.3f} |")
    if args.low_disk:
        before = stages_of(run)["quantize"]["outputs"]
        watched, _ = ours(run, hand, args.threads, False, "--low-disk")
        after = stages_of(run)["quantize"]["outputs"]
        same = [fact["sha256"] for fact in after.values()] == [fact["sha256"] for fact in before.values()]
        told = f"{watched.seconds:.0f} s, disk {watched.disk / GIB:.2f} GiB"
        print(f"--low-disk: {told}, {'the same bytes' if same else 'DIFFERENT BYTES'}")


if __name__ == "__main__":
    main()
