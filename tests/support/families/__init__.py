"""Small random checkpoints of the families that people publish: a file for each maker, with its `FAMILIES`."""

from __future__ import annotations

import importlib
import pkgutil

from .family import LINES, NOT_SQUARE, TEXT, Family, any_tokenizer_environment

FAMILIES: tuple[Family, ...] = tuple(
    family
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "family")
    for family in importlib.import_module(f"{__name__}.{module}").FAMILIES
)


def by_name(name: str) -> Family:
    """Return one of them."""
    return next(family for family in FAMILIES if family.name == name)


__all__ = ["FAMILIES", "LINES", "NOT_SQUARE", "TEXT", "Family", "any_tokenizer_environment", "by_name"]
