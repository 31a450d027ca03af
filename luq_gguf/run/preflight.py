"""The preflight: what must be known and right of a checkpoint before anything heavy is done with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from luq_gguf.core import atomic, paths
from luq_gguf.core.clip_vision import ClipVision
from luq_gguf.core.errors import CheckpointError, RunFolderError
from luq_gguf.core.given_imatrix import COPY, GivenImatrix, why_without
from luq_gguf.core.model_file import ModelFile
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.tensor_sources import MatrixSource, TensorSource, matrix_source
from luq_gguf.core.types import ModelTensors, Profile, RunOptions
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.tensor_names import TensorNames
from luq_gguf.llamacpp import converter, labels, quantize, tools
from luq_gguf.llamacpp.gguf import header_only, reader
from luq_gguf.llamacpp.runtime import mmproj_check
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.run import (
    file_system,
    given_imatrix,
    load_check,
    preflight_cache,
    prompt_check,
    provenance,
    serialization,
    structure,
    vocabulary,
)
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.given_imatrix import LoadedImatrix

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a checkpoint before anything heavy: names, both types of every tensor, all sizes.

    `matrices` are those whose importance will be known, with their sources in transformers; `clip` is set where the
    vision half is LLaVA's, which luq-gguf writes itself, and `provenance` are entries about the base model that the
    converter does not know. `given` is what importance is taken from, where that is not the calibration's. `file` is
    set where a GGUF file is in the checkpoint's place, which is no more than its name and contents then.
    """

    checkpoint: Checkpoint
    llama: LlamaCpp
    source: reader.GGUFInfo
    matrices: Mapping[str, MatrixSource]
    tensors: ModelTensors
    clip: ClipVision | None = None
    provenance: Mapping[str, str | int] = field(default_factory=dict)
    given: LoadedImatrix | None = None
    file: ModelFile | None = None

    @property
    def has_imatrix(self) -> frozenset[str]:
        """Names of the matrices whose importance will be known."""
        return frozenset(self.given.matrix.in_sum2 if self.given else self.matrices)

    @property
    def given_facts(self) -> GivenImatrix | None:
        """What plan.json says about importance that is not the calibration's."""
        return self.given.facts if self.given else None

    @property
    def imatrix_name(self) -> str:
        """The file in the run folder that llama-quantize takes importance from."""
        return COPY if self.given else header_only.IMATRIX_NAME


def safe_name(name: str) -> str:
    """Return a model's name as it is used in file names."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def claim(run: RunFolder, model: str, *, overwrite: bool, subfolder: str | None = None) -> None:
    """Claim a run folder for one model, which lies in `subfolder` of its folder or repository. Raises RunFolderError
    where the run folder belongs to another."""
    record, model = run.read(), paths.absolute_model(model)
    before, wanted = (_same_model(record.get("model"), model), record.get("subfolder")), (model, subfolder)
    if before[0] is not None and before != wanted and not overwrite:
        raise RunFolderError(
            f"{run.path} contains a run of {'/'.join(filter(None, before))}.",
            "Give --out another folder, or add --overwrite to use this one.",
        )
    if before != wanted:
        run.update(revision=None, base_model=None, licence=None)
    if subfolder or before[1]:
        run.update(subfolder=subfolder)
    run.update(model=model, llama_cpp=tools.pin()["version"])


def _same_model(recorded: str | None, model: str) -> str | None:
    """What a run folder is for, as `model` where both are one folder: earlier versions kept paths as given, and a
    folder can have several names."""
    if recorded is None:
        return None
    absolute = paths.absolute_model(recorded)
    both = Path(absolute), Path(model)
    same = absolute == model or (all(folder.is_dir() for folder in both) and both[0].samefile(both[1]))
    return model if same else recorded


def load_model_spec(
    run: RunFolder,
    model: str,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    dataset: str | None = None,
    given: LoadedImatrix | None = None,
) -> ModelSpec:
    """Check model, tools and types, and learn all tensors. Raises children of InputError that say what is wrong.

    The converter walks through the checkpoint without reading weights (it refuses unknown architectures and tokenizers
    there), a header-only GGUF of the file it would write goes through llama-quantize's dry run, and transformers'
    modules, made without weights, tell which matrices can be calibrated.
    """
    llama = tools.find()
    low, high = reader.check_type(low, "--low"), quantize.check_ftype(llama, high)
    record = run.read()
    absolute = paths.absolute_model(model)
    resuming = _same_model(record.get("model"), absolute) == absolute  # a run stays with the commit it began with
    with _told_of_the_converter(llama):
        checkpoint = checkpoints.open_checkpoint(
            model,
            trust_remote_code=options.trust_remote_code,
            revision=record.get("revision") if resuming else None,
            subfolder=record.get("subfolder") if resuming else None,
        )
    for note in checkpoint.notes:
        reporter.info(note)
    if resuming:
        run.update(revision=checkpoint.revision)
    file_system.check_size(run.work, 2 * sum(math.prod(shape) for shape in checkpoint.shapes.values()))
    run.versions |= {"llama_cpp": tools.version_of(llama)} | {name: version(name) for name in ("torch", "transformers")}
    clip = llava.clip_vision(checkpoint) if llava.is_clip_llava(checkpoint) else None
    if clip:
        llava.vision_names(checkpoint, clip)
    path, calibratable = run.work / "skeleton.gguf", run.work / "listenable.json"

    def make() -> None:
        if preflight_cache.restore(checkpoint, llama, path, calibratable):
            return
        reporter.info(f"reading {checkpoint.name}")
        header_bytes, model = _learn(llama, checkpoint, path, calibratable, own_vision=clip is not None)
        load_check.check(path, checkpoint.name)
        with _behind_the_converter():
            prompt_check.check(checkpoint, model, reader.read(path), reporter)
        preflight_cache.save(checkpoint, llama, path, header_bytes, calibratable)

    key = preflight_cache.key_of(checkpoint, llama)
    _tell_other_tools(run, reporter)
    if not path.exists():  # no recorded output: its hole has the size of the model, and hashing reads it all
        run.forget("door")
    run.run_stage("door", key, [".work/listenable.json"], make)
    source = reader.read(path)
    record = serialization.read_json(calibratable, "profile")
    matrices = {name: matrix_source(value) for name, value in record["tensors"].items()}
    origin = provenance.entries(run.read(), source.metadata)
    if given:
        given = given_imatrix.fitted(given, source, checkpoint.name, reporter)
    calibrated = (dataset,) if dataset else ()
    tensors = quantize.model_tensors(
        llama,
        source,
        low,
        high,
        n_layers=record["n_layers"],
        has_imatrix=given.matrix.in_sum2 if given else matrices,
        datasets=given.facts.datasets if given else calibrated,
        entries=labels.of_same_size(origin),
        imatrix_name=COPY if given else header_only.IMATRIX_NAME,
    )
    check_tensors(tensors, given.facts if given else None, reporter, allow_fallback=options.allow_fallback)
    return ModelSpec(checkpoint, llama, source, matrices, tensors, clip, origin, given)


def _tell_other_tools(run: RunFolder, reporter: Reporter) -> None:
    """Say that what another llama.cpp made in a run folder is made anew: its version is in the keys of those stages."""
    before = run.read()["stages"].get("door", {}).get("versions", {}).get("llama_cpp")
    now = run.versions["llama_cpp"]
    if before not in (None, now):
        reporter.info(f"{run.path} was made with llama.cpp {before}: what its tools made is made anew with {now}")


@contextmanager
def _told_of_the_converter(llama: LlamaCpp) -> Iterator[None]:
    """Say of a model that transformers does not know whether llama.cpp's converter does."""
    try:
        yield
    except checkpoints.UnknownModelError as error:
        if converter.knows(llama, error.architecture):
            error.add_note(
                "llama.cpp's converter knows it: convert_hf_to_gguf.py and llama-quantize make files of it without LUQ."
            )
        else:
            error.add_note("llama.cpp's converter does not know it either.")
        raise


@contextmanager
def _behind_the_converter() -> Iterator[None]:
    """Say of what is refused here that the converter has accepted it."""
    try:
        yield
    except CheckpointError as error:
        error.add_note("llama.cpp's converter alone would convert this checkpoint.")
        raise


def _learn(
    llama: LlamaCpp, checkpoint: Checkpoint, path: Path, calibratable: Path, *, own_vision: bool
) -> tuple[int, nn.Module]:
    """Write the header-only GGUF of the text model, and what can be calibrated: layers computed, names of matrices.
    Returns the bytes of the header-only GGUF's header, and transformers' modules without weights."""
    text_header, sources, vision_header = (
        path.with_name(f"{part}{atomic.SUFFIX}") for part in ("text", "sources", "vision")
    )
    with ThreadPoolExecutor() as pool:  # each takes a second or more on one core
        read = llama, checkpoint.folder
        shown = checkpoint.name, checkpoint.view
        options = checkpoint.converter_options
        tensors = pool.submit(converter.text_tensors, *read, text_header, *shown, sources, options=options)
        meta_model = pool.submit(_complete_model, checkpoint)
        vocabulary_future = pool.submit(vocabulary.tokenizer_tokens, checkpoint)
        vision = None
        if checkpoint.has_vision and not own_vision:
            vision = pool.submit(converter.vision_tensors, *read, vision_header, *shown)
        if isinstance(refusal := tensors.exception(), converter.UnknownArchitectureError):
            raise refusal
        model = meta_model.result()  # names what is missing better than the converter does
        if vision:
            structure.check_vision(vision.result(), checkpoint, model)
            mmproj_check.check(vision_header, vision.result(), checkpoint.name)
    with atomic.whole(path) as part:
        info = header_only.write(part, text_header, tensors.result())
        structure.check_blocks(info, checkpoint)
        vocabulary.check(info, checkpoint, vocabulary_future.result())
        with _behind_the_converter():
            n_layers, matrices = _calibratable(model, info, converter.read_sources(sources))
        structure.check_shapes(matrices, info)
        listed = {name: source.to_json() for name, source in sorted(matrices.items())}
        serialization.write_json(calibratable, {"n_layers": n_layers, "tensors": listed})
    for file in (text_header, sources, vision_header):
        file.unlink(missing_ok=True)
    return info.header_bytes, model


def _complete_model(checkpoint: Checkpoint) -> nn.Module:
    from luq_gguf.hf import model as hf_model

    model = hf_model.meta_model(checkpoint)
    hf_model.check_complete(model, checkpoint)
    return model


def _calibratable(
    model: nn.Module, info: reader.GGUFInfo, walked: Mapping[str, TensorSource]
) -> tuple[int, dict[str, MatrixSource]]:
    """How many decoder layers transformers computes, and the matrices whose inputs it will show."""
    from luq_gguf.hf.decoder import decoder_layers
    from luq_gguf.hf.matrix_sources import matrix_sources

    names = TensorNames(info.arch, info.n_layers, info.types)
    shapes = {tensor.name: tensor.shape[::-1] for tensor in info.tensors}
    return len(decoder_layers(model)), matrix_sources(model, names, shapes, walked)


def check_tensors(
    tensors: ModelTensors, given: GivenImatrix | None, reporter: Reporter, *, allow_fallback: bool
) -> None:
    """Raise CheckpointError for rows that the low type's blocks do not divide, unless other types are allowed for them,
    and name what never becomes low."""
    _check_fallbacks(tensors, reporter, allow=allow_fallback)
    _tell_without_importance(tensors, given, reporter)


def _check_fallbacks(tensors: ModelTensors, reporter: Reporter, *, allow: bool) -> None:
    fallen = quantize.fallbacks(tensors)
    if not fallen:
        return
    total = sum(len(names) for names in fallen.values())
    listed = "; ".join(f"{_kinds(names)} would become {kind}" for kind, names in fallen.items())
    sentence = f"{total} matrices have rows that {tensors.low}'s blocks of 256 do not divide: {listed}."
    if not allow:
        raise CheckpointError(
            sentence,
            "Choose a --low type with 32-weight blocks such as Q4_0 or IQ4_NL, or accept this with --allow-fallback.",
        )
    reporter.info(sentence)


def _tell_without_importance(tensors: ModelTensors, given: GivenImatrix | None, reporter: Reporter) -> None:
    """Name what the layers that become low keep: before the long pass, for it may be most of them."""
    layers = {choice.name for choice in tensors.choices if choice.layer is not None}
    names = [name for name in tensors.without_importance if name in layers]
    if names:
        reporter.info(
            f"{len(names)} matrices of the layers have no importance, as {why_without(given)}, and "
            f"never become low: {_kinds(names)}"
        )


def _kinds(names: list[str]) -> str:
    """Tensor names without their layers: "attn_k, ffn_up"."""
    return ", ".join(sorted({name.split(".", 2)[2].removesuffix(".weight") for name in names}))


def with_dataset(spec: ModelSpec, profile: Profile) -> ModelSpec:
    """Return the spec with the header's size for the calibration sources that were really read. The header of a file
    with given importance does not name them."""
    if spec.given:
        return spec
    entries = labels.of_same_size(spec.provenance)
    header = header_only.quantized_header_bytes(spec.source, profile.calibration.sources, entries)
    return replace(spec, tensors=replace(spec.tensors, header_bytes=header))


def model_of(run: RunFolder) -> str:
    """Return the checkpoint that a run folder is for. Raises RunFolderError where run.json does not name one."""
    record = run.read()
    model = record.get("model")
    if not isinstance(model, str):
        raise RunFolderError(f"{run.path / 'run.json'} does not name a model.", "Add --model with the checkpoint.")
    is_local = record.get("revision") is None
    if is_local and not Path(model).expanduser().is_absolute() and not Path(model).exists():
        raise RunFolderError(
            f"{run.path} was made from {model}, a path relative to another folder than {Path.cwd()}.",
            "Go to the folder where it was made, or add --model with the checkpoint.",
        )
    return model
