"""What a run folder knows of its checkpoint's origin, for headers that the converter could not fill: it only has the
checkpoint's own card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luq_gguf.llamacpp.gguf.metadata import LONGEST

_LICENCE = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}


def entries(record: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the base model and its licence as entries of a GGUF header, without those that are `present` already.

    `record` is run.json: the base model is the Hub id that was converted, or the one that --base-model named. Texts
    that llama-quantize does not take are left out.
    """
    found: dict[str, str | int] = {}
    licence = record.get("licence")
    if "general.license" not in present and isinstance(licence, Mapping):
        found |= {key: str(licence[name]) for name, key in _LICENCE.items() if licence.get(name)}
    base = base_model(record)
    if base and "general.base_model.count" not in present:
        owner, _, name = base.partition("/")
        found |= {
            "general.base_model.count": 1,
            "general.base_model.0.name": name,
            "general.base_model.0.organization": owner,
            "general.base_model.0.repo_url": f"https://huggingface.co/{base}",
        }
    return {key: value for key, value in found.items() if not isinstance(value, str) or _is_short(value)}


def base_model(record: Mapping[str, Any]) -> str | None:
    """Return the Hub id of a run's base model: what was converted, or what --base-model named; None if unknown."""
    given = record.get("model") if record.get("revision") else record.get("base_model")
    return given if isinstance(given, str) and given.count("/") == 1 else None


def _is_short(text: str) -> bool:
    return len(text.encode()) <= LONGEST and text.isprintable()
