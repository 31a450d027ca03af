"""What transformers' code knows of a model, and llama.cpp's converter reads from its config.json.

The Hub's config.json says it. One that transformers wrote of a model of its own does not, and then llama.cpp computes
something else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def _leading_dense(part: Mapping[str, Any]) -> int | None:
    """How many layers come before the first mixture of experts; None where the config does not list them."""
    kinds = part.get("mlp_layer_types")
    return kinds.index("sparse") if isinstance(kinds, list) and "sparse" in kinds else None


def _sigmoid(part: Mapping[str, Any]) -> str:
    """By what routers score each expert."""
    return "sigmoid"


# Entries, and what they are for these families where the config lacks them (None: nothing).
FAMILIES = ("deepseek_v3", "deepseek_v32", "dots1", "exaone_moe", "glm4_moe_lite")  # model_type
FACTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "scoring_func": _sigmoid,
    "first_k_dense_replace": _leading_dense,
}


def complete(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a config with the entries that its families need and it lacks, and a sentence about each."""
    completed, notes = copy.deepcopy(config), []
    for part in (completed, *_inner(completed)):
        family = part.get("model_type")
        for name, fact in FACTS.items() if family in FAMILIES else ():
            value = fact(part)
            if value is not None and part.get(name) is None:
                part[name] = value
                notes.append(f"config.json has no {name}: {value} is used, as transformers computes {family}")
    return (completed, tuple(notes)) if notes else (config, ())


def _inner(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict))
