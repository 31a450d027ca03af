"""An importance matrix that a user gives in place of the calibration's: what plan.json says about it."""

from __future__ import annotations

from dataclasses import dataclass

from luq_gguf.core.json_value import JsonValue

COPY = "imatrix-given.gguf"  # the run folder's copy, whose name llama-quantize writes into the file


@dataclass(frozen=True)
class GivenImatrix(JsonValue):
    """The name of another publisher's file, without its folder, the sha256 of its contents, the data sets that it says
    it was made from, and how many matrices of the model it has entries for."""

    file: str
    sha256: str
    datasets: tuple[str, ...]
    n_matrices: int


def why_without(given: GivenImatrix | None) -> str:
    """Return why matrices have no importance: a part of a sentence."""
    return f"{given.file} has no entries for them" if given else "the reference model does not show their inputs"
