#!/usr/bin/env python3
"""How often a 16-bit GGUF, through libmtmd, answers as the Hugging Face model does.

.venv/bin/luq-gguf demo --model qwen2.5-vl
.venv/bin/python tests/benchmarks/agreement.py tests/models/tiny-qwen2.5-vl out/demo/qwen2.5-vl [--questions 1000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from luq_gguf.workflows import demo, easy_vqa

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from reference_answers import answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("run_dir", type=Path, help="of that model, with its 16-bit GGUF kept")
    parser.add_argument("--questions", type=int, default=1000)
    args = parser.parse_args()
    pool = easy_vqa.questions("test")
    asked = tuple(pool[i] for i in np.random.default_rng(1).permutation(len(pool))[: args.questions])
    f16 = next(p for p in args.run_dir.glob("*-F16.gguf") if not p.name.startswith("mmproj-"))
    mmproj = next(args.run_dir.glob("mmproj-*-F16.gguf"))
    with tempfile.TemporaryDirectory() as folder:
        pictures = demo.write_pictures(Path(folder), asked)
        theirs = answers(args.model, [(pictures[q.image], q.text, q.answer) for q in asked])
        ours = demo.measure("16-bit", f16, mmproj, asked, pictures, None, lambda *_: None)
    same = sum(a == easy_vqa.normalize(b) for a, b in zip(ours.answers, theirs, strict=True))
    right = sum(easy_vqa.normalize(b) == q.answer for b, q in zip(theirs, asked, strict=True))
    print(f"same answer {same} of {len(asked)}; right: transformers {right}, 16-bit GGUF {ours.accuracy:.1%}")


if __name__ == "__main__":
    main()
