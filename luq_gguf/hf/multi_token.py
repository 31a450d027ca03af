"""Blocks that predict further tokens (MTP, or NextN): how many a checkpoint really has.

llama.cpp's converter counts them by config.json, or in some classes by a number of its own. Fine-tuning drops their
tensors and keeps the config, and then the converter ends with an assertion or writes a file that does not load. So it
is shown a config that agrees with the tensors, and told to leave such blocks out where it would count them otherwise.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NEXTN, MTP = "num_nextn_predict_layers", "mtp_num_hidden_layers"  # what config.json calls their number
# Text halves whose class in the converter reads MTP, and stops where neither it nor a tensor says how many.
_BY_MTP = ("qwen3_next", "qwen3_5")
_BY_NUMBER = ("mimo_v2",)  # three, whatever there is
_DROPPED = ("MiniCPMV4_6ForConditionalGeneration",)  # the class drops their tensors and counts them all the same
_WITHOUT = ("--no-nextn",)  # an option of the converter, which only some of its classes know
_OWN_NAME = re.compile(r"(?:^|\.)mtp(?:_\w+)?\.")
_NUMBERED = re.compile(r"(?:^|\.)mtp(?:_layers|_block|\.layers)?\.(\d+)\.")
_DECODER_LAYER = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d+)\.")
_ENTRANCE = re.compile(r"\.eh_proj\.weight$")  # one for each block, where a block has several layers


@dataclass(frozen=True)
class MultiToken:
    """The config that agrees with the tensors, what the converter must be told, and sentences about both."""

    config: dict[str, Any]
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def agreeing(config: dict[str, Any], tensors: Iterable[str]) -> MultiToken:
    """Return what the converter is shown and told of a checkpoint with this config.json and tensors of these names."""
    text = _text(config)
    text_type = str(text.get("model_type"))
    if str(config["architectures"][0]) in _DROPPED:
        return MultiToken(config, _WITHOUT)
    blocks, claimed = _of_blocks(text, list(tensors)), _claimed(config)
    uncounted = text_type.startswith(_BY_MTP + _BY_NUMBER)
    if not blocks:
        keys = ", ".join(claimed)
        if uncounted:
            note = f"the layers that {keys} in config.json counts are left out: the weights hold none"
            return MultiToken(config, _WITHOUT, (note,) if claimed else ())
        note = f"{keys} in config.json is read as 0: the weights hold no such layers"
        return MultiToken(_with(config, dict.fromkeys(claimed, 0)), notes=(note,)) if claimed else MultiToken(config)
    key = MTP if text_type.startswith(_BY_MTP) else NEXTN
    count = _count(blocks)
    if key in claimed or text_type.startswith(_BY_NUMBER) or not count:
        return MultiToken(config)
    note = f"{key} in config.json is read as {count}: the weights hold so many such layers"
    return MultiToken(_with(config, {key: count}), notes=(note,))


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the converter looks first."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _claimed(config: Mapping[str, Any]) -> list[str]:
    """Names under which a config claims such layers."""
    places = (config, _text(config))
    return [key for key in (NEXTN, MTP) if any(isinstance(p.get(key), int) and p[key] > 0 for p in places)]


def _of_blocks(text: Mapping[str, Any], tensors: list[str]) -> list[str]:
    """Tensors of such blocks: under names of their own, or in layers behind the decoder's last."""
    n_layers = text.get("num_hidden_layers")
    last = n_layers - 1 if isinstance(n_layers, int) else math.inf
    return [
        tensor
        for tensor in tensors
        if _OWN_NAME.search(tensor) or ((match := _DECODER_LAYER.match(tensor)) and int(match[1]) > last)
    ]


def _count(blocks: list[str]) -> int:
    """How many blocks these tensors are of; 0 where only their place says that they are of any."""
    entrances = sum(bool(_ENTRANCE.search(tensor)) for tensor in blocks)
    return entrances or len({match[1] for tensor in blocks if (match := _NUMBERED.search(tensor))})


def _with(config: dict[str, Any], values: Mapping[str, int]) -> dict[str, Any]:
    """A copy with these values, in the text half and wherever else they stand."""
    changed = copy.deepcopy(config)
    for key, value in values.items():
        if key in changed:
            changed[key] = value
        text = _text(changed)
        assert isinstance(text, dict)
        text[key] = value
    return changed
