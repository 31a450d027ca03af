"""What training and merging leave in checkpoints: matrices that were not merged, a config of a quantization that is
gone, a head beside embeddings that it is tied to."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core.errors import CheckpointError

QUANTIZATION_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_FLOATS = {"F16", "BF16", "F32", "F64"}
_UNMERGED = re.compile(r"\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)(?:\.|$)")
_HEAD = re.compile(r"(?:^|\.)lm_head\.weight$")
_EMBEDDINGS = re.compile(r"(?:^|\.)embed_tokens\.weight$")
_PIECE = 2**24  # bytes that are compared at a time


@dataclass(frozen=True)
class TiedHead:
    """`unused` names a head that is the embeddings once more, and `notes` one that is not although it should be."""

    unused: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def check_merged(name: str, tensors: Iterable[str]) -> None:
    """Raise CheckpointError where matrices of a LoRA adapter lie beside the weights that they belong to."""
    for tensor in tensors:
        if _UNMERGED.search(tensor):
            raise CheckpointError(
                f"The weights of {name} hold a LoRA adapter that has not been merged ({tensor}).",
                "Merge it first (merge_and_unload of the package peft, then save_pretrained).",
            )


def without_quantization(config: dict[str, Any], dtypes: set[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a config without its quantization where all weights are plain floats, as after merging into a quantized
    model in 16 bits, and a sentence about it; else the config as it is."""
    quantized = [part for part in _parts(config) if any(part.get(key) for key in _QUANTIZATION_KEYS)]
    if not quantized or not dtypes <= _FLOATS:
        return config, ()
    plain = copy.deepcopy(config)
    for part in _parts(plain):
        for key in _QUANTIZATION_KEYS:
            part.pop(key, None)
    return plain, ("the quantization_config in config.json is ignored: all weights are 16 or 32 bits wide",)


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, dict) and value is not config.get("quantization_config"):
            yield from _parts(value)


def check_types(name: str, config: Mapping[str, Any], headers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise CheckpointError where a matrix is stored in integers or 8 bits and the config does not say how."""
    if any(part.get(key) for part in _parts(dict(config)) for key in _QUANTIZATION_KEYS):
        return
    for tensor, entry in headers.items():
        if entry["dtype"] not in _FLOATS and len(entry["shape"]) > 1 and tensor.endswith(".weight"):
            raise CheckpointError(
                f"{tensor} of {name} is stored as {entry['dtype']}: the checkpoint is quantized already, and its "
                "config.json does not say how.",
                "Convert the original checkpoint in 16 bits.",
            )


def tied_head(
    name: str, config: Mapping[str, Any], headers: Mapping[str, Mapping[str, Any]], holders: Mapping[str, Path]
) -> TiedHead:
    """Return whether a head is stored although config.json ties it to the embeddings. The two are compared: equal ones
    are one matrix, different ones are both used, as transformers does."""
    heads = [tensor for tensor in headers if _HEAD.search(tensor)]
    embeddings = [tensor for tensor in headers if _EMBEDDINGS.search(tensor)]
    if len(heads) != 1 or len(embeddings) != 1 or not _is_tied(config):
        return TiedHead()
    head, embedding = headers[heads[0]], headers[embeddings[0]]
    alike = head["dtype"] == embedding["dtype"] and head["shape"] == embedding["shape"]
    if alike and _same_bytes((holders[heads[0]], head), (holders[embeddings[0]], embedding)):
        return TiedHead(frozenset(heads))
    return TiedHead(
        notes=(f"{heads[0]} differs from the embeddings that config.json of {name} ties it to: both are used",)
    )


def _is_tied(config: Mapping[str, Any]) -> bool:
    """As transformers reads it: the text half's own word counts, where a model has halves."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    outer = config.get("tie_word_embeddings")
    return outer is True or (outer is None and inner is True)


def _same_bytes(first: tuple[Path, Mapping[str, Any]], second: tuple[Path, Mapping[str, Any]]) -> bool:
    with first[0].open("rb") as one, second[0].open("rb") as other:
        left = first[1]["data_offsets"][1] - first[1]["data_offsets"][0]
        for file, entry in ((one, first[1]), (other, second[1])):
            file.seek(8 + int.from_bytes(file.read(8), "little") + entry["data_offsets"][0])
        while left > 0:
            pieces = one.read(min(left, _PIECE)), other.read(min(left, _PIECE))
            if pieces[0] != pieces[1] or not pieces[0]:
                return False
            left -= len(pieces[0])
    return True
