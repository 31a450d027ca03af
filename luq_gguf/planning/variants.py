"""Quantized variants: the model quantized once to every type, so that any choice of types is a splice; and what each
type costs each matrix, in bytes and in error."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core.errors import BudgetError, DiskSpaceError
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.types import STOCK, Plan
from luq_gguf.core.units import format_size, padded
from luq_gguf.llamacpp import labels, quantize, sampled_errors, tools
from luq_gguf.llamacpp.gguf import quant_error, reader
from luq_gguf.method import two_type_plan
from luq_gguf.method.mixed_precision import SearchSpace, Types
from luq_gguf.method.sensitivity import TensorGroup
from luq_gguf.method.speed_model import SpeedTable
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.planning import rules
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

TYPES = ("Q2_K", "IQ2_XXS", "IQ3_XXS", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "IQ1_M")
# What is chosen together where parts of layers are chosen apart.
TOGETHER = {"attn_v": "attn_kv", "attn_k": "attn_kv", "ffn_gate": "ffn_gate_up", "ffn_up": "ffn_gate_up"}
# Parts of a layer that may have the next larger type where layers are chosen whole, as in llama.cpp's own mixtures.
RAISED = (("attn_v", "attn_output"), ("attn_v", "attn_output", "ffn_down", "ffn_down_exps"))


@dataclass(frozen=True)
class Candidates:
    """What every matrix may become. `names` [n_tensors] are the matrices, `kinds` the types of the variants' files,
    `types[name]` [n_options] the matrix's type in each option: first in each of the kinds, then in mixtures of two.
    `fixed` are the types of all other tensors."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    types: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, str]

    def as_types(self, chosen: Types) -> dict[str, str]:
        """Return a choice as the type of every tensor of the file."""
        return dict(self.fixed) | {name: self.types[name][kind] for name, kind in zip(self.names, chosen, strict=True)}

    def holds(self, types: Mapping[str, str]) -> bool:
        """Return whether the variants contain these types, for all tensors."""
        return self.obeys(types) and self.as_choice(types) is not None

    def obeys(self, types: Mapping[str, str]) -> bool:
        """Return whether all other tensors have their types, as the rules of the plan ask for."""
        return all(types[name] == kind for name, kind in self.fixed.items())

    def as_choice(self, types: Mapping[str, str]) -> Types | None:
        """Return the choice with these types of the matrices; None where the variants do not contain one of them."""
        try:
            return tuple(self.types[name].index(types[name]) for name in self.names)
        except ValueError:
            return None

    def needed(self, types: Mapping[str, str], made: Collection[str]) -> list[str]:
        """Return the types whose variants hold these types of all matrices together, in their order: those that are
        `made` where they do, others only for what these do not hold."""
        preferred = sorted(range(len(self.kinds)), key=lambda number: self.kinds[number] not in made)
        first = {next(n for n in preferred if self.types[name][n] == types[name]) for name in self.names}
        return [self.kinds[number] for number in sorted(first)]


def candidates(spec: ModelSpec, kinds: Sequence[str], *, by_tensor: bool) -> Candidates:
    """Return what llama-quantize's dry runs make of every matrix for each type. Whole layers may also be mixtures.

    Raises BudgetError without types."""
    if not kinds:
        raise BudgetError("--types does not name a type.", f"Give some of {','.join(TYPES)}.")
    kinds = sorted(dict.fromkeys(kinds), key=reader.bits_per_weight)
    of = (spec.llama, spec.source)
    types_by_kind = [quantize.types_if_all(*of, kind, spec.tensors, has_imatrix=spec.has_imatrix) for kind in kinds]
    stock = {choice.name: choice.high_type for choice in spec.tensors.choices}
    kept = {choice.name for choice in spec.tensors.choices if choice.layer in spec.tensors.kept}
    kept |= rules.tensors_with_types(spec.tensors.rules).keys()
    names = tuple(
        t.name
        for t in spec.source.tensors
        if len(t.shape) > 1 and t.name not in kept and any(a[t.name] != t.type for a in types_by_kind)
    )
    mixtures = [] if by_tensor else [(low, parts) for low in range(len(kinds) - 1) for parts in RAISED]
    types = {}
    for name in names:
        plain = [types_of_kind[name] for types_of_kind in types_by_kind]
        types[name] = (*plain, *(plain[low + (part_of(name) in parts)] for low, parts in mixtures))
    return Candidates(names, tuple(kinds), types, {name: kind for name, kind in stock.items() if name not in types})


def part_of(name: str) -> str:
    """Return a matrix's part of its layer, such as "attn_q", or its name where it is not in a layer."""
    return name.removesuffix(".weight").split(".", 2)[-1]


def make_space(
    spec: ModelSpec,
    candidates: Candidates,
    errors: Mapping[str, Sequence[float]],
    *,
    by_tensor: bool,
    speeds: SpeedTable | None,
) -> SearchSpace:
    """Return all that the search needs: `errors[name]` [n_kinds]; groups are layers, or their parts."""
    tensors, names = spec.tensors, candidates.names
    n_weights = {choice.name: choice.n_weights for choice in tensors.choices}
    tensor_groups, groups = [], []
    for name in names:
        layer, part = layer_of(name), part_of(name)
        tensor_groups.append(TensorGroup(layer, part))
        groups.append((layer, TOGETHER.get(part, part) if by_tensor or layer is None else ""))
    numbered = list(dict.fromkeys(groups))
    number_of = {tensor_group: number for number, tensor_group in enumerate(dict.fromkeys(tensor_groups))}
    n_bytes = np.array(
        [[padded(reader.type_bytes(k, n_weights[n]), tensors.alignment) for k in candidates.types[n]] for n in names]
    )
    fixed = [reader.type_bytes(kind, n_weights[name]) for name, kind in candidates.fixed.items()]
    return SearchSpace(
        tuple(number_of),
        np.array([number_of[tensor_group] for tensor_group in tensor_groups]),
        np.array([numbered.index(group) for group in groups]),
        np.array(
            [[errors[name][candidates.types[name].index(kind)] for kind in candidates.types[name]] for name in names]
        ),
        n_bytes,
        np.array([[candidates.types[name].index(kind) for kind in candidates.types[name]] for name in names]),
        tuple(range(len(candidates.kinds))),
        tensors.header_bytes + sum(padded(size, tensors.alignment) for size in fixed),
        _seconds(candidates, n_weights, speeds, Geometry(spec.source, tensors).active_experts) if speeds else None,
        speeds.decode_constant if speeds else 0.0,
    )


def _seconds(
    candidates: Candidates, n_weights: Mapping[str, int], speeds: SpeedTable, active_experts: float
) -> np.ndarray:
    """Seconds of a token; a head's are in the table's constant, whatever its type."""

    def of(name: str, kind: str) -> float:
        share = active_experts if "_exps" in name else 1.0
        return (
            share * n_weights[name] / speeds.rates[kind].decode_weights_per_second
            if layer_of(name) is not None
            else 0.0
        )

    return np.array([[of(name, kind) for kind in candidates.types[name]] for name in candidates.names])


def check_space(session: Session, candidates: Candidates) -> None:
    """Raise DiskSpaceError where there is no room for the variants of all types, as there may have to be."""
    run, free = session.run, shutil.disk_usage(session.run.path).free
    missing = sum(
        _plan(session.spec, candidates, kind).predicted_file_bytes
        for kind in candidates.kinds
        if not run.file(_name(kind)).exists()
    )
    if missing > free:
        raise DiskSpaceError(
            f"The quantized variants of {len(candidates.kinds)} types need {format_size(missing)} more, but {run.path} "
            f"has {format_size(free)} free.",
            "Free some space, or give fewer --types.",
        )


def make(session: Session, candidates: Candidates, types: Mapping[str, str]) -> list[Path]:
    """Return the variants' files that a file of these types is spliced from, in the types' order. Those that do not
    exist yet are made: many a type is never wanted."""
    run = session.run
    (run.work / "bank").mkdir(exist_ok=True)
    kinds = candidates.needed(types, [kind for kind in candidates.kinds if run.file(_name(kind)).exists()])
    for kind in kinds:
        plan = _plan(session.spec, candidates, kind)
        quantization_stage.write_quantized(session, plan, f"bank-{kind}", _name(kind))
    return [run.file(_name(kind)) for kind in kinds]


def _name(kind: str) -> str:
    return f".work/bank/all-{kind}.gguf"


def _plan(spec: ModelSpec, candidates: Candidates, kind: str) -> Plan:
    number = candidates.kinds.index(kind)
    return plan_of(spec, candidates.as_types((number,) * len(candidates.names)), "bank")


def plan_of(spec: ModelSpec, types: Mapping[str, str], ranking: str) -> Plan:
    """Return a plan with a type for every tensor. `low` is the type of fewest bits in decoder layers, `low_layers`
    those most of whose weights have it."""
    tensors = spec.tensors
    sizes = {c.name: reader.type_bytes(types[c.name], c.n_weights) for c in tensors.choices}
    inside = [c for c in tensors.choices if c.layer is not None and types[c.name] not in two_type_plan.UNQUANTIZED]
    low = min((types[c.name] for c in inside), key=reader.bits_per_weight, default=tensors.low)
    share = np.zeros(tensors.n_layers)
    for choice in inside:
        share[choice.layer] += choice.n_weights * (1 if types[choice.name] == low else -1)
    total = sum(sizes.values())
    return Plan(
        low=low,
        high=tensors.high,
        ranking=ranking,
        low_layers=tuple(int(layer) for layer in np.nonzero(share > 0)[0]),
        tensor_types={choice.name: types[choice.name] for choice in tensors.choices},
        predicted_bytes=total,
        predicted_file_bytes=tensors.header_bytes + sum(padded(size, tensors.alignment) for size in sizes.values()),
        bpw=8 * total / tensors.n_weights,
        order=tuple(range(tensors.n_layers)),
        without_importance=tensors.without_importance,
        rules=tensors.rules,
        imatrix=spec.given_facts,
    )


def with_imatrix(spec: ModelSpec, plan: Plan) -> Plan:
    """Return the plan with the importance that the spec has been given: the size of the header is another then, and
    nothing was measured or predicted with it."""
    new = plan_of(spec, plan.tensor_types, plan.ranking)
    return replace(
        plan,
        imatrix=new.imatrix,
        without_importance=new.without_importance,
        predicted_file_bytes=new.predicted_file_bytes,
        predicted_kld=None,
        measured_kld=None,
        compared=(),
    )


def uniform_plan(spec: ModelSpec, ftype: str) -> Plan:
    """Return the plan that has llama-quantize's own types of a file type."""
    types, _ = quantize.stock_types(spec.llama, spec.source, ftype, spec.has_imatrix)
    return plan_of(spec, types, "uniform")


def stock_plan(spec: ModelSpec, ftype: str) -> Plan:
    """Return the plan of llama-quantize's own file of a file type, as a file of its own. Raises BudgetError where there
    is no such type."""
    name = ftype.upper()
    if f"MOSTLY_{labels.canonical(name)}" not in gguf.LlamaFileType.__members__ or name in two_type_plan.UNQUANTIZED:
        raise BudgetError(
            f"--also {ftype} is not a quantized file type of llama-quantize.", "Give types such as Q4_K_M,IQ3_XXS."
        )
    return replace(uniform_plan(spec, name), ranking=STOCK, high=name, low_layers=())


def layer_bits(spec: ModelSpec, plan: Plan) -> float:
    """Return the average bits of the decoder layers' weights alone: what the paper calls bits."""
    inside = [choice for choice in spec.tensors.choices if choice.layer is not None]
    n_bytes = sum(reader.type_bytes(plan.tensor_types[choice.name], choice.n_weights) for choice in inside)
    return 8 * n_bytes / sum(choice.n_weights for choice in inside)


def errors_of(session: Session, candidates: Candidates) -> dict[str, list[float]]:
    """Return relative output errors of every matrix in every type, from some of its rows that ggml quantizes on the
    spot: no variant is needed for them."""
    run, spec = session.run, session.spec
    name = ".work/bank/errors.json"
    wanted = {matrix: candidates.types[matrix][: len(candidates.kinds)] for matrix in candidates.names}
    how = (quant_error.HOW, quant_error.ROWS, tools.identity(spec.llama))
    key = hash_of(wanted, spec.checkpoint.fingerprint, content_of(session.imatrix), how)

    def make() -> None:
        (run.work / "bank").mkdir(exist_ok=True)
        errors = sampled_errors.sampled_errors(
            quantization_stage.make_f16(session),
            session.imatrix,
            wanted,
            quant_error.ROWS,
            lambda done, total: session.reporter.progress("errors of matrices", done, total),
        )
        listed = {matrix: [errors[matrix][kind] for kind in kinds] for matrix, kinds in wanted.items()}
        serialization.write_json(run.file(name), listed)

    run.run_stage("errors", key, [name], make)
    content: dict[str, list[float]] = serialization.read_json(run.file(name), "plan")
    return content
