"""Mixtures of experts: run them one expert after another, and show each expert's inputs to a hook.

transformers keeps the matrices of all experts of a layer in one parameter and calls a registered function to compute
them. This is such a function; `load_reference` asks for it by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NAME = "luq_gguf"
INTO, OUT_OF = "into", "out of"  # the two products of an expert: its gate and up, its down

# which product, number of the expert, rows of its input [n, n_in], the tokens they come from [n]
ExpertHook = Callable[[str, int, Tensor, Tensor], None]


def register() -> None:
    """Make the function known to transformers under NAME."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, forward)


def is_experts(module: nn.Module) -> bool:
    """Return whether transformers computes this module by a registered function."""
    return all(hasattr(module, name) for name in ("has_gate", "is_transposed", "has_bias", "down_proj"))


def shape(module: Any, product: str) -> tuple[int, int]:
    """Return (number of experts, width of the product's input)."""
    entry = "gate_up_proj" if module.has_gate else "up_proj"
    n_experts, n_out, n_in = getattr(module, entry if product == INTO else "down_proj").shape
    return n_experts, n_out if module.is_transposed else n_in


def set_hook(module: nn.Module, hook: ExpertHook | None) -> None:
    """Call `hook` with the inputs of every expert of this module from now on; None removes the hook."""
    object.__setattr__(module, "_luq_hook", hook)


def forward(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Return outputs [n_tokens, n_out] of the experts that a router has chosen for each token, weighted and summed.

    hidden [n_tokens, n_in]; top_k_index and top_k_weights [n_tokens, k].
    """
    hook: ExpertHook | None = getattr(experts, "_luq_hook", None)
    result = torch.zeros_like(hidden)
    entry = "gate_up_proj" if experts.has_gate else "up_proj"
    for expert in sorted(set(top_k_index.flatten().tolist())):
        tokens, slots = torch.where(top_k_index == expert)
        x = hidden[tokens]
        y = _linear(experts, entry, expert, x)
        y = experts._apply_gate(y) if experts.has_gate else experts.act_fn(y)
        if hook:
            hook(INTO, expert, x, tokens)
            hook(OUT_OF, expert, y, tokens)
        y = _linear(experts, "down_proj", expert, y)
        if getattr(experts, "has_post_expert_norm", False):
            y = experts.post_expert_norm(y)
        result.index_add_(0, tokens, (y * top_k_weights[tokens, slots, None]).to(result.dtype))
    return result


def _linear(experts: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return nn.functional.linear(x, weight.T if experts.is_transposed else weight, bias)
