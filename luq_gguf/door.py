"""The door: what must be known and right of a checkpoint before anything heavy is done with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from luq_gguf import planner
from luq_gguf.errors import CheckpointError, DiskSpaceError
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.tensor_names import TensorNames, text_shapes
from luq_gguf.llamacpp import converter, gguf_files, quantize, skeleton, tools
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.run_folder import RunFolder, hash_of
from luq_gguf.values import ClipVision, ModelTensors, Profile


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: progress of a named stage (done, total), and sentences worth knowing."""

    progress: Callable[[str, float, float], None] = lambda stage, done, total: None
    say: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Door:
    """What is known of a checkpoint before anything heavy: names, both types of every tensor, all sizes.

    `clip` is set where the vision half is LLaVA's, which luq-gguf writes itself.
    """

    checkpoint: Checkpoint
    llama: LlamaCpp
    source: gguf_files.GGUFInfo
    names: TensorNames
    tensors: ModelTensors
    clip: ClipVision | None = None


def safe_name(name: str) -> str:
    """A model's name as it stands in file names."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def open_door(
    run: RunFolder,
    model: str,
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    trust_remote_code: bool = False,
    force: bool = False,
    dataset: str | None = None,
    listener: Listener = Listener(),
) -> Door:
    """Check model, tools and types, and learn all tensors. Raises InputError's children with what is wrong.

    The converter writes the model's metadata (it refuses unknown architectures and tokenizers there), and a skeleton
    with the tensors' shapes goes through llama-quantize's dry run.
    """
    llama = tools.find()
    low, high = gguf_files.check_type(low, "--low"), quantize.check_ftype(llama, high)
    known = run.read()
    own = known.get("model") == model  # a run stays with the commit it began with
    checkpoint = checkpoints.open_checkpoint(
        model, trust_remote_code=trust_remote_code, revision=known.get("revision") if own else None
    )
    if own:
        run.update(revision=checkpoint.revision)
    clip = llava.clip_vision(checkpoint) if llava.is_clip_llava(checkpoint) else None
    if clip:
        llava.vision_names(checkpoint, clip)
    path, metadata = run.work / "skeleton.gguf", run.work / "metadata.gguf"

    def make() -> None:
        listener.say(f"reading {checkpoint.name}")
        if checkpoint.has_vision and clip is None:
            converter.check_mmproj(llama, checkpoint.folder, run.work / "vision.gguf", checkpoint.name)
        info = converter.metadata_only(llama, checkpoint.folder, metadata, checkpoint.name)
        shapes = text_shapes(checkpoint.shapes, TensorNames(info.arch, info.n_layers))
        part = path.with_name(path.name + ".part")
        skeleton.write(part, metadata, shapes)
        part.replace(path)
        metadata.unlink()

    run.run_stage("door", hash_of(checkpoint.fingerprint, str(llama.converter)), [".work/skeleton.gguf"], make)
    source = gguf_files.read(path)
    names = TensorNames(source.arch, source.n_layers)
    tensors = quantize.model_tensors(llama, source, low, high, (dataset,) if dataset else ())
    _check_fallbacks(tensors, force, listener)
    return Door(checkpoint, llama, source, names, tensors, clip)


def _check_fallbacks(tensors: ModelTensors, force: bool, listener: Listener) -> None:
    fallen = quantize.fallbacks(tensors)
    if not fallen:
        return
    total = sum(len(names) for names in fallen.values())
    told = "; ".join(f"{_kinds(names)} would become {kind}" for kind, names in fallen.items())
    sentence = f"{total} matrices have rows that {tensors.low}'s blocks of 256 do not divide: {told}."
    if not force:
        raise CheckpointError(
            sentence, "Choose a --low type of 32-weight blocks such as Q4_0 or IQ4_NL, or accept this with --force."
        )
    listener.say(sentence)


def _kinds(names: list[str]) -> str:
    """Tensor names without their layers: "attn_k, ffn_up"."""
    return ", ".join(sorted({name.split(".", 2)[2].removesuffix(".weight") for name in names}))


def with_dataset(door: Door, profile: Profile) -> Door:
    """The door with the header's size for the calibration sources that were really read."""
    sources = profile.calibration.get("sources")
    names = tuple(str(s) for s in sources) if isinstance(sources, list) else ()
    header = skeleton.quantized_header_bytes(door.source, names)
    return replace(door, tensors=replace(door.tensors, header_bytes=header))


def check_disk(run: RunFolder, door: Door, predicted_file_bytes: int) -> None:
    """Raise DiskSpaceError where the 16-bit files, the sampled vectors and the result will not fit."""
    f16 = 2 * door.tensors.n_weights
    vision = max(0, door.checkpoint.n_bytes - f16) if door.checkpoint.has_vision else 0
    width = next(t.shape[0] for t in door.source.tensors if t.name.startswith("token_embd"))
    vectors = 2 * 8192 * door.tensors.n_layers * width * 4
    needed = vision + predicted_file_bytes + max(f16, vectors)
    present = sum(p.stat().st_size for p in run.path.glob("*.gguf") if p.is_file())
    free = shutil.disk_usage(run.path).free + present
    if free < needed:
        raise DiskSpaceError(
            f"{run.path} has {planner.format_size(free)} free; this needs about {planner.format_size(needed)} "
            f"(16-bit GGUF {planner.format_size(f16)}, of which all but the result is deleted afterwards).",
            "Free some room, or give --out a folder on another disk.",
        )
