"""Which module of transformers multiplies the inputs that count for each matrix of the GGUF file.

What the converter makes of the checkpoint's tensors is learned from its own walk (`TensorSource`), and what
transformers makes of them from its rules for loading: so a layer that the converter splits gives each part the
importance of its inputs. Where the walk cannot tell, gguf's names do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from luq_gguf.core.tensor_sources import MatrixSource, TensorSource
from luq_gguf.hf import experts
from luq_gguf.hf.decoder import decoder_layers
from luq_gguf.hf.parameter_names import parameters_of
from luq_gguf.hf.tensor_names import TensorNames

Shapes = Mapping[str, tuple[int, ...]]  # GGUF name -> shape in torch's order
_COLUMNS = -1  # the axis of a linear layer's inputs


def matrix_sources(
    model: nn.Module, names: TensorNames, shapes: Shapes, walked: Mapping[str, TensorSource]
) -> dict[str, MatrixSource]:
    """Return the source of every matrix of the decoder's layers whose inputs transformers computes. A matrix without
    one has no importance: its columns are no module's inputs, or are computed by code that shows none."""
    modules = _modules(model)
    parameters = parameters_of(model, {name for source in walked.values() for name in source.sources})
    found: dict[str, MatrixSource] = {}
    unsettled = {name for name, shape in shapes.items() if len(shape) > 1}
    for name, source in walked.items():
        if source.axis is None or name not in unsettled:
            continue
        unsettled.discard(name)
        paths = [parameters[s] for s in source.sources if s in parameters]
        matrix = _source(modules, _Made(shapes[name], source, paths)) if paths else None
        if matrix:
            found[name] = matrix
    by_name = _by_name(modules, names)
    return found | {name: by_name[name] for name in by_name if name in unsettled}


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules of the decoder's layers by path."""
    layers = {id(layer) for layer in decoder_layers(model)}
    return {
        f"{path}.{inner}": module
        for path, layer in model.named_modules()
        if id(layer) in layers
        for inner, module in layer.named_modules()
        if inner
    }


@dataclass(frozen=True)
class _Made:
    """A matrix of the file, what it is made of, and the parameters that its sources become; scales become none."""

    shape: tuple[int, ...]
    source: TensorSource
    parameters: list[str]


def _source(modules: Mapping[str, nn.Module], made: _Made) -> MatrixSource | None:
    owners = {name.rpartition(".")[0] for name in made.parameters}
    if len({owner.rpartition(".")[0] for owner in owners}) > 1 or not owners <= modules.keys():
        return None  # such as experts that are modules of their own: each has inputs of its own
    module, parameter = made.parameters[0].rsplit(".", 1)
    if all(isinstance(modules[owner], nn.Linear) for owner in owners):
        return _of_linears(modules, owners, made) if parameter == "weight" else None
    if len(owners) > 1:
        return None
    product = experts.product_of(modules[module], parameter)
    if product is None:
        return None
    n_mat, n_in = experts.shape(modules[module], product)
    axis = experts.input_axis(modules[module], product, made.source.shape)
    return MatrixSource(module, product, n_mat, n_in, made.source.order if made.source.axis == axis else None)


def _of_linears(modules: Mapping[str, nn.Module], owners: set[str], made: _Made) -> MatrixSource | None:
    """Layers side by side, such as query, key and value, have the same inputs; one layer's rows may be parted."""
    module, n_mat, n_in = min(owners), prod(made.shape[:-2]), made.shape[-1]
    linears: list[Any] = [modules[owner] for owner in owners]
    widths = {linear.in_features for linear in linears}
    if made.source.axis != _COLUMNS or (n_mat > 1 and len(owners) > 1) or len(widths) > 1:
        return None
    if made.source.order is None and widths != {n_in}:
        return None
    rows = made.source.rows if len(owners) == 1 else None
    return MatrixSource(module, "", n_mat, n_in, made.source.order, rows)


def _by_name(modules: Mapping[str, nn.Module], names: TensorNames) -> dict[str, MatrixSource]:
    """The sources of matrices that gguf names as transformers does."""
    found = {}
    for path, module in modules.items():
        if isinstance(module, nn.Linear):
            name = names.weight(path)
            if name:
                found[name] = MatrixSource(path, "", 1, module.in_features, rows=((0, module.out_features),))
        elif experts.is_experts(module):
            for part, product in experts.PARTS.items():
                if name := names.weight(f"{path}.{part}"):
                    found[name] = MatrixSource(path, product, *experts.shape(module, product))
    return found
