"""Turns values into JSON and back: profile.json, plan.json and others. Keys are a contract; more may be added."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from luq_gguf.core import atomic, json_input, json_output
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.given_imatrix import GivenImatrix
from luq_gguf.core.measurements import EvalResult
from luq_gguf.core.plan_quality import ComparedFile, MeasuredKld, PredictedKld
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.profile_facts import CalibrationFacts, EstimatorFacts
from luq_gguf.core.speeds import Bench
from luq_gguf.core.sweeps import CalibrationMix, Sweep
from luq_gguf.core.types import LayerEntropy, Plan, PredictedSpeed, Profile
from luq_gguf.method import ranking

T = TypeVar("T")


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
            msgspec.convert(content["estimator"], EstimatorFacts),
            msgspec.convert(content["calibration"], CalibrationFacts),
            rankings,
            msgspec.convert(content["kendall_tau"], dict[str, float])
            if "kendall_tau" in content
            else ranking.agreement(rankings),
            int(content.get("version", 1)),
        )


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
            speed=msgspec.convert(content.get("predicted_speed"), PredictedSpeed | None),
            predicted_kld=msgspec.convert(content.get("predicted_kld"), PredictedKld | None),
            measured_kld=msgspec.convert(content.get("measured_kld"), MeasuredKld | None),
            compared=msgspec.convert(content.get("compared", ()), tuple[ComparedFile, ...]),
            rules=msgspec.convert(content.get("rules", {}), PlanRules),
            imatrix=msgspec.convert(content.get("imatrix"), GivenImatrix | None),
        )
        if not 0 < plan.predicted_bytes <= plan.predicted_file_bytes < 2**63:
            raise ValueError("not the size of a file")
        if not re.fullmatch(r"\w[\w.-]*", plan.ranking):  # part of the file's name
            raise ValueError("not a ranking")
        return plan


def read_bench(path: Path) -> Bench:
    """Read bench.json. Raises RunFolderError where it is missing, damaged, or of another shape."""
    return read_value(path, Bench, "bench")


def read_sweep(path: Path) -> Sweep:
    """Read sweep.json. Raises RunFolderError where it is missing, damaged, or of another shape."""
    return read_value(path, Sweep, "sweep")


def read_mix(path: Path) -> CalibrationMix:
    """Read alpha.json. Raises RunFolderError where it is missing, damaged, or of another shape."""
    return read_value(path, CalibrationMix, "alpha")


def read_evals(path: Path) -> tuple[EvalResult, ...]:
    """Read eval.json: the last evaluation first. Raises RunFolderError where the file is missing, damaged, or of
    another shape."""
    content = read_json(path, "eval")
    with reading(path, "eval"):
        return msgspec.convert((content, *content.get("others", ())), tuple[EvalResult, ...])


def add_eval(path: Path, result: EvalResult) -> None:
    """Put a file's evaluation first into eval.json; those of other files, data or conditions stay as they are, under
    "others", but not those of a former file of the same name."""
    content = result.to_json()
    before: Any = read_json(path, "eval") if path.exists() else {}

    def what(entry: dict[str, Any]) -> tuple[Any, ...]:
        measured = (entry.get(name) for name in ("file", "reference", "metric", "n_samples", "n_chunks", "conditions"))
        return *measured, sorted(entry.get("benchmarks") or ())

    def is_former(entry: dict[str, Any]) -> bool:
        digests = entry.get("file_sha256"), content.get("file_sha256")
        return entry.get("file") == content["file"] and None not in digests and digests[0] != digests[1]

    with reading(path, "eval"):
        others = [*([{k: v for k, v in before.items() if k != "others"}] if before else []), *before.get("others", [])]
        others = [entry for entry in others if what(entry) != what(content) and not is_former(entry)]
    write_json(path, content | {"others": others})
