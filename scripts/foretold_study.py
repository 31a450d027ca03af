#!/usr/bin/env python3
"""Compare what layers and matrices are foretold to cost with what files measure in which they alone are quantized.

    scripts/foretold_study.py RUN_DIR ... --eval SET [--questions 32] [--types IQ1_M] [--figure foretold.png]

Every run folder must be of a profiled checkpoint. For each type, every layer and every matrix of a layer is spliced
into the 16-bit file in what llama-quantize makes of it, and the mean KL divergence of that file is measured; it is kept
in the folder's .work/foretold-study.json and not measured again. Prints rank correlations and factors, and draws them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from luq_gguf.calibration.foretelling import make_foretold
from luq_gguf.core import atomic
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import RunOptions
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.method import fisher
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.planning import variants
from luq_gguf.planning.meter import make_meter
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_profiled

MAX_TOKENS = 8  # of an answer, as the best plan is searched with


@dataclass(frozen=True)
class Pair:
    """What a layer or matrix of a model costs in a type, in nats."""

    model: str
    kind: str
    name: str
    foretold: float
    measured: float


def pairs_of(run_dir: Path, kinds: Sequence[str], questions: QuestionSet) -> list[Pair]:
    """Return the pairs of all layers and of all their matrices; what is missing is measured."""
    kept = run_dir / ".work" / "foretold-study.json"
    measured: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    with RunFolder(run_dir) as run:
        profile = serialization.read_profile(run_dir / "profile.json")
        session = open_profiled(run, None, RunOptions(keep_f16=True), Reporter(info=print)).with_dataset(profile)
        spec, f16 = session.spec, quantization_stage.make_f16(session)
        meter = make_meter(session, questions)()
        sixteen_bits = {tensor.name: tensor.type for tensor in spec.source.tensors}
        matrices = [t.name for t in spec.source.tensors if len(t.shape) > 1 and layer_of(t.name) is not None]
        pairs = []
        for kind in kinds:
            candidates = variants.candidates(spec, [kind], by_tensor=True)
            types = {name: candidates.types[name][0] for name in matrices}
            costs = fisher.costs(
                make_foretold(session, profile, f16, {name: {of} for name, of in types.items()}),
                {name: {of} for name, of in types.items()},
            )
            sets = {f"layer {n}": [m for m in matrices if layer_of(m) == n] for n in range(spec.tensors.n_layers)}
            sets |= {name: [name] for name in matrices}
            for name, chosen in sets.items():
                key = f"{kind}/{name}"
                if key not in measured:
                    plan = variants.plan_of(spec, sixteen_bits | {m: types[m] for m in chosen}, "study")
                    measured[key] = meter.spliced(
                        plan, [f16, _whole(session, candidates, kind)]
                    ).metrics.divergence.mean
                    atomic.write_text(kept, json.dumps(measured))
                foretold = sum(costs[m][types[m]] for m in chosen)
                pairs.append(Pair(spec.checkpoint.name, kind, name, foretold, measured[key]))
    return pairs


def _whole(session, candidates, kind: str) -> Path:
    """The file with every matrix in the type, which others are spliced from."""
    path = session.run.work / f"study-{kind}.gguf"
    if not path.exists():
        plan = variants.plan_of(session.spec, candidates.as_types((0,) * len(candidates.names)), "study")
        quantization_stage.quantize_plan(session, plan, path)
    return path


def summary(pairs: Sequence[Pair]) -> str:
    """Return rank correlation, factor, and how many are within a factor of two."""
    foretold, measured = (np.array([getattr(pair, name) for pair in pairs]) for name in ("foretold", "measured"))
    ratios = np.log(measured / foretold)
    return (
        f"{len(pairs):3} pairs: rank correlation {spearmanr(foretold, measured)[0]:.2f}, measured/foretold "
        f"{np.exp(np.median(ratios)):.2f} (standard deviation of its logarithm {ratios.std():.2f}), "
        f"{np.mean(np.abs(ratios) < np.log(2)):.0%} within a factor of two"
    )


def draw(groups: Mapping[str, Sequence[Pair]], path: Path) -> None:
    """Draw foretold against measured, a panel for each model and type."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(groups), figsize=(4.6 * len(groups), 4.4), squeeze=False)
    for panel, (title, pairs) in zip(panels[0], groups.items(), strict=True):
        ends = [f([min(p.foretold, p.measured) for p in pairs] + [max(p.foretold, p.measured) for p in pairs])
                for f in (min, max)]  # fmt: skip
        panel.fill_between(
            ends, [e / 2 for e in ends], [e * 2 for e in ends], color="0.92", label="within a factor of 2"
        )
        panel.plot(ends, ends, color="0.6", linewidth=0.8)
        for label, is_layer, style in (("matrix", False, ("o", "#0b559f", 14)), ("layer", True, ("^", "#b35806", 34))):
            of = [pair for pair in pairs if pair.name.startswith("layer ") == is_layer]
            marker, color, size = style
            panel.scatter([p.foretold for p in of], [p.measured for p in of], size, color, marker=marker, label=label)
        panel.set(
            xscale="log", yscale="log", title=title, xlabel="predicted KLD alone, nats", ylabel="measured KLD, nats"
        )
    panels[0][0].legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--eval", dest="source", required=True, metavar="SET")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--types", default="IQ1_M")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    questions = QuestionSet(source=args.source, samples=args.questions, max_tokens=MAX_TOKENS, metric="none")
    groups: dict[str, list[Pair]] = {}
    for run_dir in args.run_dirs:
        for pair in pairs_of(run_dir, args.types.split(","), questions):
            groups.setdefault(f"{pair.model}, {pair.kind}", []).append(pair)
    for title, pairs in groups.items():
        for what in ("layer", "matrix"):
            print(
                f"{title}, by {what}: {summary([p for p in pairs if p.name.startswith('layer ') == (what == 'layer')])}"
            )
    if args.figure:
        draw(groups, args.figure)


if __name__ == "__main__":
    main()
