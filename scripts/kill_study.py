#!/usr/bin/env python3
"""Stop a conversion of the tiny Qwen model at a few hundred random moments and count what happened.

.venv/bin/python scripts/kill_study.py [--stops 200] [--signal KILL] [--seed 0]

Each conversion is stopped up to eight times and then allowed to finish. Its files must be those of an undisturbed
conversion, each stage must be done only once, and temporary files must be gone. 200 stops take about half an hour on
one core.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import disturbed

from luq_gguf.workflows import easy_vqa

MODEL = Path(__file__).parents[1] / "tests" / "models" / "tiny-qwen2.5-vl"
STOPS_EACH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "INT", "TERM"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    number, rng = signal.Signals[f"SIG{args.signal}"], random.Random(args.seed)
    stages: Counter[str] = Counter()
    conversions, same, wrong = 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="luq-kill-") as work:
        calibration = easy_vqa.write_set(Path(work) / "set", "train", 64)
        folder = Path(work) / "undisturbed"
        files, seconds = disturbed.undisturbed(disturbed.convert(MODEL, folder, calibration), folder)
        while sum(stages.values()) < args.stops:
            conversions += 1
            folder = Path(work) / f"run-{conversions}"
            command = disturbed.convert(MODEL, folder, calibration)
            for stop in disturbed.stopped(command, folder, seconds, number, rng, STOPS_EACH):
                stages[stop.stage] += 1
                if not disturbed.is_expected(stop, number):
                    wrong += 1
                    print(stop, flush=True)
            same += disturbed.files(folder) == files
            told = f"{wrong} ended in an unexpected way; {same} conversions have the undisturbed files"
            print(f"{sum(stages.values())} stops in {conversions} conversions; {told}", flush=True)
    print(f"SIG{args.signal}, by the stage that was running: {dict(stages)}")
    sys.exit(bool(wrong) or same < conversions)


if __name__ == "__main__":
    main()
