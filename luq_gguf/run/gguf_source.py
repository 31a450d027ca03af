"""Opens a GGUF file in a checkpoint's place: what `plan`, `quantize` and `sweep` need of a model, without transformers.
Its layers have no entropies but those of a profile.json that is there, and importance comes from a file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from luq_gguf.core import atomic, paths
from luq_gguf.core.errors import CalibrationError, CheckpointError, GGUFFileError, RunFolderError
from luq_gguf.core.given_imatrix import COPY
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.model_file import ModelFile
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import RunOptions
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp import labels, quantize, tools
from luq_gguf.llamacpp.gguf import header_only, mmproj, reader, shards
from luq_gguf.llamacpp.gguf.reader import GGUFInfo
from luq_gguf.run import given_imatrix, load_check, preflight, provenance
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.given_imatrix import LoadedImatrix
from luq_gguf.run.preflight import ModelSpec

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_UNQUANTIZED = ("F64", "F32", "F16", "BF16")
_LABELS = {*_UNQUANTIZED, *labels.BITS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q3_K", "Q4_K", "Q5_K", "IQ4_NL", "MXFP4"}
_DROPPED = ("split.", "quantize.imatrix.")  # what llama-quantize removes, or writes anew
_SKELETON = ".work/skeleton.gguf"


def is_gguf(model: str) -> bool:
    """Return whether a model is given as a GGUF file: an existing file that begins as one or is called so."""
    path = Path(model).expanduser()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == ".gguf" or file.read(4) == b"GGUF"


def check_described(run: RunFolder, *, by: str) -> None:
    """Raise RunFolderError where a run folder is of a GGUF file without a profile, which a card or a report (`by`) is
    about."""
    model = run.read().get("model")
    if isinstance(model, str) and "profile" not in run.read()["stages"] and is_gguf(model):
        raise RunFolderError(
            f"{run.path} was made from a GGUF file and not profiled, so luq-gguf {by} has nothing to say about its "
            "layers.",
            "Use the files as they are, or start from the checkpoint with luq-gguf convert.",
        )


def load_spec(
    run: RunFolder,
    model: str,
    options: RunOptions,
    reporter: Reporter,
    *,
    low: str,
    high: str,
    given: LoadedImatrix | None,
) -> ModelSpec:
    """Return what is known of a GGUF file before it is quantized again. Importance that is not `given` is that of the
    run folder.

    llama-quantize's dry runs are asked of a header-only GGUF that has 16 bits where the file is quantized, as they tell
    only then what each tensor becomes. Raises GGUFFileError where the file is not a text model's, CalibrationError
    where there is no importance, and otherwise what `preflight.load_model_spec` raises.
    """
    llama = tools.find()
    low, high = reader.check_type(low, "--low"), quantize.check_ftype(llama, high)
    path = shards.files_of(Path(paths.absolute_model(model)))[0]
    info = shards.read(path)
    if reader.kind_of(info) != "model" or "token_embd.weight" not in info.types:
        raise GGUFFileError(f"{path.name} is not a text model.", "Give the model's file, not its mmproj or imatrix.")
    checkpoint = _stand_in(info)
    given = given or _importance(run, path)
    _tell_quantized(info, reporter)
    run.versions |= {"llama_cpp": tools.version_of(llama)}
    skeleton = run.file(_SKELETON)

    def make() -> None:
        with atomic.whole(skeleton) as part:
            _write_skeleton(part, info)
        if words := load_check.refusal(skeleton):
            raise GGUFFileError(f"libllama cannot load {path.name}: {words}", "Give the file of a model that it knows.")

    if not skeleton.exists():
        run.forget("door")
    run.run_stage("door", hash_of("gguf", checkpoint.fingerprint, tools.identity(llama)), [], make)
    source = reader.read(skeleton)
    given = given_imatrix.fitted(given, source, checkpoint.name, reporter)
    origin = provenance.entries(run.read(), source.metadata)
    tensors = quantize.model_tensors(
        llama,
        source,
        low,
        high,
        n_layers=info.n_layers - _predicting_layers(info),
        has_imatrix=given.matrix.in_sum2,
        datasets=given.facts.datasets,
        entries=labels.of_same_size(origin),
        imatrix_name=COPY,
    )
    preflight.check_tensors(tensors, given.facts, reporter, allow_fallback=options.allow_fallback)
    return ModelSpec(checkpoint, llama, source, {}, tensors, None, origin, given, _model_file(info))


def _stand_in(info: GGUFInfo) -> Checkpoint:
    """What stands for the checkpoint: name, folder, and the contents of the file with all its shards."""
    files = shards.files_of(info.path)
    return Checkpoint(
        folder=info.path.parent,
        name=_name(info.path),
        config={},
        shapes={},
        sizes={},
        shards={file.name: file for file in files},
        n_bytes=info.n_bytes,
        outline=hash_of("gguf"),
    )


def _name(path: Path) -> str:
    """A model's name: its file's without the number of a shard and the type."""
    stem = _SHARD.sub("", path.stem)
    name, _, kind = stem.replace(".", "-").rpartition("-")
    return stem[: len(name)] if name and kind.upper() in _LABELS else stem


def _model_file(info: GGUFInfo) -> ModelFile:
    possible = (half for half in mmproj.candidates(info.path) if mmproj.belong_together(info.path, half))
    half = min(possible, key=lambda half: (not _is_f16(half.name), half.name), default=None)
    keys = [key for path in (info.path, half) if path and (key := mmproj.checkpoint_of(path))]
    quantized = any(tensor.type not in _UNQUANTIZED for tensor in info.tensors)
    return ModelFile(info.path, info.n_bytes, info.bpw, half, quantized, next(iter(keys), None))


def _is_f16(name: str) -> bool:
    return re.search(r"(?<!B)F16", name, re.IGNORECASE) is not None


def _predicting_layers(info: GGUFInfo) -> int:
    """How many of the layers only predict further tokens, behind those that compute the next one."""
    told = info.metadata.get(f"{info.arch}.nextn_predict_layers")
    return told if isinstance(told, int) else 0


def _importance(run: RunFolder, path: Path) -> LoadedImatrix:
    """The importance that the run folder has: what was given before, or a calibration's."""
    if earlier := given_imatrix.recorded(run):
        return earlier
    calibrated = run.file(header_only.IMATRIX_NAME)
    if not calibrated.is_file():
        raise CalibrationError(
            f"{path.name} is a GGUF file, which cannot be calibrated, and {run.path} has no importance matrix.",
            "Add --imatrix FILE: a GGUF file that llama-imatrix has written for this model.",
        )
    return given_imatrix.load(calibrated)


def _tell_quantized(info: GGUFInfo, reporter: Reporter) -> None:
    """Say where a file has lost more than Q8_0 loses."""
    lower = Counter(tensor.type for tensor in info.tensors if tensor.type not in (*_UNQUANTIZED, "Q8_0"))
    if lower:
        counted = ", ".join(f"{number} tensors in {kind}" for kind, number in lower.most_common())
        reporter.info(
            f"{info.path.name} is quantized already ({counted}): what that has cost stays, and quantizing the 16-bit "
            "file gives a better one of the same size"
        )


def _write_skeleton(part: Path, info: GGUFInfo) -> None:
    alignment = info.metadata.get("general.alignment", header_only.ALIGNMENT)
    if alignment != header_only.ALIGNMENT:
        raise CheckpointError(
            f"{info.path.name} aligns its tensors to {alignment} bytes, which luq-gguf does not write.",
            f"Give a file that aligns them to {header_only.ALIGNMENT}, as llama.cpp's converter does.",
        )
    kept = {"general.quantization_version": 2, "general.file_type": 1}  # what llama-quantize sets in any case
    changes: dict[str, object] = {name: number for name, number in kept.items() if name not in info.metadata}
    changes |= {name: None for name in info.metadata if name.startswith(_DROPPED)}
    tensors = {t.name: (t.type if t.type in _UNQUANTIZED else "F16", t.shape[::-1]) for t in info.tensors}
    header_only.write(part, info.path, tensors, changes)
