"""The head of a reference model, apart from the model: what it makes of the decoder's outputs at some positions."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from luq_gguf.core.errors import CheckpointError

_HINT = "Sensitivities of this model are learned from measured files."


class Head:
    """A model's head with what its family does to the logits. Raises CheckpointError where the model itself makes other
    logits, which is tried with a few tokens."""

    def __init__(self, model: Any) -> None:
        self._matrix: nn.Module | None = model.get_output_embeddings()
        config: Any = model.config.get_text_config()
        self._cap = _number(config, "final_logit_softcapping")
        self.slope = (_number(config, "logit_scale") or 1.0) / (_number(config, "logits_scaling") or 1.0)
        if self._matrix is None or not self._is_models(model):
            raise CheckpointError(f"{type(model).__name__} makes its logits in a way of its own.", _HINT)

    @cached_property
    def lengths(self) -> Tensor:
        """Squared lengths of the rows of the head's matrix, float32 [n_vocabulary]."""
        weight: Any = getattr(self._matrix, "weight")  # noqa: B009 - what type the head has is the family's
        return torch.cat([rows.detach().float().square().sum(1) for rows in weight.split(4096)])

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [n, n_vocabulary] of hidden states [n, width]."""
        assert self._matrix is not None
        logits: Tensor = self._matrix(hidden).float() * self.slope
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def _is_models(self, model: Any) -> bool:
        device = next(model.parameters()).device
        ids = torch.arange(1, 5, device=device)[None]
        with torch.no_grad():
            try:
                expected = model(input_ids=ids, use_cache=False).logits[0].float()
                output = model.base_model(input_ids=ids, use_cache=False)
            except Exception as error:  # code of any family, which text without a picture may not be enough for
                raise CheckpointError(f"{type(model).__name__} does not compute four tokens.", _HINT) from error
            hidden = getattr(output, "last_hidden_state", output[0])[0]
            ours = self.logits(hidden).to(expected.device)
        return ours.shape == expected.shape and bool((ours - expected).norm() <= 1e-2 * expected.norm())


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else None
