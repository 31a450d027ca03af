"""The stages that write GGUF files: 16-bit halves, the LUQ file, what it is compared with, and the two variants that
layers are spliced from."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from luq_gguf.core import atomic, checkpoint_view
from luq_gguf.core.errors import BudgetError, RunFolderError
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import STOCK, Budget, Plan, QuantizedModel, RunOptions
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp import converter, labels, quantize, tools
from luq_gguf.llamacpp.gguf import metadata, mmproj, reader
from luq_gguf.method import tensor_types, two_type_plan
from luq_gguf.method.orders import WHOLE_OPTIONS
from luq_gguf.quantization import recipe, slices
from luq_gguf.quantization.checks import check_same_columns, check_same_tensors
from luq_gguf.run import model_files, provenance, serialization, structure
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import ModelSpec, safe_name
from luq_gguf.run.session import Session, is_edited, open_planned


def file_name(run: RunFolder, checkpoint: Checkpoint, plan: Plan) -> str:
    """Return the name of a planned file: NAME-LUQ12-IQ1M-Q4KM-IQ3_XS_LUQ.gguf (`labels.file_name`). A best plan has its
    bits in the name where another size of it already has the name without."""
    model = safe_name(checkpoint.name)
    name = labels.file_name(model, plan)
    if plan.ranking != "best":
        return name
    folder, others = labels.folder_of(name), model_files.listed(run)
    same = [file for file in others if labels.folder_of(file.name) == folder]
    is_taken = any(file.plan.tensor_types != plan.tensor_types for file in same)
    return labels.file_name(model, plan, with_bits=is_taken)


def mmproj_name(spec: ModelSpec) -> str | None:
    """Return the name of the vision half's file; None for a model that reads text only."""
    if spec.file:
        return spec.file.mmproj.name if spec.file.mmproj else None
    return f"mmproj-{safe_name(spec.checkpoint.name)}-F16.gguf" if spec.checkpoint.has_vision else None


def f16_name(checkpoint: Checkpoint) -> str:
    return f"{safe_name(checkpoint.name)}-F16.gguf"


def make_mmproj(session: Session) -> Path | None:
    """Write the vision half to a 16-bit mmproj file, or copy the one beside a GGUF file; None for a model that reads
    text only."""
    run, spec = session.run, session.spec
    name = mmproj_name(spec)
    if name is None:
        return None
    if spec.file and spec.file.mmproj:
        return _copy_mmproj(run, spec.file.mmproj)

    def on_progress(share: float) -> None:
        session.reporter.progress("vision half to F16", share, 1.0)

    def make() -> None:
        checkpoint, out = spec.checkpoint, run.file(name)
        if spec.clip:
            names = llava.vision_names(checkpoint, spec.clip)
            hf_names = {ours: theirs for theirs, ours in names.items()}
            shapes = {ours: checkpoint.shapes[theirs] for theirs, ours in names.items()}
            read = lambda tensor: llava.read_tensor(checkpoint, hf_names[tensor])  # noqa: E731
            mmproj.write(out, checkpoint.name, spec.clip, shapes, read, on_progress)
        else:
            converter.to_16_bit(
                spec.llama,
                checkpoint.folder,
                out,
                checkpoint.name,
                mmproj=True,
                view=checkpoint.view,
                on_progress=on_progress,
            )
        written = reader.read(out).metadata
        entries = {metadata.CHECKPOINT: _checkpoint_key(spec)} | provenance.entries(run.read(), written)
        named = "clip.use_gelu" in written or "clip.use_silu" in written
        metadata.add(out, entries | ({} if named else activation))  # Gemma 4's class in the converter names none

    activation = {} if spec.clip else structure.activation(spec.checkpoint)
    key = hash_of(conversion_key(spec), sorted(spec.provenance.items()), *activation)
    run.run_stage("mmproj", key, [name], make)
    return run.file(name)


def _copy_mmproj(run: RunFolder, theirs: Path) -> Path:
    path = run.file(theirs.name)

    def make() -> None:
        if not (path.exists() and path.samefile(theirs)):
            with atomic.whole(path) as part:
                shutil.copyfile(theirs, part)

    run.run_stage("mmproj", hash_of("gguf", content_of(theirs)), [path.name], make)
    return path


def make_f16(session: Session) -> Path:
    """Write the text half to a 16-bit GGUF file. A GGUF file in the checkpoint's place is taken as it is."""
    run, spec = session.run, session.spec
    if spec.file:
        return spec.file.path
    path = run.file(f16_name(spec.checkpoint))

    def make() -> None:
        info = converter.to_16_bit(
            spec.llama,
            spec.checkpoint.folder,
            path,
            spec.checkpoint.name,
            spec.checkpoint.converter_options,
            view=spec.checkpoint.view,
            on_progress=lambda share: session.reporter.progress("text model to F16", share, 1.0),
        )
        check_same_tensors(info, spec.source)
        check_same_columns(run, info)

    run.run_stage("f16", conversion_key(spec), [path.name], make, hashed=False)
    return path


def link_f16(session: Session, owner: RunFolder) -> None:
    """Link another run folder's 16-bit GGUF file of the same checkpoint, for a run that differs only in calibration."""
    run, name = session.run, f16_name(session.spec.checkpoint)

    def make() -> None:
        run.file(name).unlink(missing_ok=True)
        try:
            run.file(name).symlink_to(os.path.relpath(owner.file(name), run.path))
        except OSError:  # a file system without links
            shutil.copyfile(owner.file(name), run.file(name))

    run.run_stage("f16", conversion_key(session.spec), [name], make, hashed=False)


def conversion_key(spec: ModelSpec) -> str:
    """Return the key of both halves in 16 bits: the checkpoint's contents and names, the form in which the converter is
    shown it, what it is told, and the converter."""
    checkpoint = spec.checkpoint
    if spec.file:
        return hash_of(checkpoint.fingerprint, tools.identity(spec.llama))
    shown = *checkpoint_view.in_key(checkpoint.view), *checkpoint.converter_options
    return hash_of(checkpoint.fingerprint, checkpoint.described, tools.identity(spec.llama), *shown)


def quantized_key(run: RunFolder, spec: ModelSpec, plan: Plan) -> str:
    """Return the key of a file that is quantized as planned with the run folder's importance matrix, the calibration's
    or a given one."""
    imatrix = content_of(run.file(spec.imatrix_name))
    return hash_of(conversion_key(spec), dict(plan.tensor_types), plan.high, imatrix)


def _checkpoint_key(spec: ModelSpec) -> str:
    """What the text file and the mmproj of one checkpoint have in common, and those of others do not. A file that is
    quantized again keeps it."""
    own = hash_of(spec.checkpoint.fingerprint)
    known = spec.file.checkpoint if spec.file else None
    return known if known and len(known) == len(own) else own  # of another length it would not be what was predicted


def _entries(spec: ModelSpec, plan: Plan) -> dict[str, str | int]:
    return labels.of_plan(plan, _checkpoint_key(spec), spec.provenance)


def write_quantized(session: Session, plan: Plan, stage: str, name: str, *, in_slices: bool = False) -> QuantizedModel:
    """Quantize by the plan under a stage's and a file's name, from the 16-bit GGUF, which is made if it is missing; or
    in slices, without one."""
    run, spec = session.run, session.spec
    entries, key = _entries(spec, plan), _file_key(session, plan)

    def make() -> None:
        if in_slices:
            slices.quantize_slices(session, plan, run.file(name), key, entries)
        else:
            quantize_plan(session, plan, run.file(name), _label(stage, name))

    run.share_stage(stage, key, [name])
    run.run_stage(stage, key, [name], make)
    written = reader.read(run.file(name))
    digest = run.read()["stages"][stage]["outputs"][name]["sha256"]
    return QuantizedModel(run.file(name), written.n_bytes, digest, written.types)


def _file_key(session: Session, plan: Plan) -> str:
    """The key of a file whose header says what it is."""
    return hash_of(quantized_key(session.run, session.spec, plan), sorted(_entries(session.spec, plan).items()))


def _label(stage: str, name: str) -> str:
    return f"quantize {labels.tag_of(name)}" if model_files.is_stage(stage) else stage.replace("bank-", "variant ")


def quantize_plan(session: Session, plan: Plan, path: Path, label: str = "quantize") -> None:
    """Quantize the 16-bit GGUF, made if it is missing, as planned."""
    run, spec = session.run, session.spec
    f16 = make_f16(session)
    types = run.file(f"{path.stem}-types.txt{atomic.SUFFIX}")
    types.write_text(tensor_types.to_text(quantize.overrides(spec.source, plan)))
    quantize.quantize(
        spec.llama,
        f16,
        path,
        plan,
        types,
        entries=_entries(spec, plan),
        imatrix_name=spec.imatrix_name,
        requantize=spec.file is not None and spec.file.is_quantized,
        threads=session.options.threads,
        on_progress=lambda done, total: session.reporter.progress(f"{label}: tensors", done, total),
    )
    types.unlink()


def check_slices(options: RunOptions, *, measures: bool = False) -> None:
    """Raise BudgetError where files are written in slices, but something needs the whole 16-bit GGUF."""
    if options.low_disk and (options.keep_f16 or measures):
        raise BudgetError(
            "--low-disk does not write a whole 16-bit GGUF file, which --keep-f16, --max-kld, --min-accuracy, "
            f"{WHOLE_OPTIONS} and --plan best need.",
            "Leave one of them out.",
        )


def make_file(session: Session, plan: Plan, *, needs_f16: bool = False) -> QuantizedModel:
    """Run the quantize stage: write the mmproj, the 16-bit GGUF file (deleted afterwards unless kept; none in slices)
    and the verified LUQ file. A caller that still needs the 16-bit file (`needs_f16`) calls `drop_f16` itself."""
    run, spec, options = session.run, session.spec, session.options
    make_mmproj(session)
    name, stage = file_name(run, spec.checkpoint, plan), model_files.LAST
    written = write_quantized(session, plan, stage, name, in_slices=options.low_disk and not spec.file)
    slices.clear(run)
    recipe.write(session, plan, name, _source_name(spec), _entries(spec, plan), run.path, stage)
    model_files.keep(run, name)
    if spec.file:
        return written
    if options.keep_f16:
        make_f16(session)
        run.hash_outputs("f16")
    elif not needs_f16:
        drop_f16(session)
    return written


def _source_name(spec: ModelSpec) -> str:
    """The name of the file that is quantized."""
    return spec.file.path.name if spec.file else f16_name(spec.checkpoint)


def make_stock(session: Session, plan: Plan) -> QuantizedModel:
    """Make llama-quantize's own file of a file type (`variants.stock_plan`) beside the LUQ files of a run folder."""
    run, spec = session.run, session.spec
    make_mmproj(session)
    name = file_name(run, spec.checkpoint, plan)
    stage, folder = model_files.stage_of(name), model_files.folder_of(run, name)
    in_slices = session.options.low_disk and not spec.file
    written = write_quantized(session, plan, stage, name, in_slices=in_slices)
    slices.clear(run)
    folder.mkdir(parents=True, exist_ok=True)
    serialization.write_json(folder / "plan.json", plan.to_json())
    atomic.write_text(folder / recipe.TYPES, tensor_types.to_text(quantize.overrides(spec.source, plan)))
    recipe.write(session, plan, name, _source_name(spec), _entries(spec, plan), folder, stage)
    return written


def forget_others(session: Session) -> None:
    """Drop the records of files that this checkpoint, with this importance and this llama.cpp, would not become: they
    do not belong to what is made from now on."""
    model_files.adopt(session.run)
    for file in model_files.listed(session.run):
        stage = model_files.stage_of(file.name)
        record = session.run.read()["stages"].get(stage)
        if record and record["key"] != _file_key(session, file.plan):
            model_files.forget(session.run, file.name)
            session.reporter.info(
                f"{file.name} was made from other weights or importance, or by another llama.cpp: it stays, but is no "
                "longer listed with the files of this folder"
            )


def drop_f16(session: Session) -> None:
    """Delete the 16-bit GGUF file that this run has made."""
    if session.spec.file:
        return
    session.run.file(f16_name(session.spec.checkpoint)).unlink(missing_ok=True)
    session.run.forget("f16")


def make_layer_variants(session: Session) -> tuple[Path, Path]:
    """Make the two variants that layers are spliced from: the model with all layers low, and with none."""
    run, spec = session.run, session.spec
    (run.work / "bank").mkdir(exist_ok=True)
    tensors = replace(spec.tensors, rules=replace(spec.tensors.rules, keep=(), low_only=None))  # the same file for all
    names = f".work/bank/{spec.tensors.low}.gguf", f".work/bank/{spec.tensors.high}.gguf"
    for stage, name, count in (("bank-low", names[0], spec.tensors.n_layers), ("bank-high", names[1], 0)):
        plan = two_type_plan.make_plan(tensors, range(tensors.n_layers), Budget(low_layers=count), "bank")
        write_quantized(session, plan, stage, name)
    return run.file(names[0]), run.file(names[1])


def make_baseline(session: Session, plan: Plan) -> QuantizedModel:
    """Make the file to compare with: every tensor's stock type under the plan's high ftype, with the same imatrix."""
    spec = session.spec
    stock = two_type_plan.make_plan(spec.tensors, plan.order, Budget(low_layers=0), STOCK)
    name = f"{safe_name(spec.checkpoint.name)}-{plan.high}.gguf"
    return write_quantized(session, stock, "baseline", name)


def baseline(run_dir: Path, options: RunOptions = RunOptions(), reporter: Reporter = Reporter()) -> QuantizedModel:
    """Make the file of the plan's high ftype alone, from a run folder's model and imatrix."""
    with RunFolder(run_dir) as run:
        return make_baseline(*open_planned(run, None, options, reporter))


def compared_files(
    run_dir: Path, options: RunOptions = RunOptions(), reporter: Reporter = Reporter(), *, model: str | None = None
) -> tuple[list[Path], Path | None]:
    """Return a run folder's 16-bit file, the one of the plan's high ftype and the LUQ file, made where they are
    missing, and its other model files; and the mmproj. Raises RunFolderError where one of these is missing."""
    with RunFolder(run_dir) as run:
        session, planned = open_planned(run, model, replace(options, keep_f16=True), reporter)
        if is_edited(run, planned):
            raise RunFolderError("plan.json was edited after its file was made.", f"Run luq-gguf quantize {run.path}.")
        check_disk(session, planned.predicted_file_bytes)
        luq_file = make_file(session, planned)
        stock = make_baseline(session, planned)
        others = [name for name in model_files.names(run) if run.file(name) not in (stock.path, luq_file.path)]
        for name in others:
            if not run.file(name).is_file():
                raise RunFolderError(f"{name} is missing.", "Run the luq-gguf convert that made it again.")
        files = [make_f16(session), stock.path, *(run.file(name) for name in others), luq_file.path]
        half = mmproj_name(session.spec)
        return files, run.file(half) if half else None
