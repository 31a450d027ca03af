"""Chooses the file of a folder or a repository that this machine runs best: what each needs of memory, and the whole
command line for the best one. Only headers are read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luq_gguf.benchmarking import type_benchmark
from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core import machine
from luq_gguf.core.choice import Choice, FileNeed
from luq_gguf.core.errors import LuqError
from luq_gguf.core.memory_use import ContextShape, ImageLimits, MemoryUse
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import ModelTensors, TensorChoice
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp.gguf import reader, shards
from luq_gguf.llamacpp.runtime import memory
from luq_gguf.method import speed_model
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.workflows import run_commands
from luq_gguf.workflows.known_quality import known_quality
from luq_gguf.workflows.offered_files import Headers, Offer, offers, open_source

DEFAULT_CONTEXT = 8192  # tokens, or what the model was trained with if that is less
CACHES = ("f16", "q8_0")  # types of the KV cache, the first that fits
SMALLEST_CACHES = ("q4_0",)  # only where no file fits with the others
IMAGE_SHARE = 0.75  # of the context that an image may fill


@dataclass(frozen=True)
class ChooseRequest:
    """What is asked: a folder or a repository; bytes of memory (None: what is available), tokens of context and threads
    (None: the defaults), and types of the KV cache where they are not to be chosen."""

    source: str
    memory_bytes: int | None = None
    n_ctx: int | None = None
    type_k: str | None = None
    type_v: str | None = None
    threads: int | None = None
    ollama: bool = False


def choose(request: ChooseRequest, reporter: Reporter = Reporter()) -> Choice:
    """Return what every file needs, and the best one. Raises GGUFFileError where there is no text model's file, and the
    Hub's errors."""
    available = machine.available_bytes() if request.memory_bytes is None else request.memory_bytes
    source, threads = open_source(request.source), request.threads or machine.cores()
    with tempfile.TemporaryDirectory(prefix="luq-choose-") as name:
        headers = Headers(source, Path(name) / "files")
        offered = offers(source, headers, available, reporter)
        quality = known_quality(source, offered, Path(name), reporter)

        def all_needs(caches: tuple[str, ...]) -> list[FileNeed]:
            found = []
            for done, offer in enumerate(offered, 1):
                found.append(
                    replace(_need(offer, request, available, threads, caches), quality=quality.get(offer.file))
                )
                reporter.progress("memory", done, len(offered))
            return found

        needs = all_needs(CACHES)
        if not any(need.fits for need in needs) and not (request.type_k or request.type_v):
            smallest = all_needs(SMALLEST_CACHES)
            needs = smallest if any(need.fits for need in smallest) else needs
    best, why = best_of(needs, available)
    parts = run_commands.Parts(source.name, source.revision, threads, available)
    return Choice(
        source.name,
        source.revision,
        available,
        threads,
        tuple(needs),
        best.file if best else None,
        why,
        run_commands.command_lines(best, parts) if best else {},
        run_commands.modelfile(best, parts) if best and request.ollama else None,
        headers.n_bytes,
    )


def _need(offer: Offer, request: ChooseRequest, available: int, threads: int, caches: tuple[str, ...]) -> FileNeed:
    """What a file needs with the first type of KV cache that fits; where none does, with the first."""
    need = FileNeed(offer.file, offer.shards, offer.n_bytes, offer.mmproj, fits=False, problem=offer.problem)
    if offer.header is None:
        return need if need.problem else replace(need, problem="alone larger than the memory")
    shapes = _shapes(request, request.n_ctx or DEFAULT_CONTEXT, caches)
    try:
        told = memory.report(offer.header, offer.mmproj_header, shapes)
        if request.n_ctx is None and told.n_ctx_train < DEFAULT_CONTEXT:
            shapes = _shapes(request, max(told.n_ctx_train, 256), caches)
            told = memory.report(offer.header, offer.mmproj_header, shapes)
    except LuqError as error:
        return replace(need, problem=error.message)
    *pairs, (_, by_cli) = zip(shapes, told.uses, strict=True)
    possible = [(shape, use) for shape, use in pairs if use is not None]
    if not possible:
        return replace(need, problem="llama.cpp cannot make a KV cache of these types for it")
    fitting = next(((shape, use) for shape, use in possible if use.total_bytes <= available), None)
    shape, use = fitting or possible[0]
    speed = _speed(offer.header, threads)
    return replace(
        need,
        fits=fitting is not None,
        memory=use,
        context=shape,
        n_ctx_train=told.n_ctx_train,
        image_max_tokens=_image_limit(told.images, shape.n_ctx, use, available),
        cli_bytes=by_cli.total_bytes if by_cli else None,
        decode_tps=speed.decode_tps if speed else None,
        prefill_tps=speed.prefill_tps if speed else None,
    )


def _shapes(request: ChooseRequest, n_ctx: int, caches: tuple[str, ...]) -> list[ContextShape]:
    """The contexts that are tried, in this order, and llama-mtmd-cli's."""
    kinds = [(request.type_k or kind, request.type_v or kind) for kind in caches]
    shapes = [ContextShape(n_ctx, *kind) for kind in dict.fromkeys(kinds)]
    return [*shapes, replace(shapes[0], n_slots=1, n_outputs=0)]


def _image_limit(images: ImageLimits | None, n_ctx: int, use: MemoryUse, available: int) -> int | None:
    """--image-max-tokens, where images of any size are taken: as many as libmtmd reserves memory for, if a larger one
    may not fit (its mask of attention grows with the square), and not more than the context has room for."""
    if images is None or not images.most or not images.reserved:
        return None
    larger = use.image_bytes * (images.most / images.reserved) ** 2
    most = images.most
    if use.total_bytes - use.image_bytes + larger > available:
        most = min(most, images.reserved)
    most = min(most, int(n_ctx * IMAGE_SHARE))
    return most if most < images.most else None


def _speed(header: Path, threads: int) -> speed_model.Speed | None:
    """The predicted speed, where the rates of these types in layers of these shapes are known on this machine."""
    try:
        first, *others = (reader.read_tensors(file) for file in shards.files_of(header))
        info = replace(first, tensors=tuple(tensor for part in (first, *others) for tensor in part.tensors))
        n_layers = info.n_layers
        rows = [
            TensorChoice(t.name, layer if layer is not None and layer < n_layers else None, t.n_weights, *kind, *kind)
            for t in info.tensors
            for layer, kind in [(layer_of(t.name), (t.type, t.n_bytes))]
        ]
        tensors = ModelTensors(tuple(rows), n_layers, "", "", info.header_bytes)
        geometry = Geometry(info, tensors)
        types = speed_model.types_in(tensors, info.types)
        table = type_benchmark.known_rates(geometry, threads, types)
        return speed_model.predict(table, tensors, info.types, geometry.active_experts) if table else None
    except (LuqError, KeyError, ValueError, ZeroDivisionError, StopIteration):  # not a shape that rates are known of
        return None


def best_of(needs: Sequence[FileNeed], available: int) -> tuple[FileNeed | None, str]:
    """Return the best file that fits, and why it is the best: that of the best measured quality, else the largest."""
    fitting = [need for need in needs if need.fits]
    has = f"{format_size(available)} of memory"
    if not fitting:
        known = [need for need in needs if need.memory]
        if not known:
            return None, f"No file fits in {has}."
        least = min(known, key=lambda need: need.memory.total_bytes if need.memory else 0)
        assert least.memory is not None
        n_ctx, size = least.context and least.context.n_ctx, format_size(least.memory.total_bytes, up=True)
        return None, f"No file fits in {has}: {least.file} needs the least, {size} with a context of {n_ctx} tokens."
    groups: dict[tuple[str | None, str | None], list[FileNeed]] = {}
    for need in fitting:
        if need.quality:
            groups.setdefault((need.quality.data_sha256, need.quality.metric), []).append(need)
    largest = max(fitting, key=lambda need: need.n_bytes)
    if not groups:
        return largest, f"It is the largest file that fits in {has}; no quality is known of any that fits."
    compared = max(groups.values(), key=len)  # of several sets of questions the one that most files were asked
    best = min(compared, key=_badness)
    assert best.quality
    if best.quality.kld is not None:
        figure = f"mean KL divergence {best.quality.kld:.3g}"
    else:
        figure = f"accuracy {best.quality.accuracy or 0:.1%}"
    of = (
        f"the best of {len(compared)} measured files that fit"
        if len(compared) > 1
        else "the only measured file that fits"
    )
    sentence = f"It is {of} in {has} ({figure} on {best.quality.data})"
    unmeasured = largest.n_bytes > best.n_bytes and largest not in compared
    return best, sentence + (
        f"; {largest.file} is larger and fits, too, but was not measured on it." if unmeasured else "."
    )


def _badness(need: FileNeed) -> tuple[bool, float, int]:
    """Divergence where it is known, else errors; of equals the smaller file."""
    assert need.quality
    kld, accuracy = need.quality.kld, need.quality.accuracy
    return kld is None, kld if kld is not None else 1 - (accuracy or 0), need.n_bytes
