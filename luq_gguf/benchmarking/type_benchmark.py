"""Measures how fast each tensor type is on this CPU, in layers of a model's own shapes; rates are kept per machine.

For every type, a file of a few such layers is made with an almost empty head; llama-bench measures them in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from luq_gguf.core import machine, paths
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import ModelTensors, RunOptions
from luq_gguf.llamacpp import llama_bench, shape_file, tools
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.method.speed_model import SpeedTable, TypeRate
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_profiled

CANDIDATES = (
    "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS",
    "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16",
)  # fmt: skip
ENOUGH_BYTES = 2**28  # of layers in Q4_K: more than the caches of CPUs hold
PROMPT, GENERATE, ROUNDS = 64, 16, 2
REPETITIONS = 8  # in one run: CPUs are a third faster for the first half second than they stay, so the last half counts
VOCABULARY = 256
HEAD_AND_EMBEDDING = ("output.weight", "token_embd.weight")
# What decides the speed of layers beside their shapes.
_COUNTS = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "expert_count",
    "expert_used_count",
)
BUSY = 0.2  # above this share of the machine used by others, figures are not kept


@dataclass(frozen=True)
class Geometry:
    """A model's layers: its header-only GGUF, and both possible types of all tensors."""

    source: reader.GGUFInfo
    tensors: ModelTensors

    @property
    def matrices(self) -> frozenset[str]:
        """The names of the matrices of decoder layers that are quantized at all."""
        plain = ("F32", "F16", "BF16")
        return frozenset(c.name for c in self.tensors.choices if c.layer is not None and c.high_type not in plain)

    @property
    def active_experts(self) -> float:
        """The share of experts that a token goes through; 1 without experts."""
        facts, arch = self.source.metadata, self.source.arch
        total = int(facts.get(f"{arch}.expert_count") or 0)
        return int(facts.get(f"{arch}.expert_used_count") or 0) / total if total else 1.0

    def layer_weights(self, count: int) -> float:
        """Return the number of weights that a token is multiplied with in `count` layers."""
        share, names, n = self.active_experts, self.matrices, self.tensors.n_layers
        inside = [t for t in self.source.tensors if t.name in names]
        total = sum(t.n_weights * (share if "_exps" in t.name else 1.0) for t in inside)
        return total / n * count

    def layers_measured(self) -> int:
        """Return how many layers in Q4_K exceed the CPU's caches, or the model's own number if that is less."""
        n_bytes = sum(t.n_weights for t in self.source.tensors if t.name in self.matrices) * 4.5 / 8
        per_layer = n_bytes / self.tensors.n_layers
        return min(self.tensors.n_layers, max(2, -(-ENOUGH_BYTES // int(per_layer))))

    def fits(self, kind: str) -> bool:
        """Return whether the rows of every layer's matrices divide into this type's blocks."""
        inside = (t for t in self.source.tensors if t.name in self.matrices)
        return all(reader.fits_blocks(kind, t.shape[0]) for t in inside)


# What was measured while other programs were running is good enough for this process, but not for later ones.
_passing: dict[Path, dict[str, Any]] = {}


def measured_rates(
    geometry: Geometry,
    threads: int,
    reporter: Reporter,
    types: Iterable[str] = CANDIDATES,
    *,
    again: bool = False,
) -> SpeedTable:
    """Return rates of these types and of all that are known already. What is missing is measured; with `again`, all is.

    Raises DiskSpaceError, and RunnerError if llama-bench cannot run such a model.
    """
    path = _cache_path(geometry, threads)
    content: dict[str, Any] = _passing.get(path) or _read(path)
    missing = [kind for kind in types if geometry.fits(kind) and (again or kind not in content.get("rates", {}))]
    if missing:
        _measure(geometry, threads, missing, content, reporter)
        busy = content["others_share"] > BUSY
        if busy or path in _passing:
            _passing[path] = content
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                serialization.write_json(path, content)
            except OSError:  # a cache that cannot be written
                _passing[path] = content
        if busy:
            reporter.info(
                f"other programs used {content['others_share']:.0%} of this machine, so rates are not kept for later"
            )
    return _table(content, threads)


def known_rates(geometry: Geometry, threads: int, types: Iterable[str]) -> SpeedTable | None:
    """Return what is known already of these types on this machine, without measuring; None where it is not all."""
    path = _cache_path(geometry, threads)
    content = _passing.get(path) or _read(path)
    known = content.get("rates", {})
    return _table(content, threads) if known and all(kind in known for kind in types if geometry.fits(kind)) else None


def _table(content: Mapping[str, Any], threads: int) -> SpeedTable:
    rates = {kind: TypeRate(row["decode_wps"], row["prefill_wps"]) for kind, row in content["rates"].items()}
    decode, prefill = (content[f"{what}_constant"] + content[f"{what}_head"] for what in ("decode", "prefill"))
    return SpeedTable(rates, decode, prefill, threads, PROMPT)


def _cache_path(geometry: Geometry, threads: int) -> Path:
    names = geometry.matrices | frozenset(HEAD_AND_EMBEDDING)
    types = {choice.name: choice.high_type for choice in geometry.tensors.choices if choice.layer is None}
    shapes = sorted(
        {(t.name.split(".", 2)[-1], t.shape, types.get(t.name)) for t in geometry.source.tensors if t.name in names},
        key=str,
    )
    arch, facts = geometry.source.arch, geometry.source.metadata
    counts = [(key, facts[f"{arch}.{key}"]) for key in _COUNTS if f"{arch}.{key}" in facts]
    cpu = (machine.cpu_name(), machine.cpu_features(), machine.cores(), threads)
    how = (geometry.layers_measured(), PROMPT, GENERATE, ROUNDS, REPETITIONS)
    llama = tools.find()
    build = (tools.identity(llama), llama.tools.parents[1].name if llama.pinned else "")  # portable, or for this CPU
    return paths.cache("speed") / f"{hash_of(cpu, build, arch, counts, shapes, how)}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = serialization.read_json(path, "bench --types") if path.exists() else {}
    except RunFolderError:  # damaged: measured again
        return {}
    return content


@dataclass(frozen=True)
class _Layers:
    """A file that is measured: `count` layers of one type, with a head of its own or an almost empty one."""

    kind: str
    count: int
    head: bool = False


def _measure(
    geometry: Geometry, threads: int, types: Collection[str], content: dict[str, Any], reporter: Reporter
) -> None:
    """Fill `content` with rates of these types, and with the constants if they are missing."""
    count = geometry.layers_measured()
    once, twice, headed = _Layers("Q4_0", count), _Layers("Q4_0", 2 * count), _Layers("Q4_0", count, head=True)
    files = [_Layers(kind, count) for kind in types]
    if constants := "decode_head" not in content:
        files += [layers for layers in (once, twice, headed) if layers not in files]
    seconds, others = _seconds(geometry, threads, files, reporter)
    for what, seconds_of in seconds.items():
        if constants:
            content[f"{what}_constant"] = min(max(0.0, 2 * seconds_of[once] - seconds_of[twice]), seconds_of[once] / 2)
            content[f"{what}_head"] = max(0.0, seconds_of[headed] - seconds_of[once])
    weights, rates = geometry.layer_weights(count), content.setdefault("rates", {})
    for kind in types:
        rates[kind] = {}
        for what, seconds_of in seconds.items():
            rates[kind][f"{what}_wps"] = weights / (seconds_of[_Layers(kind, count)] - content[f"{what}_constant"])
            rates[kind][f"{what}_tps"] = 1 / seconds_of[_Layers(kind, count)]
    content |= {
        "others_share": others,
        "threads": threads,
        "layers": count,
        "weights_per_layer": geometry.layer_weights(1),
        "prompt_tokens": PROMPT,
        "machine": machine.describe().to_json(),
    }


def _seconds(
    geometry: Geometry, threads: int, files: Collection[_Layers], reporter: Reporter
) -> tuple[dict[str, dict[_Layers, float]], float]:
    """Return each file's median seconds per token in decode and in prefill, and others' share of the machine."""
    samples: dict[str, dict[_Layers, list[float]]] = {"decode": {}, "prefill": {}}
    others, llama, total = [], tools.find(), len(files) * ROUNDS
    with tempfile.TemporaryDirectory(prefix="luq-types-") as folder:
        for turn, layers in enumerate([layers for _ in range(ROUNDS) for layers in files], 1):
            path = Path(folder) / f"{layers.kind}-{layers.count}-{layers.head}.gguf"
            if not path.exists():
                layer_file(path, geometry, layers.kind, layers.count, head=layers.head)
            workload = llama_bench.Workload((threads,), (PROMPT,), GENERATE, REPETITIONS, gpu_layers=0)
            run = llama_bench.run(llama, path, workload)
            for what, key in (("decode", (threads, 0, GENERATE)), ("prefill", (threads, PROMPT, 0))):
                sustained = run.tps[key][REPETITIONS // 2 :]
                samples[what].setdefault(layers, []).extend(1 / tps for tps in sustained)
            others.append(run.others_share)
            reporter.progress("speed of tensor types", turn, total)
    return {
        what: {layers: median(values) for layers, values in by_file.items()} for what, by_file in samples.items()
    }, median(others)


def layer_file(path: Path, geometry: Geometry, kind: str, count: int, *, head: bool = False) -> None:
    """Write a file of `count` layers whose matrices are all of one type, without a tokenizer.

    The head is that of the stock file, or has almost no weights.
    """
    source, n = geometry.source, geometry.tensors.n_layers
    arch, matrices = source.arch, geometry.matrices
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    stock = {choice.name: choice.high_type for choice in geometry.tensors.choices}
    rows = next(t.shape[-1] for t in source.tensors if t.name == "token_embd.weight") if head else VOCABULARY
    for tensor in source.tensors:
        layer, shape = layer_of(tensor.name), tensor.shape[::-1]
        if layer is None:
            ends = tensor.name in HEAD_AND_EMBEDDING
            shapes[tensor.name] = (rows, *shape[1:]) if ends else shape
            types[tensor.name] = stock[tensor.name] if ends and head else tensor.type
        elif layer < n:
            rest = tensor.name.split(".", 2)[2]
            for copy in range(layer, count, n):
                shapes[f"blk.{copy}.{rest}"] = shape
                types[f"blk.{copy}.{rest}"] = kind if tensor.name in matrices else tensor.type
    changes: dict[str, object] = {key: None for key in source.metadata if key.startswith("tokenizer.")}
    changes |= _cut_to(source.metadata, arch, n, count)
    changes |= {"tokenizer.ggml.model": "no_vocab", f"{arch}.vocab_size": rows, f"{arch}.block_count": count}
    shape_file.write(path, source, types, shapes, changes)


def _cut_to(metadata: Mapping[str, Any], arch: str, n_layers: int, count: int) -> dict[str, object]:
    """Return metadata with a value for each layer, for another number of layers, without multi-token heads (MTP)."""
    changes: dict[str, object] = {}
    for key, value in metadata.items():
        if key.startswith(f"{arch}.") and isinstance(value, list) and len(value) >= n_layers:
            changes[key] = [value[i % n_layers] for i in range(count)]
    if f"{arch}.nextn_predict_layers" in metadata:
        changes[f"{arch}.nextn_predict_layers"] = 0
    return changes


def geometry(
    run_dir: Path, *, model: str | None = None, trust_remote_code: bool = False, reporter: Reporter = Reporter()
) -> Geometry:
    """Return the shapes and types of a run folder's model."""
    with RunFolder(run_dir) as run:
        options = RunOptions(trust_remote_code=trust_remote_code, allow_fallback=True)
        spec = open_profiled(run, model, options, reporter).spec
        return Geometry(spec.source, spec.tensors)
