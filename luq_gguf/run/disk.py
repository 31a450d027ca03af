"""Checks whether the disk has room for what a run will write."""

from __future__ import annotations

import shutil
from pathlib import Path

from luq_gguf.core.errors import DiskSpaceError
from luq_gguf.core.units import format_size
from luq_gguf.hf import slices
from luq_gguf.run.session import Session


def check_disk(session: Session, predicted_file_bytes: int, *, needs_f16: bool = False) -> None:
    """Raise DiskSpaceError where the 16-bit files (or slices), the sampled vectors and the result will not fit.

    The hint suggests slices where they were not asked for and would be enough, because the whole 16-bit file is
    neither kept nor needed (`needs_f16`).
    """
    run, spec, options = session.run, session.spec, session.options
    f16 = 2 * spec.tensors.n_weights
    vision = max(0, spec.checkpoint.n_bytes - f16) if spec.checkpoint.has_vision else 0
    if spec.file:  # which is there already
        _check_room(run.path, predicted_file_bytes, "its file", "Free some space, or use another disk.")
        return
    width = next(t.shape[0] for t in spec.source.tensors if t.name.startswith("token_embd"))
    vectors = 2 * 8192 * spec.tensors.n_layers * width * 4
    largest_part = f"the 16-bit GGUF file takes {format_size(f16)}"
    if options.low_disk:  # a slice of the checkpoint and its 16-bit GGUF beside what is quantized; then that once more
        largest = max(slices.slice_bytes(spec.checkpoint, names) for names in slices.slices(spec.checkpoint))
        f16 = max(2 * largest, predicted_file_bytes)
        largest_part = f"slices take {format_size(largest)}"
    needed = vision + max(predicted_file_bytes + f16, vectors)
    slices_possible = not (options.low_disk or options.keep_f16 or needs_f16)
    hint = f"Free some space,{' add --low-disk, which needs less,' * slices_possible} or use another disk."
    _check_room(run.path, needed, f"{largest_part}; everything but the result is deleted afterwards", hint)


def _check_room(folder: Path, needed: int, for_what: str, hint: str) -> None:
    present = sum(p.stat().st_size for p in folder.glob("*.gguf") if p.is_file())
    free = shutil.disk_usage(folder).free + present
    if free < needed:
        raise DiskSpaceError(
            f"{folder} has {format_size(free)} free, but this run needs about {format_size(needed)} ({for_what}).",
            hint,
        )
