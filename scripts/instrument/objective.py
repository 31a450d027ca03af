"""What is learnt: to foretell the answer's tokens, those of the question a little, and for a time to spell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instrument import vocabulary
from instrument.batches import QUESTIONS, Batch
from instrument.network import Network, Packing
from instrument.pool import NO_LETTER, UNKNOWN
from instrument.prompts import LENGTH
from instrument.towers import Weights

_OF_QUESTION = 0.1  # weight of a question's tokens, so that the model knows the language of its questions
_OF_SPELLING = 0.3


class Losses(NamedTuple):
    """Scalars: cross entropy of the text and of the spelled letters, and the share of right whole answers."""

    text: Tensor
    spelling: Tensor
    right: Tensor

    @property
    def total(self) -> Tensor:
        return self.text + _OF_SPELLING * self.spelling


def strength(sizes: Tensor) -> Tensor:
    """Return how much every token counts, [.., LENGTH] of sizes [.., 2]: 1 in the answer, nothing behind it."""
    at = torch.arange(LENGTH, device=sizes.device)
    n, n_answer = sizes[..., :1], sizes[..., 1:]
    return torch.where(at >= n, 0.0, torch.where(at >= n - n_answer, 1.0, _OF_QUESTION))


def right_answers(logits: Tensor, ids: Tensor, sizes: Tensor) -> Tensor:
    """Return whether greedy decoding would give the whole answer: bool [..] of logits [.., LENGTH, vocabulary]."""
    return ((logits.argmax(-1) == ids) | (strength(sizes) < 1)).all(-1)


def speller(network: Network) -> nn.Linear:
    """Return the head, discarded afterwards, that reads a word's letters off the picture's tokens."""
    width = int(network.config["text_config"]["hidden_size"])
    return nn.Linear(network.n_image * width, vocabulary.WORD_LENGTHS[1] * (NO_LETTER + 1)).to(network.device)


@dataclass(frozen=True)
class Objective:
    network: Network
    packing: Packing  # of QUESTIONS
    spell: nn.Linear

    @classmethod
    def of(cls, network: Network) -> Objective:
        return cls(network, network.packing(QUESTIONS), speller(network))

    def losses(self, weights: Weights, pixels: Tensor, batch: Batch, kept: Tensor, spelling: bool) -> Losses:
        """Return the losses of a batch, whose pictures are given as normalised pixels [B, 3, side, side]."""
        features = self.network.tower(weights, pixels)
        logits = self.network.logits(weights, features, batch.ids, self.packing, kept)
        counted = strength(batch.sizes)
        each = F.cross_entropy(logits.float().flatten(0, 2), batch.ids.flatten(), reduction="none")
        text = (each.reshape(counted.shape) * counted).sum() / counted.sum()
        spelled = torch.zeros((), device=pixels.device)
        if spelling:
            letters = self.spell(features.float().flatten(1)).reshape(-1, NO_LETTER + 1)
            spelled = F.cross_entropy(letters, batch.words.flatten(), ignore_index=UNKNOWN, reduction="sum")
            spelled = spelled / (batch.words != UNKNOWN).sum().clamp(min=1)  # a small batch may show no word
        right = right_answers(logits.detach(), batch.ids, batch.sizes).float().mean()
        return Losses(text, spelled, right)
