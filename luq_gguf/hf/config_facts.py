"""Entries of config.json as llama.cpp's converter reads them, where transformers writes others or none.

The Hub's config.json has them. One that transformers 5 wrote, of a model of its own or after fine-tuning, may not, and
then llama.cpp computes something else or cannot load the file. transformers reads both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_Part = Mapping[str, Any]
_HYBRID = {"linear_attention": "mamba", "full_attention": "attention"}


def _mixture(part: _Part) -> dict[str, Any]:
    """Routers of these families score each expert by a sigmoid, and their first layers have none."""
    kinds = part.get("mlp_layer_types")
    dense = kinds.index("sparse") if isinstance(kinds, list) and "sparse" in kinds else None
    entries = {"scoring_func": "sigmoid", "first_k_dense_replace": dense}
    return {name: value for name, value in entries.items() if value is not None and part.get(name) is None}


def _granite_hybrid(part: _Part) -> dict[str, Any]:
    """The kinds of layers."""
    kinds = part.get("layer_types")
    if not isinstance(kinds, list) or not set(kinds) & _HYBRID.keys():
        return {}
    return {"layer_types": [_HYBRID.get(kind, kind) for kind in kinds]}


# By model_type: the entries that a part of a config needs and lacks, or has otherwise.
FACTS: dict[str, Callable[[_Part], dict[str, Any]]] = {
    **dict.fromkeys(("deepseek_v3", "deepseek_v32", "dots1", "exaone_moe", "glm4_moe_lite"), _mixture),
    "granitemoehybrid": _granite_hybrid,
}


def complete(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a config with the entries that its families need, and a sentence about each that it has otherwise."""
    completed, notes = copy.deepcopy(config), []
    for part in (completed, *_inner(completed)):
        family = part.get("model_type")
        facts = FACTS.get(family) if isinstance(family, str) else None
        for name, value in facts(part).items() if facts else ():
            part[name] = value
            shown = "" if isinstance(value, list) else f": {value}"
            notes.append(f"config.json is read with {name} as llama.cpp's converter needs it for {family}{shown}")
    return (completed, tuple(notes)) if notes else (config, ())


def _inner(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict))
