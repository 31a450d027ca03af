"""Whether a run folder, or a GGUF file from anywhere, is what it should be.

Nothing of the user's is changed: the folder's lock is not taken, and half-written files stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from luq_gguf.core.checks import Check, CheckReport
from luq_gguf.core.errors import GGUFFileError, LuqError, RunFolderError, VerificationError
from luq_gguf.core.given_imatrix import COPY
from luq_gguf.core.hashing import sha256_of
from luq_gguf.core.units import format_size
from luq_gguf.diagnostics import pairs
from luq_gguf.llamacpp.gguf import header_only, imatrix, reader, shards
from luq_gguf.llamacpp.gguf.metadata import CHECKPOINT
from luq_gguf.llamacpp.gguf.reader import GGUFInfo
from luq_gguf.llamacpp.runtime.client import Limits, LlamaClient
from luq_gguf.method import tensor_types
from luq_gguf.run import model_files, serialization
from luq_gguf.run.folder import RunFolder

# Stages whose files belong to a run; those of others may have been deleted.
LASTING = ("profile", "imatrix", "plan", "mmproj", "quantize")
AGAIN = "Run the command that made it again: it replaces files that have changed."
_SOUND = "Convert it again from a sound checkpoint."
_TEXT = "The quick brown fox jumps over the lazy dog."


def verify(target: Path, mmproj: Path | None = None, threads: int | None = None) -> CheckReport:
    """Return all checks of a run folder or a file. Raises a child of InputError where the target is neither."""
    if target.is_dir():
        run = RunFolder(target)
        if mmproj:
            raise RunFolderError("--mmproj is for a GGUF file: a run folder has its own.", "Leave it out.")
        return CheckReport(tuple(_folder(run, threads)))
    for path in (target, mmproj):
        if path and not path.is_file():
            raise GGUFFileError(f"{path} is neither a file nor a folder.", "Give a run folder or a GGUF file.")
    return CheckReport(tuple(_files(target, mmproj, threads)))


def check_runs(model: Path, mmproj: Path | None, threads: int | None = None) -> None:
    """Load a text model's file and its mmproj once in the pinned llama.cpp, and compute a few tokens and a picture.

    Raises VerificationError saying what failed.
    """
    for check in _runs(reader.read(model), mmproj, threads):
        if not check.ok:
            raise VerificationError(
                f"The file that was written cannot be used. {check.name}: {check.found}", check.hint
            )


def _folder(run: RunFolder, threads: int | None) -> Iterator[Check]:
    try:
        stages = run.read()["stages"]
    except LuqError as error:
        yield Check.failed("run.json", error.message, error.hint)
        return
    yield Check.passed("run.json", f"stages done: {', '.join(stages) or 'none'}")
    recorded = set[str]()  # the file that was made last is in two records
    for stage in stages:
        for name, fact in run.outputs(stage).items():
            if name not in recorded:
                yield _output(run.file(name), name, fact, lasting=stage in LASTING or model_files.is_stage(stage))
            recorded.add(name)
    models, vision = [run.file(name) for name in model_files.names(run)], _only(run, "mmproj")
    imatrices = [run.file(name) for name in (header_only.IMATRIX_NAME, COPY)]
    written = [run.file(name) for stage in stages for name in run.outputs(stage) if name.endswith(".gguf")]
    for path in written:
        if path not in (*models, vision, *imatrices) and path.is_file():
            yield from _structure(path)
    if not models:
        yield Check.failed("model file", "none has been written", f"Run luq-gguf quantize {run.path}.")
    for model in filter(Path.is_file, models):
        yield from _files(model, vision if vision and vision.is_file() else None, threads, run)
    for path in filter(Path.is_file, imatrices):
        yield from _imatrix(path)


def _only(run: RunFolder, stage: str) -> Path | None:
    return next((run.file(name) for name in run.outputs(stage)), None)


def _output(path: Path, name: str, fact: dict[str, Any], *, lasting: bool) -> Check:
    """A file against its record in run.json."""
    if not path.is_file():
        summary = "is missing" if lasting else "was deleted; it is made when needed"
        return Check(name, ok=not lasting, found=summary, hint=AGAIN * lasting)
    size = path.stat().st_size
    if size != fact["n_bytes"]:
        return Check.failed(name, f"has {size} bytes, but was written with {fact['n_bytes']}", AGAIN)
    if not fact["sha256"]:
        return Check.passed(name, f"{format_size(size)}; it is an intermediate file, so it was not hashed")
    if sha256_of(path) != fact["sha256"]:
        return Check.failed(name, "its sha256 differs from the recorded one: it was changed or damaged", AGAIN)
    return Check.passed(name, f"{format_size(size)}, sha256 {fact['sha256'][:12]}... as recorded")


def _files(path: Path, mmproj: Path | None, threads: int | None, run: RunFolder | None = None) -> Iterator[Check]:
    info = yield from _whole(path)
    if info is None:
        return
    kind = reader.kind_of(info)
    if kind == "imatrix":
        yield from _imatrix(path)
        return
    yield _weights(info)
    if kind == "mmproj":
        yield _projector(info)
        return
    if run:
        yield _types(info, run)
    if mmproj:
        vision = yield from _structure(mmproj)
        if vision is None:
            return
        yield _weights(vision)
        fits = _belongs(info, vision)
        yield fits
        if not fits.ok:  # libmtmd has assertions there; the text half can still be tried
            mmproj = None
    yield from _runs(info, mmproj, threads)


def _whole(path: Path) -> Generator[Check, None, GGUFInfo | None]:
    """Yields the checks of all shards, and returns the header of the whole file, None where there is none."""
    try:
        for file in shards.files_of(path):
            if (yield from _structure(file)) is None:
                return None
        return shards.read(path)
    except GGUFFileError as error:
        yield Check.failed(f"{path.name}: shards", error.message, error.hint)
        return None


def _structure(path: Path) -> Generator[Check, None, GGUFInfo | None]:
    """Yields the check and returns the header, None where there is none."""
    try:
        info = reader.read(path)
    except GGUFFileError as error:
        yield Check.failed(f"{path.name}: structure", error.message, error.hint)
        return None
    kind = reader.kind_of(info)
    summary = f"{kind}, {info.arch or 'no architecture'}, {len(info.tensors)} tensors"
    yield Check.passed(f"{path.name}: structure", summary)
    return info


def _imatrix(path: Path) -> Iterator[Check]:
    name = f"{path.name}: importance"
    try:
        matrix = imatrix.read(path)
    except GGUFFileError as error:
        yield Check.failed(name, error.message, error.hint)
        return
    yield Check.passed(name, f"{len(matrix.in_sum2)} matrices, {matrix.n_samples} chunks, all finite")


def _weights(info: GGUFInfo) -> Check:
    name = f"{info.path.name}: weights"
    bad = next(filter(None, map(reader.first_not_finite, shards.files_of(info.path))), None)
    if bad:
        return Check.failed(name, f"{bad} contains values that are not finite", _SOUND)
    return Check.passed(name, f"{info.bpw:.2f} bits each; those in 16 and 32 bits are finite")


def _types(info: GGUFInfo, run: RunFolder) -> Check:
    name = f"{info.path.name}: types"
    try:
        is_last = info.path.name in run.outputs(model_files.LAST)  # of which plan.json should be the plan
        path = run.file("plan.json") if is_last else model_files.plan_file(run, info.path.name)
        planned = serialization.read_plan(path)
    except LuqError as error:
        return Check.failed(name, error.message, error.hint)
    wrong = tensor_types.differences(planned.tensor_types, info.types)
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Check.failed(name, f"{wrong[0]}{more}", "Run luq-gguf quantize: it writes what plan.json says.")
    return Check.passed(name, f"all {len(info.tensors)} as in plan.json")


def _projector(info: GGUFInfo) -> Check:
    width, kind = info.metadata.get("clip.vision.projection_dim"), reader.projector_of(info)
    ok = isinstance(width, int) and bool(kind)
    summary = (
        f"{kind}, for text models of width {width}"
        if ok
        else "does not name a projector and the width of its text model"
    )
    return Check(f"{info.path.name}: projector", ok=ok, found=summary, hint="" if ok else "Convert it again.")


def _belongs(model: GGUFInfo, vision: GGUFInfo) -> Check:
    """Whether an mmproj was made for such a text model."""
    name, hint = f"{vision.path.name}: belongs", "Use the mmproj that was made from the same checkpoint."
    if reader.kind_of(vision) != "mmproj":
        return Check.failed(name, f"it is not an mmproj but {vision.arch or 'something else'}", hint)
    projector_check = _projector(vision)
    width, projector = model.metadata.get(f"{model.arch}.embedding_length"), reader.projector_of(vision)
    if not projector_check.ok:
        return Check.failed(name, projector_check.found, hint)
    made_for = vision.metadata["clip.vision.projection_dim"]
    if made_for != width:
        return Check.failed(name, f"it was made for a text model of width {made_for}, but this one has {width}", hint)
    checkpoints = [info.metadata.get(CHECKPOINT) for info in (model, vision)]
    if None not in checkpoints and checkpoints[0] != checkpoints[1]:
        return Check.failed(name, f"it was made from another checkpoint than {model.path.name}", hint)
    if None in checkpoints and not pairs.belong(model.arch, projector):
        return Check.failed(name, f"the projector {projector} does not belong to {model.arch}", hint)
    return Check.passed(name, f"{projector}, width {width}, as {model.path.name}")


def _runs(info: GGUFInfo, mmproj: Path | None, threads: int | None) -> Iterator[Check]:
    """Load the file in the pinned llama.cpp, in a child process with bounded time and memory, and read a few tokens."""
    n_bytes = info.n_bytes + (mmproj.stat().st_size if mmproj else 0)
    limits = Limits(seconds=120 + n_bytes / 20e6, memory_bytes=3 * n_bytes + 8 * 1024**3)
    names = [f"{info.path.name}: loads", f"{info.path.name}: logits", f"{info.path.name}: image"]
    done = 0
    try:
        with LlamaClient(info.path, mmproj, threads=threads, n_ctx=2048, limits=limits) as client:
            yield Check.passed(names[0], f"in the pinned llama.cpp; {client.n_vocab} tokens in its vocabulary")
            done = 1
            tokens = client.tokenize(_TEXT)[0] or [0]
            yield _finite(names[1], client.score_tokens(tokens[:16], 0))
            done = 2
            if mmproj:
                yield _finite(names[2], _with_picture(client))
                done = 3
    except LuqError as error:
        # A crash speaks against the build, not against the file: its hint says so.
        hint = error.hint or "Convert it again, and check the installation with luq-gguf doctor."
        yield Check.failed(names[done], error.message, hint)


def _with_picture(client: LlamaClient) -> np.ndarray:
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "grey.png"
        Image.linear_gradient("L").resize((112, 112)).convert("RGB").save(picture)
        return client.score_text(f"<__media__>{_TEXT}", picture).log_probabilities


def _finite(name: str, rows: np.ndarray) -> Check:
    if rows.size and np.isfinite(rows).all():
        return Check.passed(name, f"finite after {len(rows)} tokens")
    return Check.failed(name, "not finite: its weights are damaged", _SOUND)
