"""How many test questions of each split a model answers right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instrument import draw
from instrument.network import Network
from instrument.objective import right_answers
from instrument.prompts import Prompts
from instrument.splits import Asked
from instrument.towers import Weights

_AT_ONCE = 250  # pictures


class QuestionSet(NamedTuple):
    """Pictures uint8 [n, side, side, 3], each with one question: `ids` [n, 1, LENGTH], `sizes` [n, 1, 2]."""

    pictures: Tensor
    ids: Tensor
    sizes: Tensor


def question_sets(prompts: Prompts, n: int) -> dict[str, QuestionSet]:
    """Draw n test questions of every split, of none where n is 0."""
    sets = {}
    for split in draw.NAMES if n else ():
        questions = list(draw.for_tests(split, n))
        ids, sizes = prompts.rows([Asked(question.text, question.answer) for question in questions])
        pictures = torch.from_numpy(np.stack([question.picture for question in questions]))
        sets[split] = QuestionSet(
            pictures, torch.from_numpy(ids)[:, None].long(), torch.from_numpy(sizes)[:, None].long()
        )
    return sets


@torch.no_grad()
def accuracy(network: Network, weights: Weights, sets: Mapping[str, QuestionSet]) -> dict[str, float]:
    """Return the share of right answers of each split, in float32, in bfloat16 on a GPU."""
    device, packing, scores = network.device, network.packing(1), {}
    for split, asked in sets.items():
        right = []
        for at in range(0, len(asked.pictures), _AT_ONCE):
            pictures, ids, sizes = (part[at : at + _AT_ONCE].to(device) for part in asked)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = network.tower(weights, network.pixels(pictures))
                logits = network.logits(weights, features, ids, packing)
            right.append(right_answers(logits, ids, sizes)[:, 0].float())
        scores[split] = round(float(torch.cat(right).mean()), 4)
    return scores
