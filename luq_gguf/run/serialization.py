"""Turns values into JSON and back: profile.json, plan.json and others. Keys are a contract; more may be added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from luq_gguf.core import atomic, json_input, json_output
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.types import LayerEntropy, Plan, PredictedSpeed, Profile
from luq_gguf.method import ranking

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a frozen value as what JSON can hold: its keys in the order of its fields."""
    return msgspec.to_builtins(value)


def read_value(path: Path, kind: type[T], made_by: str) -> T:
    """Read a frozen value; keys that it does not have are ignored. Raises RunFolderError where the file is missing,
    damaged, or of another shape."""
    content = read_json(path, made_by)
    with reading(path, made_by):
        return msgspec.convert(content, kind)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON under a temporary name, and rename it when it is whole. Raises VerificationError where a
    number is not finite."""
    atomic.write_text(path, json_output.indented(content))


def read_json(path: Path, made_by: str) -> Any:
    """Read JSON. Raises RunFolderError where the file is missing or damaged; `made_by` is the command that makes it."""
    try:
        return json_input.read(path, finite=True)
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent} does not contain {path.name}.", f"Run luq-gguf {made_by} first.") from None
    except ValueError:
        raise RunFolderError(f"{path} is not valid JSON.", f"Run luq-gguf {made_by} again.") from None


@contextmanager
def reading(path: Path, made_by: str) -> Iterator[None]:
    """Raise RunFolderError where what is read inside is not what the command `made_by` writes: files in a run folder
    can be edited, or come from elsewhere."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        raise RunFolderError(
            f"{path} is not a valid luq-gguf {path.name.partition('.')[0]}.", f"Run luq-gguf {made_by} again."
        ) from None


def profile_to_json(profile: Profile) -> dict[str, Any]:
    return {
        "version": profile.version,
        "model": profile.model,
        "layers": [
            {
                "layer": layer.layer,
                "entropy_bits": layer.bits,
                "spread_bits": layer.spread_bits,
                "by_modality": dict(layer.by_modality),
                "n_tokens": layer.n_tokens,
            }
            for layer in profile.layers
        ],
        "estimator": dict(profile.estimator),
        "calibration": dict(profile.calibration),
        "rankings": {way: list(bits) for way, bits in profile.rankings.items()},
        "kendall_tau": ranking.agreement(profile.rankings),
    }


def read_profile(path: Path) -> Profile:
    """Read profile.json. Raises RunFolderError where the file is missing, damaged, or not a profile."""
    content = read_json(path, "profile")
    with reading(path, "profile"):
        layers = tuple(
            LayerEntropy(
                int(row["layer"]),
                float(row["entropy_bits"]),
                float(row["spread_bits"]),
                int(row.get("n_tokens", 0)),
                dict(row["by_modality"]),
            )
            for row in content["layers"]
        )
        rankings = {str(way): tuple(float(b) for b in bits) for way, bits in content.get("rankings", {}).items()}
        if [layer.layer for layer in layers] != list(range(len(layers))) or not layers:
            raise ValueError("layers are numbered from 0")
        if not all(isfinite(number) for layer in layers for number in (layer.bits, layer.spread_bits)):
            raise ValueError("an entropy is not finite")
        if any(len(bits) != len(layers) for bits in rankings.values()):
            raise ValueError("a ranking has other layers")
        return Profile(
            str(content.get("model", "")),
            layers,
            dict(content["estimator"]),
            dict(content["calibration"]),
            rankings,
            int(content.get("version", 1)),
        )


def plan_to_json(plan: Plan) -> dict[str, Any]:
    return {
        "ranking": plan.ranking,
        "low": plan.low,
        "high": plan.high,
        "low_layers": list(plan.low_layers),
        "predicted_bytes": plan.predicted_bytes,
        "predicted_file_bytes": plan.predicted_file_bytes,
        "bpw": plan.bpw,
        "budget": dict(plan.budget) | {"counts": "the text model's file; mmproj and KV cache are not counted"},
        "order": list(plan.order),
        "near_ties": [list(pair) for pair in plan.near_ties],
        "unsettled": {str(layer): share for layer, share in plan.unsettled.items()},
        "without_importance": list(plan.without_importance),
        "tensor_types": dict(plan.tensor_types),
        "predicted_kld": plan.predicted_kld,
        "measured_kld": plan.measured_kld,
        "compared": [dict(entry) for entry in plan.compared],
    } | ({"predicted_speed": vars(plan.speed)} if plan.speed else {})


def read_plan(path: Path) -> Plan:
    """Read plan.json. Raises RunFolderError where the file is missing, damaged, or not a plan."""
    content = read_json(path, "plan")
    with reading(path, "plan"):
        plan = Plan(
            low=str(content["low"]),
            high=str(content["high"]),
            ranking=str(content["ranking"]),
            low_layers=tuple(int(n) for n in content["low_layers"]),
            tensor_types={str(k): str(v) for k, v in content["tensor_types"].items()},
            predicted_bytes=int(content["predicted_bytes"]),
            predicted_file_bytes=int(content["predicted_file_bytes"]),
            bpw=float(content["bpw"]),
            near_ties=tuple((int(a), int(b)) for a, b in content["near_ties"]),
            order=tuple(int(n) for n in content["order"]),
            unsettled={int(layer): float(share) for layer, share in content.get("unsettled", {}).items()},
            without_importance=tuple(str(name) for name in content.get("without_importance", ())),
            budget={k: v for k, v in content["budget"].items() if k != "counts"},
            speed=PredictedSpeed(**content["predicted_speed"]) if "predicted_speed" in content else None,
            predicted_kld=_figures(content.get("predicted_kld"), "value", "error"),
            measured_kld=_figures(content.get("measured_kld"), "mean", "low", "high"),
            compared=tuple(_compared_entry(entry) for entry in content.get("compared", ())),
        )
        if not 0 < plan.predicted_bytes <= plan.predicted_file_bytes < 2**63:
            raise ValueError("not the size of a file")
        return plan


def _figures(figures: Any, *names: str) -> dict[str, Any] | None:
    """Return the entry with these numbers, or None. Raises TypeError or ValueError where one is not a number."""
    return None if figures is None else {**figures, **{name: float(figures[name]) for name in names}}


def _compared_entry(entry: Any) -> dict[str, Any]:
    return {**entry, "name": str(entry["name"]), "file_bytes": int(entry["file_bytes"]), "kld": float(entry["kld"])}


def add_eval(path: Path, content: dict[str, Any]) -> None:
    """Put a file's evaluation first into eval.json; those of other files or data stay, under "others"."""
    before: Any = read_json(path, "eval") if path.exists() else {}

    def what(entry: dict[str, Any]) -> tuple[Any, ...]:
        conditions = entry.get("conditions", {})
        data = entry.get("reference"), conditions.get("data_sha256"), entry.get("metric")
        each = conditions.get("benchmarks", {}).get("samples_each")
        return entry.get("file"), *data, sorted(entry.get("benchmarks") or ()), each

    with reading(path, "eval"):
        others = [*([{k: v for k, v in before.items() if k != "others"}] if before else []), *before.get("others", [])]
        others = [entry for entry in others if what(entry) != what(content)]
    write_json(path, content | {"others": others})
