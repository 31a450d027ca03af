"""Plans that a user has edited: their types are quantized as written, and all else that a plan says follows from
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.types import EDITED, Plan
from luq_gguf.llamacpp import quantize
from luq_gguf.llamacpp.gguf import imatrix, reader
from luq_gguf.planning import rules, variants
from luq_gguf.run.session import Session, is_edited

_HINT = "Choose another type for it, or run luq-gguf plan again."
_UNQUANTIZED = ("F16", "BF16", "F32")


def checked(session: Session, plan: Plan) -> Plan:
    """Return a plan that llama-quantize can write as it is. One that was edited gets the low layers, the sizes and the
    name that its types have, and loses what was measured of the former ones.

    Raises RunFolderError naming a tensor that the model does not have, that has no type, or that cannot have its type.
    """
    spec, types = session.spec, {name: kind.upper() for name, kind in plan.tensor_types.items()}
    shapes = {tensor.name: tensor.shape for tensor in spec.source.tensors}
    if unknown := sorted(types.keys() - shapes.keys()):
        raise RunFolderError(
            f"plan.json names the tensor {unknown[0]}, which {spec.checkpoint.name} does not have.",
            "Remove it, or run luq-gguf plan again.",
        )
    if missing := sorted(shapes.keys() - types.keys()):
        raise RunFolderError(
            f"plan.json has no type for the tensor {missing[0]} of {spec.checkpoint.name}.", "Run luq-gguf plan again."
        )
    for name, kind in types.items():
        _check_type(name, kind, shapes[name])
    _check_importance(session, types, plan.high)
    plan = replace(plan, tensor_types=types)
    written = quantize.dry_run(spec.llama, spec.source.path, plan.high, quantize.overrides(spec.source, plan))
    for name, kind in types.items():
        if written[name] != kind:
            raise RunFolderError(
                f"plan.json gives {name} the type {kind}, but llama-quantize would write it in {written[name]}.", _HINT
            )
    if not is_edited(session.run, plan):
        return plan
    session.reporter.info("plan.json was edited: its types are quantized as they are")
    return replace(variants.plan_of(spec, types, EDITED), order=plan.order)


def obeying(session: Session, plan: Plan, wanted: PlanRules) -> Plan:
    """Return the plan with the types that rules ask for, where it has others: layers that may not be low are high, and
    nothing becomes low for it. What was measured or promised of the former types is left out.

    A plan of many types is one edited by hand then. Raises what `rules.obeying` raises.
    """
    tensors, n_layers = rules.obeying(session, wanted).spec.tensors, session.spec.tensors.n_layers
    named = rules.tensors_with_types(tensors.rules)
    high = {c.name: c.high_type for c in tensors.choices if c.layer in tensors.kept or c.name in named}
    types = {**plan.tensor_types, **high}
    both = _together(plan.rules, tensors.rules, n_layers)
    if types == plan.tensor_types:
        return replace(plan, rules=both)
    changed = variants.plan_of(session.spec, types, EDITED if plan.is_mixed else plan.ranking)
    if plan.is_mixed:
        return replace(changed, order=plan.order, rules=both)
    low = tuple(layer for layer in plan.low_layers if layer not in tensors.kept)
    return replace(
        changed,
        low=plan.low,
        low_layers=low,
        order=plan.order,
        near_ties=plan.near_ties,
        unsettled=plan.unsettled,
        budget={"low_layers": len(low)},
        rules=both,
    )


def _together(before: PlanRules, after: PlanRules, n_layers: int) -> PlanRules:
    """What a plan obeys that has obeyed other rules before: nothing that they kept is low."""
    output, embedding = after.output_type or before.output_type, after.embedding_type or before.embedding_type
    kept = before.kept(n_layers), after.kept(n_layers)
    if all(kept):
        return PlanRules(tuple(sorted(kept[0] | kept[1])), None, output, embedding)
    of_layers = before if kept[0] else after
    return PlanRules(of_layers.keep, of_layers.low_only, output, embedding)


def _check_type(name: str, kind: str, shape: tuple[int, ...]) -> None:
    if kind not in reader.quantized_types() and kind not in _UNQUANTIZED:
        raise RunFolderError(f"plan.json gives {name} the type {kind}, which GGUF does not have.", _HINT)
    if not reader.fits_blocks(kind, shape[0]):
        raise RunFolderError(
            f"plan.json gives {name} the type {kind}, whose blocks do not divide its rows of {shape[0]} weights.", _HINT
        )


def _check_importance(session: Session, types: Mapping[str, str], high: str) -> None:
    """A person may have edited the plan or brought another imatrix: llama-quantize would fail in mid-run, or abort."""
    spec = session.spec
    entries = spec.given.matrix.in_sum2 if spec.given else imatrix.read(session.imatrix).in_sum2
    file = spec.given.facts.file if spec.given else spec.imatrix_name
    for name, kind in types.items():
        needed = kind in reader.IMATRIX_TYPES or reader.needs_importance(name, kind, high)
        if needed and name not in entries:
            raise RunFolderError(
                f"plan.json gives {name} the type {kind}, which needs an importance entry, but {file} has none.",
                "Choose another type for it, such as Q2_K, or run luq-gguf plan again.",
            )
