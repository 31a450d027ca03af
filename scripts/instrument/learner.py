"""One step of training after another: weights, optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from instrument import batches
from instrument.batches import Batch
from instrument.network import Network
from instrument.objective import Losses, Objective

_LARGEST_GRADIENT = 0.5
_DECAY = 0.05  # of matrices; none of norms and biases
_LAST_RATE = 0.01  # share of the peak that is left at the end
_DROP_FROM, _DROP_TO = 0.4, 0.95  # shares of the run between which layers are left out


@dataclass(frozen=True)
class Recipe:
    """What decides which weights come out. Either `steps` or `seconds` bounds the run."""

    steps: int | None = None
    seconds: float | None = None
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 400
    drop: float = 0.0
    spelling: float = 0.25
    seed: int = 0

    def share_done(self, step: int, seconds: float) -> float:
        return step / self.steps if self.steps else seconds / (self.seconds or 1.0)

    def learning_rate(self, step: int, share: float) -> float:
        """Warm-up by steps, and half a cosine over the run down to a hundredth."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)

    def kept_layers(self, n: int, step: int, share: float) -> Tensor:
        left_out = self.drop if _DROP_FROM < share < _DROP_TO else 0.0
        return batches.kept_layers(n, left_out, self.seed, step)


class Learner:
    """The weights with what trains them; `step` of them are done, which took `seconds`."""

    def __init__(self, network: Network, weights: Mapping[str, Tensor], recipe: Recipe, compiled: bool) -> None:
        self.network, self.recipe = network, recipe
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.loss: float | None = None  # the mean of the last steps that were reported
        self.weights = {name: w.to(network.device).requires_grad_() for name, w in weights.items()}
        torch.manual_seed(recipe.seed)  # of the speller
        self.objective = Objective.of(network)
        self._losses: Callable[..., Losses] = self.objective.losses
        if compiled:
            self._losses = torch.compile(self.objective.losses)
        self._all = [*self.weights.values(), *self.objective.spell.parameters()]
        groups = [
            {"params": [w for w in self._all if w.ndim >= 2], "weight_decay": _DECAY},
            {"params": [w for w in self._all if w.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=recipe.lr, betas=(0.9, 0.95), fused=network.device.type == "cuda"
        )

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "loss": self.loss,
            "weights": {name: w.detach() for name, w in self.weights.items()},
            "speller": self.objective.spell.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def go_on_from(self, state: Mapping[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self.skipped, self.loss = state["skipped"], state["loss"]
        for name, weight in self.weights.items():
            weight.copy_(state["weights"][name])
        self.objective.spell.load_state_dict(state["speller"])
        self._optimizer.load_state_dict(state["optimizer"])

    def learn(self, batch: Batch, share: float) -> Losses:
        """Do one step and return what was lost before it. A step whose gradient is not finite changes nothing."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step, share)
        losses = self._computed(batch, share, share < self.recipe.spelling)
        norm = nn.utils.clip_grad_norm_([w for w in self._all if w.grad is not None], _LARGEST_GRADIENT)
        if torch.isfinite(norm):
            self._optimizer.step()
        else:
            self.skipped += 1
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses

    def warm_up(self, batch: Batch) -> None:
        """Compile and allocate what steps need, before the clock starts."""
        for spelling in (True, False):
            self._computed(batch, 0.0, spelling)
            self._optimizer.zero_grad(set_to_none=True)

    def _computed(self, batch: Batch, share: float, spelling: bool) -> Losses:
        device, seed = self.network.device, self.recipe.seed
        batch = batch.to(device)
        pixels = batches.changed(self.network.pixels(batch.pictures), seed, self.step)
        kept = self.recipe.kept_layers(self.network.n_layers, self.step, share).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = self._losses(self.weights, pixels, batch, kept, spelling)
        losses.total.backward()
        return Losses(*(value.detach() for value in losses))
