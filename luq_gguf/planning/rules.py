"""Applies what a user allows a plan to do to the tensors of a model, before anything is planned or measured."""

from __future__ import annotations

from dataclasses import replace

from luq_gguf.core.errors import BudgetError, TypeNameError
from luq_gguf.core.plan_rules import PlanRules, listed
from luq_gguf.core.types import ModelTensors, TensorChoice
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

EMBEDDING, OUTPUT = reader.NEVER_MEASURED
SIXTEEN_BITS = ("F16", "BF16")


def tensors_with_types(rules: PlanRules) -> dict[str, str]:
    """Return the tensors whose types the rules name, with these types."""
    named = {OUTPUT: rules.output_type, EMBEDDING: rules.embedding_type}
    return {name: kind for name, kind in named.items() if kind is not None}


def obeying(session: Session, rules: PlanRules) -> Session:
    """Return the session whose plans obey the rules. Raises BudgetError for layers that the model does not have, or
    that are both kept and low, and TypeNameError for types that a tensor cannot have."""
    spec = session.spec
    return replace(session, spec=replace(spec, tensors=_restricted(spec, rules))) if rules else session


def _restricted(spec: ModelSpec, rules: PlanRules) -> ModelTensors:
    n_layers = spec.tensors.n_layers
    keep = _counted(rules.keep, "--keep", n_layers)
    low_only = None if rules.low_only is None else _counted(rules.low_only, "--low-only", n_layers)
    if both := sorted(set(keep) & set(low_only or ())):
        layers = f"layer {both[0]}" if len(both) == 1 else f"the layers {listed(both)}"
        raise BudgetError(f"--keep and --low-only both name {layers}.", "Name each layer in one of them only.")
    output = _type(spec, OUTPUT, rules.output_type, "--output-type")
    embedding = _type(spec, EMBEDDING, rules.embedding_type, "--embedding-type")
    checked = PlanRules(keep, low_only, output, embedding)
    types = tensors_with_types(checked)
    choices = tuple(_of_type(c, types[c.name]) if c.name in types else c for c in spec.tensors.choices)
    return replace(spec.tensors, choices=choices, rules=checked)


def _counted(layers: tuple[int, ...], option: str, n_layers: int) -> tuple[int, ...]:
    """Layers counted from 0, each once, in their order."""
    unknown = [layer for layer in layers if not -n_layers <= layer < n_layers]
    if unknown:
        raise BudgetError(
            f"{option} names layer {unknown[0]}, but the model has {n_layers} decoder layers.",
            f"They are numbered from 0 to {n_layers - 1}; -1 is the last one.",
        )
    return tuple(sorted({layer % n_layers for layer in layers}))


def _type(spec: ModelSpec, name: str, kind: str | None, option: str) -> str | None:
    if kind is None:
        return None
    kind = reader.check_type(kind, option, also=SIXTEEN_BITS)
    tensor = next((tensor for tensor in spec.source.tensors if tensor.name == name), None)
    if tensor is None:
        raise TypeNameError(
            f"{option} {kind}: {spec.checkpoint.name} has no {name}; its embeddings are its head as well.",
            "Use --embedding-type instead.",
        )
    if not reader.fits_blocks(kind, tensor.shape[0]):
        raise TypeNameError(
            f"{option} {kind}: the rows of {name} have {tensor.shape[0]} weights, which this type's blocks do not "
            "divide.",
            "Choose a type with blocks of 32 weights, such as Q8_0 or Q5_0, or F16.",
        )
    if kind in reader.IMATRIX_TYPES and name not in spec.has_imatrix:
        raise TypeNameError(
            f"{option} {kind}: this type needs importance, and {name} has none.", "Choose Q2_K or a larger type."
        )
    return kind


def _of_type(choice: TensorChoice, kind: str) -> TensorChoice:
    size = reader.type_bytes(kind, choice.n_weights)
    return replace(choice, high_type=kind, high_bytes=size, low_type=kind, low_bytes=size)
