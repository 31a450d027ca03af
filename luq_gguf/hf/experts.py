"""Mixtures of experts: run them one expert after another, and show each expert's inputs to a hook.

transformers keeps the matrices of all experts of a layer in one parameter and calls a registered function to compute
them. This is such a function; `load_reference` asks for it by name. Where a family has code of its own that multiplies
all experts at once by torch.bmm (Llama 4), its inputs are seen there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NAME = "luq_gguf"
INTO, OUT_OF = "into", "out of"  # the two products of an expert: its gate and up, its down
PARTS = {"gate_up_proj": INTO, "gate_proj": INTO, "up_proj": INTO, "down_proj": OUT_OF}  # what parameters are called

_MULTIPLY = (torch.bmm, Tensor.bmm, torch.matmul, Tensor.matmul)

# which product, number of the expert, rows of its input [n, n_in], the tokens they come from [n]
ExpertHook = Callable[[str, int, Tensor, Tensor], None]
# name of the parameter, number of the expert, rows of its input [n, n_in] and output [n, n_out], their tokens [n]
ProductHook = Callable[[str, int, Tensor, Tensor, Tensor], None]


def register() -> None:
    """Make the function known to transformers under NAME."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, forward)


def is_experts(module: nn.Module) -> bool:
    """Return whether transformers computes this module by a registered function."""
    return all(hasattr(module, name) for name in ("has_gate", "is_transposed", "has_bias", "down_proj"))


def product_of(module: nn.Module, parameter: str) -> str | None:
    """Return the product in which a module of experts multiplies a parameter, for `set_hook`; None where it shows no
    such product."""
    if is_experts(module):
        return PARTS.get(parameter)
    return parameter if parameter in _multiplied(module) else None


def shape(module: Any, product: str) -> tuple[int, int]:
    """Return (number of experts, width of the product's input)."""
    if not is_experts(module):
        n_experts, n_in, _ = getattr(module, product).shape
        return n_experts, n_in
    entry = "gate_up_proj" if module.has_gate else "up_proj"
    n_experts, n_out, n_in = getattr(module, entry if product == INTO else "down_proj").shape
    return n_experts, n_out if module.is_transposed else n_in


def input_axis(module: Any, product: str, source: tuple[int, ...]) -> int | None:
    """Return which axis of the checkpoint's tensor of this shape has the product's inputs: -1 or -2."""
    n_in = shape(module, product)[1]
    fits = [axis for axis in (-1, -2) if len(source) >= -axis and source[axis] == n_in]
    if len(fits) == 2:  # square: as transformers keeps it
        return -2 if getattr(module, "is_transposed", True) else -1
    return fits[0] if fits else None


class _Products(TorchFunctionMode):
    """Shows inputs [n_experts, n_tokens, n_in] of what is multiplied by one of a module's parameters, by its name."""

    def __init__(self, module: nn.Module, show: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        parameters = module.named_parameters(recurse=False)
        self._parameters = {id(parameter): name for name, parameter in parameters if parameter.ndim == 3}
        self._show = show

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = self._parameters.get(id(args[1])) if func in _MULTIPLY and len(args) > 1 else None
        if name:
            self._show(name, args[0])
        return func(*args, **(kwargs or {}))


def _multiplied(module: nn.Module) -> set[str]:
    """The parameters by which a module without weights multiplies its only input, one token for each expert. Code that
    wants other inputs fails in its own way."""
    shapes = [parameter.shape for parameter in module.parameters(recurse=False) if parameter.ndim == 3]
    names: set[str] = set()
    if shapes:
        like = next(module.parameters(recurse=False))
        tokens = torch.empty(shapes[0][:2], device=like.device, dtype=like.dtype)
        with suppress(Exception), _Products(module, lambda name, x: names.add(name)):
            module(tokens)
    return names


def set_hook(module: nn.Module, hook: ExpertHook) -> Callable[[], None]:
    """Call `hook` with the inputs of every expert of this module from now on, until what is returned is called."""
    if is_experts(module):
        object.__setattr__(module, "_luq_hook", hook)
        return lambda: object.__setattr__(module, "_luq_hook", None)

    def show(name: str, inputs: Tensor) -> None:
        for expert, x in enumerate(inputs):
            tokens = (x != 0).any(-1).nonzero().reshape(-1)  # a token that does not go to an expert is 0 there
            if len(tokens):
                hook(name, expert, x[tokens], tokens)

    products: Any = _Products(module, show)

    def begin(module: nn.Module, args: Any) -> None:
        products.__enter__()

    def end(module: nn.Module, args: Any, output: Any) -> None:
        products.__exit__(None, None, None)

    before = module.register_forward_pre_hook(begin)
    after = module.register_forward_hook(end, always_call=True)

    def undo() -> None:
        before.remove()
        after.remove()

    return undo


def set_product_hook(module: nn.Module, hook: ProductHook) -> Callable[[], None] | None:
    """Call `hook` with inputs and outputs of every expert's products from now on, until what is returned is called;
    None where the module is computed by other code, which shows no outputs."""
    if not is_experts(module):
        return None
    object.__setattr__(module, "_luq_products", hook)
    return lambda: object.__setattr__(module, "_luq_products", None)


def forward(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Return outputs [n_tokens, n_out] of the experts that a router has chosen for each token, weighted and summed.

    hidden [n_tokens, n_in]; top_k_index and top_k_weights [n_tokens, k].
    """
    hook: ExpertHook | None = getattr(experts, "_luq_hook", None)
    show: ProductHook | None = getattr(experts, "_luq_products", None)
    result = torch.zeros_like(hidden)
    entry = "gate_up_proj" if experts.has_gate else "up_proj"
    for expert in sorted(set(top_k_index.flatten().tolist())):
        tokens, slots = torch.where(top_k_index == expert)
        x = hidden[tokens]
        y = _linear(experts, entry, expert, x)
        if show:
            show(entry, expert, x, y, tokens)
        y = experts._apply_gate(y) if experts.has_gate else experts.act_fn(y)
        if hook:
            hook(INTO, expert, x, tokens)
            hook(OUT_OF, expert, y, tokens)
        x, y = y, _linear(experts, "down_proj", expert, y)
        if show:
            show("down_proj", expert, x, y, tokens)
        if getattr(experts, "has_post_expert_norm", False):
            y = experts.post_expert_norm(y)
        result.index_add_(0, tokens, (y * top_k_weights[tokens, slots, None]).to(result.dtype))
    return result


def _linear(experts: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return nn.functional.linear(x, weight.T if experts.is_transposed else weight, bias)
