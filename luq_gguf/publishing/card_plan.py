"""Writes what a model card says about how the plan was made, and about files that were measured to be better."""

from __future__ import annotations

import shlex
from typing import cast

from luq_gguf.core.sweeps import Sweep
from luq_gguf.core.types import BEST, EDITED, Plan
from luq_gguf.llamacpp import labels
from luq_gguf.method.orders import ORDERS
from luq_gguf.method.uniform import ftype_of
from luq_gguf.publishing.artifacts import RunArtifacts
from luq_gguf.publishing.card import cell
from luq_gguf.reporting.plan_text import better_line, rules_line, unsettled_line
from luq_gguf.run import serialization

WHY = {name: order.why for name, order in ORDERS.items()} | {
    "best": "Types were chosen for the least KL divergence at the given size, by the errors that they cause in each "
    "matrix, weighted by the KL divergence of measured files. This is not the LUQ rule, which has two types and orders "
    "layers by entropy",
    "named": "Low layers are those that were named, in that order, which is not the LUQ rule",
    "edited": "Types were chosen by hand, which is not the LUQ rule: plan.json was edited",
}


def why(artifacts: RunArtifacts) -> str:
    plan = artifacts.plan
    if plan.is_mixed:
        return f"{WHY[plan.ranking]}.{_by_request(plan)}{_measured_on(artifacts)}"
    chosen = WHY.get(plan.ranking, f"Layers became low in the order {cell(plan.ranking)}")
    listed = ", ".join(map(str, plan.low_layers)) or "none"
    sentence = f"{chosen}. Low layers in this file, out of {len(plan.order)}: {listed}."
    if unsettled := unsettled_line(plan):
        sentence += f" {unsettled[0].upper()}{unsettled[1:]}."
    return sentence + _by_request(plan) + _measured_on(artifacts)


def _by_request(plan: Plan) -> str:
    """What the plan had to obey."""
    line = rules_line(plan)
    return f" {line[0].upper()}{line[1:]}." if line else ""


def _measured_on(artifacts: RunArtifacts) -> str:
    """What files were measured on for the plan, where that was calibrated with, too."""
    measured = artifacts.plan.measured_kld
    if measured is None or measured.on.caveat is None:
        return ""
    return f" Files were measured for it on {cell(measured.on.data)}; {measured.on.caveat}."


def command(artifacts: RunArtifacts, base_model: str | None) -> str:
    plan, facts = artifacts.plan, artifacts.profile.calibration
    stage = "profile" if plan.ranking == EDITED else "convert"
    parts = [f"luq-gguf {stage}", base_model or artifacts.profile.model, "--out out"]
    images, text = facts.sets
    parts += [f"--calib {images}"] if images else []
    parts += [f"--calib-text {text}"] if text else []
    parts.append(f"--alpha {facts.alpha:g} --samples {facts.n_multimodal + (facts.n_text or 0)}")
    parts.append(f"--seed {facts.seed}")
    parts += plan.rules.options if plan.ranking != EDITED else ()  # whose types obey them
    given = [f"--imatrix {shlex.quote(plan.imatrix.file)}"] if plan.imatrix else []
    if plan.ranking == EDITED:
        copied = shlex.quote(f"{labels.folder_of(artifacts.model.name)}/plan.json")
        return " ".join([*parts, f"&& cp {copied} out && luq-gguf quantize out", *given])
    parts += given
    if plan.ranking == BEST:
        size = plan.budget.get("n_bytes")
        parts.append(f"--plan best --types {','.join(map(str, cast('list[object]', plan.budget.get('types', []))))}")
        parts.append(f"--per {plan.budget.get('per', 'layer')}")
        parts.append(f"--target-size {size}" if size else f"--target-bpw {plan.budget.get('bpw')}")
        parts += [f"--eval {plan.measured_kld.on.data}"] if plan.measured_kld else []
        return " ".join(parts)
    parts.append(f"--low {plan.low} --high {plan.high} --low-layers {len(plan.low_layers)}")
    parts += [f"--rank {plan.ranking}"] if plan.ranking != "entropy" else []
    return " ".join(parts)


def better_elsewhere(artifacts: RunArtifacts) -> list[str]:
    """Return the sentence about a file of at most the same size that the plan or the run's sweep measured to be better,
    if there is one. A sweep of other types says nothing about this file."""
    path, plan = artifacts.run.file("sweep.json"), artifacts.plan
    if sentence := better_line(plan):
        return [f"{sentence[0].upper()}{sentence[1:]}."]
    if not path.exists():
        return []
    with serialization.reading(path, "sweep"):
        return _better_in(serialization.read_sweep(path), artifacts)


def _better_in(swept: Sweep, artifacts: RunArtifacts) -> list[str]:
    plan = artifacts.plan
    if (swept.conditions.low, swept.conditions.high) != (plan.low, plan.high):
        return []
    n_low = len(plan.low_layers)
    ours = next((p.metrics.kld for p in swept.points if p.n_low == n_low and p.order == plan.ranking), None)
    klds = {
        point.order: point.metrics.kld.mean
        for point in swept.points
        if point.n_low is None and point.metrics.kld and point.n_bytes <= artifacts.model.n_bytes
    }
    best = min(klds, key=lambda order: klds[order], default=None)
    if ours is None or best is None or klds[best] >= ours.mean:
        return []
    return [
        f"At the same size or smaller, llama-quantize's {ftype_of(best)} file measured better on the "
        f"questions of sweep.json: mean KLD {klds[best]:.2e} compared with {ours.mean:.2e}."
    ]
