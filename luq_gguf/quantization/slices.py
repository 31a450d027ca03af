"""Writes a planned file without a 16-bit file of the whole model: slice by slice, then spliced.

The converter and llama-quantize treat every tensor by itself, so the bytes are those of the ordinary way. The cost is
one run of the converter for every slice.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.types import Plan
from luq_gguf.hf import slices
from luq_gguf.llamacpp import converter, quantize
from luq_gguf.llamacpp.gguf import reader, splice
from luq_gguf.method import tensor_types
from luq_gguf.quantization.checks import check_same_columns, check_same_tensors
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import Session

FOLDER = "slices"  # in .work: the quantized ones
_CONVERTED = 0.2  # of a slice's time, for the bar alone


def quantize_slices(session: Session, plan: Plan, path: Path, key: str, entries: Mapping[str, str | int]) -> None:
    """Quantize as planned into `path`; `key` stands for all inputs, and `entries` are set in the header. Finished
    slices are kept until `clear`.

    Raises what the converter and llama-quantize raise, and CheckpointError where the slices lack a tensor.
    """
    run, spec = session.run, session.spec
    (run.work / FOLDER).mkdir(exist_ok=True)
    parts, files = slices.slices(spec.checkpoint), []
    for number, names in enumerate(parts):
        name = f".work/{FOLDER}/{number}.gguf"

        def on_share(share: float, number: int = number) -> None:
            session.reporter.progress("text model in slices", number + share, len(parts))

        def make(names: tuple[str, ...] = names, name: str = name) -> None:
            _write_slice(session, plan, names, run.file(name), entries, on_share)

        run.run_stage(f"slice-{number}", hash_of(key, names), [name], make)
        files.append(run.file(name))
    written = {t.name: t for file in files for t in reader.read(file).tensors}
    missing = [t.name for t in spec.source.tensors if t.name not in written]
    if missing:
        raise CheckpointError(
            f"No slice of {spec.checkpoint.name} contains the tensor {missing[0]}.", "Run it again without --low-disk."
        )
    order = quantize.dry_run(spec.llama, spec.source.path, plan.high)
    label = {"general.size_label": str(spec.source.metadata["general.size_label"])}  # a slice has fewer weights
    with atomic.whole(path) as part:
        splice.splice(files, plan.tensor_types, part, order=order, changes=label)
        quantize.verify(part, plan)


def _write_slice(
    session: Session,
    plan: Plan,
    names: tuple[str, ...],
    out: Path,
    entries: Mapping[str, str | int],
    on_share: Callable[[float], None],
) -> None:
    """Write one slice: its checkpoint, its 16-bit GGUF (llama-quantize runs in the run folder), the result."""
    run, spec = session.run, session.spec
    holder = run.work / f"slice{atomic.SUFFIX}"
    folder = holder / spec.checkpoint.folder.name  # the converter takes metadata from this name
    f16, types = (run.file(f"slice-{name}{atomic.SUFFIX}") for name in ("F16.gguf", "types.txt"))
    slices.write(spec.checkpoint, names, folder)
    info = converter.to_16_bit(
        spec.llama,
        folder,
        f16,
        spec.checkpoint.name,
        spec.checkpoint.converter_options,
        view=spec.checkpoint.view,
        on_progress=lambda share: on_share(_CONVERTED * share),
    )
    shutil.rmtree(holder)
    check_same_tensors(info, spec.source, allow_subset=True)
    check_same_columns(run, info)
    here = {name: plan.tensor_types[name] for name in info.types}
    types.write_text(tensor_types.to_text(quantize.stock_map(info, here)))
    quantize.quantize(
        spec.llama,
        f16,
        out,
        replace(plan, tensor_types=here),
        types,
        entries=entries,
        imatrix_name=spec.imatrix_name,
        threads=session.options.threads,
        on_progress=lambda done, total: on_share(_CONVERTED + (1 - _CONVERTED) * done / total),
    )
    for path in (f16, types):
        path.unlink()


def clear(run: RunFolder) -> None:
    """Remove what `quantize_slices` kept, when the file is whole."""
    shutil.rmtree(run.work / FOLDER, ignore_errors=True)
    for stage in [stage for stage in run.read()["stages"] if stage.startswith("slice-")]:
        run.forget(stage)
