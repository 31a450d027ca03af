"""llama-quantize: dry runs that tell types and sizes, and the real run with its proof."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from luq_gguf.core import atomic, machine
from luq_gguf.core.errors import ConversionError, TypeNameError, VerificationError
from luq_gguf.core.types import ImportanceMatrix, ModelTensors, Plan, TensorChoice
from luq_gguf.llamacpp import child, labels, tools
from luq_gguf.llamacpp.gguf import header_only, imatrix, reader
from luq_gguf.llamacpp.gguf.metadata import Entries
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.method import tensor_types

_TENSOR = re.compile(r"\[ *\d+/ *\d+\] (?P<name>\S+) +- \[[^]]*\], type = +(?P<type>\w+), (?:.*\((?P<new>\w+)\)\s*$)?")
_STEP = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_ANY_IMPORTANCE = ImportanceMatrix({"none": np.ones((1, 1))}, {"none": np.ones(1, np.int64)}, 1)
_WITH_LESS = ", or add --low-disk to convert or quantize, which works in slices then"
_FTYPE = re.compile(r"^\s*\d+\s+or\s+(\w+)\s*:", re.MULTILINE)


def ftypes(llama: LlamaCpp) -> list[str]:
    """Return the file types that llama-quantize offers, as its help names them."""
    return _FTYPE.findall(tools.output(llama.tool("llama-quantize"), "--help"))


def check_ftype(llama: LlamaCpp, ftype: str) -> str:
    """Return the canonical name of a quantized ftype. Raises TypeNameError with the known ones."""
    names = [name for name in ftypes(llama) if name not in ("F16", "BF16", "F32", "COPY")]
    if ftype.upper() not in names:
        raise TypeNameError(
            f"--high {ftype}: llama-quantize does not know this file type.", f"Choose one of: {', '.join(names)}."
        )
    return ftype.upper()


def dry_run(llama: LlamaCpp, source: Path, ftype: str, types: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the type that llama-quantize would give every tensor of a 16-bit file (or of its header-only GGUF).

    It is given an importance matrix, as `quantize` always is: the mixes of IQ3_XXS, IQ4_XS, IQ4_NL, Q4_0 and Q5_0
    depend on whether there is one (src/llama-quant.cpp, has_imatrix), and a dry run never looks at its entries.
    """
    listed, matrix = source.with_name("dry-run-types.txt"), source.with_name("dry-run-imatrix.gguf")
    command: list[str | Path] = [llama.tool("llama-quantize"), "--dry-run", "--imatrix", matrix]
    try:
        imatrix.write(matrix, _ANY_IMPORTANCE, ["none"], 1)
        if types:
            listed.write_text(tensor_types.to_text(types))
            command += ["--tensor-type-file", listed]
        output = child.run([*command, source, ftype], child.Failure(ConversionError, "llama-quantize --dry-run"))
    finally:
        listed.unlink(missing_ok=True)
        matrix.unlink(missing_ok=True)
    types_found = {}
    for line in output.splitlines():
        if match := _TENSOR.search(line):
            types_found[match["name"]] = (match["new"] or match["type"]).upper()
    return types_found


def model_tensors(
    llama: LlamaCpp,
    source: reader.GGUFInfo,
    low: str,
    high: str,
    *,
    n_layers: int,
    has_imatrix: Collection[str],
    datasets: tuple[str, ...] = (),
    entries: Entries | None = None,
    imatrix_name: str = header_only.IMATRIX_NAME,
) -> ModelTensors:
    """Return both possible types and sizes of every tensor: stock types from one dry run, low types from another.
    `entries` are of the size of those that the file's header gets beside llama-quantize's own, which name the file with
    the importance.

    A decoder layer's low type holds for all its matrices; where a row does not fit the type's blocks,
    llama-quantize's fallback is what the second dry run tells. Tensors that are not `has_imatrix` (they will have no
    importance entry) never become low: they get their high type, or Q2_K (Q3_K in a Q2_K_S file) where that needs an
    entry.
    """
    stock, unmeasured = stock_types(llama, source, high, has_imatrix)

    def layer_of(name: str) -> int | None:
        layer = tensor_types.layer_of(name)
        return layer if layer is not None and layer < n_layers else None

    matrices = set(_quantized(source, stock)) - set(unmeasured)
    lowered = {name: low for name in matrices if layer_of(name) is not None}
    lowered = dry_run(llama, source.path, high, stock_map(source, stock) | lowered)
    choices = tuple(
        TensorChoice(
            name=t.name,
            layer=layer_of(t.name),
            n_weights=t.n_weights,
            high_type=stock[t.name],
            high_bytes=reader.type_bytes(stock[t.name], t.n_weights),
            low_type=lowered[t.name],
            low_bytes=reader.type_bytes(lowered[t.name], t.n_weights),
        )
        for t in source.tensors
    )
    header = header_only.quantized_header_bytes(source, datasets, entries, imatrix_name)
    return ModelTensors(choices, n_layers, low, high, header, header_only.ALIGNMENT, tuple(unmeasured))


def stock_types(
    llama: LlamaCpp, source: reader.GGUFInfo, ftype: str, has_imatrix: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the type of every tensor in llama-quantize's own file of an ftype, and the matrices not in `has_imatrix`,
    which get types that need no importance."""
    types = dry_run(llama, source.path, ftype)
    missing = [t.name for t in source.tensors if t.name not in types]
    if missing:
        raise ConversionError(
            f"llama-quantize's dry run does not list {missing[0]}.",
            "This build may be too old: use the pinned llama.cpp.",
        )
    unmeasured = _without_importance(_quantized(source, types), has_imatrix)
    for name in unmeasured:
        if reader.needs_importance(name, types[name], ftype):
            types[name] = "Q3_K" if ftype == "Q2_K_S" else "Q2_K"
    return types, unmeasured


def _quantized(source: reader.GGUFInfo, stock: Mapping[str, str]) -> list[str]:
    """The matrices that are quantized at all."""
    return [t.name for t in source.tensors if len(t.shape) > 1 and stock[t.name] != t.type]


def _without_importance(matrices: Collection[str], has_imatrix: Collection[str]) -> list[str]:
    return [name for name in matrices if name not in has_imatrix and name not in reader.NEVER_MEASURED]


def types_if_all(
    llama: LlamaCpp, source: reader.GGUFInfo, kind: str, tensors: ModelTensors, *, has_imatrix: Collection[str]
) -> dict[str, str]:
    """Return the type of every tensor if each quantized matrix, including embeddings and head, is requested in this
    type. It is llama-quantize's fallback where rows do not fit, and the stock type where a matrix lacks importance."""
    stock = {choice.name: choice.high_type for choice in tensors.choices}
    matrices = _quantized(source, stock)
    unchanged = set(_without_importance(matrices, has_imatrix))
    if kind in reader.IMATRIX_TYPES:  # llama-quantize would abort
        unchanged |= set(reader.NEVER_MEASURED)
    requested = stock_map(source, stock) | {name: kind for name in matrices if name not in unchanged}
    return dry_run(llama, source.path, tensors.high, requested)


def stock_map(source: reader.GGUFInfo, types: Mapping[str, str]) -> dict[str, str]:
    """Return overrides for the tensors that are quantized at all, and for matrices that are to stay in 16 bits, which
    llama-quantize would quantize; the others keep their type by themselves."""
    return {t.name: types[t.name] for t in source.tensors if types[t.name] != t.type or _may_be_quantized(t)}


def _may_be_quantized(tensor: reader.TensorInfo) -> bool:
    return len(tensor.shape) > 1 and tensor.type in ("F16", "BF16")


def overrides(source: reader.GGUFInfo, plan: Plan) -> dict[str, str]:
    """Return what tensor-types.txt contains for this plan and source."""
    return stock_map(source, plan.tensor_types)


def fallbacks(tensors: ModelTensors) -> dict[str, list[str]]:
    """Return tensors of decoder layers whose low type is not the requested one: type they get -> names."""
    by_type: dict[str, list[str]] = {}
    fine = {tensors.low, "F32", "F16", "BF16"}  # these were not quantized at all
    for choice in tensors.choices:
        if choice.layer is None or choice.low_type in fine or choice.name in tensors.without_importance:
            continue
        if "norm" not in choice.name:
            by_type.setdefault(choice.low_type, []).append(choice.name)
    return by_type


def quantize(
    llama: LlamaCpp,
    source: Path,
    out: Path,
    plan: Plan,
    types_file: Path,
    *,
    entries: Entries | None = None,
    imatrix_name: str = header_only.IMATRIX_NAME,
    requantize: bool = False,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Run llama-quantize in the folder of the types' file with relative paths, because it writes the imatrix's path
    into the file; `entries` are set in its header. `requantize`: the source may be quantized already.

    The file is read again and every tensor's type compared with the plan. Raises VerificationError, naming the
    tensors, after removing a file that differs.
    """

    def on_line(line: str) -> None:
        if match := _STEP.match(line):
            on_progress(int(match[1]), int(match[2]))

    with atomic.whole(out) as part:
        folder = types_file.parent
        source_name, written = os.path.relpath(source, folder), os.path.relpath(part, folder)
        words = arguments(types_file.name, source_name, written, plan.high, entries or {}, imatrix_name)
        words = ["--allow-requantize", *words] if requantize else words
        count = threads or machine.cores(logical=True)  # by itself it takes all, whatever a container allows
        command: list[str | Path] = [llama.tool("llama-quantize"), *words, str(count)]
        child.run(
            command,
            child.Failure(ConversionError, "llama-quantize", killed=_WITH_LESS),
            on_line=on_line,
            cwd=folder,
            into=out.parent,
        )
        verify(part, plan)


def arguments(
    types_file: str, source: str, out: str, ftype: str, entries: Entries, imatrix_name: str = header_only.IMATRIX_NAME
) -> list[str]:
    """Return llama-quantize's arguments that make a planned file in the folder of the importance matrix; the number of
    threads, which does not change it, may follow."""
    words = ["--imatrix", imatrix_name, "--tensor-type-file", types_file, *labels.arguments(entries)]
    return [*words, f"./{source}", f"./{out}", ftype]  # a name in digits would be read as a file type


def verify(path: Path, plan: Plan) -> None:
    """Compare a written file with its plan: the type of every tensor, and that the metadata contains no local path."""
    info = reader.read(path)
    wrong = tensor_types.differences(plan.tensor_types, info.types)
    if wrong:
        raise VerificationError(
            f"{len(wrong)} tensors are not as planned: {'; '.join(wrong[:5])}.",
            "The file was removed. This is a bug, or this llama.cpp ignores overrides: run luq-gguf doctor.",
        )
    for key, value in info.metadata.items():
        if isinstance(value, str) and value.startswith(("/", "~/", "\\\\")) and not key.startswith("tokenizer."):
            raise VerificationError(
                f"The file's metadata {key} contains a local path: {value}.", "The file was removed."
            )
