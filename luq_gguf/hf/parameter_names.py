"""The checkpoint's tensor names -> the parameters of transformers' model, by transformers' own rules for loading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def parameters_of(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the parameter that each of these tensors of a checkpoint becomes, or becomes a part of; tensors that the
    model has no place for are left out. Where transformers parts a tensor, it is the first part's parameter."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings: list[Any] = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters: list[Any] = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    known: Any = model.state_dict()
    prefix: Any = getattr(model, "base_model_prefix", None)
    found = {}
    for name in sorted(names, key=dot_natural_key):  # some rules hold from a name on
        for rules in ((renamings, converters), ([], [])):
            parameter = rename_source_key(name, *rules, prefix, known)[0]
            if parameter in known:
                found[name] = parameter
                break
    return found
