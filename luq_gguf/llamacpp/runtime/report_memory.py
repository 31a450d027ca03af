"""Reports what libllama and libmtmd would allocate for GGUF files, and allocates none of it: their own figures, which
llama-server fits models to devices with. Headers before a hole are enough.

A program of its own, started by `memory` with a JSON object as its only argument:

    {"model": path, "mmproj": path or null, "image_max_tokens": number, -1 for the file's own,
     "contexts": [fields of ContextShape], "max_memory": bytes, "max_seconds": of CPU time}

It prints one line of JSON: {"error"}, or {"weights", "repacked", "program", "n_ctx_train", "contexts": [{"kv_cache",
"compute"}, null for one that libllama refuses], "vision": {"weights", "compute", "max_pixels", "reserved_pixels",
"pixels_of_token"}}. libllama's functions for this are C++ and give a std::map, which is read here as libstdc++ lays it
out.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp

from luq_gguf.core import unix
from luq_gguf.llamacpp.runtime.load_mmproj import LOADER, Encoders, Settings

_OF_CONTEXT = "_Z26llama_get_memory_breakdownPK13llama_context"
_OF_ENCODER = "_Z18clip_get_mem_usagePK8clip_ctx"
_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
_FACTS = {
    "max_pixels": re.compile(r"image_max_pixels:\s+(\d+)"),
    "reserved_side": re.compile(r"warmup with image size = (\d+) x"),
    "patch": re.compile(r"patch_size:\s+(\d+)"),
    "merge": re.compile(r"n_merge:\s+(\d+)"),
    "windows": re.compile(r"n_wa_pattern:\s+(\d+)"),
}


class _Map(ctypes.Structure):
    """std::map of libstdc++: an empty comparison, the header node, and the number of entries."""

    _fields_ = (
        ("comparison", ctypes.c_size_t),
        ("color", ctypes.c_size_t),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


class _Node(ctypes.Structure):
    """A node of it: its links, and behind them the key."""

    _fields_ = (
        ("color", ctypes.c_size_t),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
    )


class _ReportError(Exception):
    """What cannot be reported; the message says why."""


_lines: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep(level: int, text: bytes, data: Any) -> None:
    _lines.append(text.decode("utf-8", "replace"))
    if level == 4:
        sys.stderr.write(_lines[-1])


def _entries(tree: _Map, n: int) -> list[tuple[int, list[int]]]:
    """Key and n sizes of every entry. Raises _ReportError where the tree is not laid out as expected."""
    nodes = list(_nodes(tree.root, tree.count)) if tree.count < 64 else []
    if len(nodes) != tree.count or not nodes:
        raise _ReportError("its libraries report memory in another form than expected")
    sizes = [list((ctypes.c_size_t * n).from_address(node + ctypes.sizeof(_Node))) for node in nodes]
    return [(int(_Node.from_address(node).key or 0), size) for node, size in zip(nodes, sizes, strict=True)]


def _nodes(address: int | None, left: int) -> Iterator[int]:
    if address and left:
        node = _Node.from_address(address)
        yield from _nodes(node.left, left - 1)
        yield address
        yield from _nodes(node.right, left - 1)


def _resident() -> int:
    """Bytes of this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _why() -> str:
    """The library's first error, without the names of functions before it."""
    errors = [line for line in _lines if "error" in line or "failed" in line or "invalid" in line]
    words = " ".join(errors[0].split()) if errors else "no reason was given"
    return "".join(c for c in re.sub(r"^(\w+: )+", "", words) if c.isprintable())[:300]


def text_model(request: dict[str, Any], libraries: Path) -> dict[str, Any]:
    """Return weights, program and contexts of the request's model."""
    before = _resident()
    options = llama_cpp.llama_model_default_params()
    options.no_alloc, options.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    model = llama_cpp.llama_model_load_from_file(request["model"].encode(), options)
    if not model:
        raise _ReportError(_why())
    contexts: list[dict[str, int] | None] = []
    weights, repacked, program = 0, 0, _resident() - before
    is_host = ctypes.CDLL(str(libraries / "libggml-base.so")).ggml_backend_buft_is_host
    is_host.argtypes, is_host.restype = (ctypes.c_void_p,), ctypes.c_bool
    breakdown = ctypes.CDLL(str(libraries / "libllama.so"))[_OF_CONTEXT]
    breakdown.argtypes, breakdown.restype = (ctypes.c_void_p,), _Map
    for shape in request["contexts"]:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = shape["n_ctx"], shape["n_batch"], shape["n_ubatch"]
        options.n_seq_max, options.kv_unified = shape["n_slots"], True
        options.n_outputs_max, options.n_outputs_max_per_seq = shape["n_outputs"], min(shape["n_outputs"], 1)
        options.type_k, options.type_v = _TYPES[shape["type_k"]], _TYPES[shape["type_v"]]
        context = llama_cpp.llama_init_from_model(model, options)
        if not context:
            contexts.append(None)
            continue
        parts = _entries(breakdown(context), 3)
        weights, kv_cache, compute = (sum(sizes[i] for _, sizes in parts) for i in range(3))
        repacked = sum(sizes[0] for kind, sizes in parts if not is_host(kind))
        contexts.append({"kv_cache": kv_cache, "compute": compute})
        program = max(program, _resident() - before)
        llama_cpp.llama_free(context)
    if not any(contexts):
        raise _ReportError(_why())
    n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(model))
    facts = {"weights": weights, "repacked": repacked, "program": program, "n_ctx_train": n_ctx_train}
    return facts | {"contexts": contexts}


def vision(request: dict[str, Any], libraries: Path) -> dict[str, Any]:
    """Return what the request's mmproj takes: weights, and the compute buffer of an image of `reserved_pixels`."""
    from llama_cpp import mtmd_cpp

    mtmd_cpp.mtmd_log_set(_keep, ctypes.c_void_p(0))
    library = ctypes.CDLL(str(libraries / "libmtmd.so"))
    load, usage = library[LOADER], library[_OF_ENCODER]
    load.argtypes, load.restype = (ctypes.c_char_p, Settings), Encoders
    usage.argtypes, usage.restype = (ctypes.c_void_p,), _Map
    _lines.clear()
    path, most = request["mmproj"].encode(), request["image_max_tokens"]
    totals = []
    for warmup in (False, True):
        settings = Settings(flash_attn_type=-1, warmup=warmup, no_alloc=True, image_max_tokens=most)
        settings.image_min_tokens = -1
        loaded = load(path, settings)
        encoders = [encoder for encoder in (loaded.vision, loaded.audio) if encoder]
        if not encoders:
            raise _ReportError(_why())
        totals.append(sum(sizes[0] for encoder in encoders for _, sizes in _entries(usage(encoder), 1)))
    log = "".join(_lines)
    told = {name: int(match[1]) for name, pattern in _FACTS.items() if (match := pattern.search(log))}
    side = told.get("reserved_side")
    mask = 0
    if side and told.get("patch") and told.get("windows"):  # attention in windows: libmtmd makes the mask, float32 of
        mask = 4 * (side // told["patch"]) ** 4  # every pair of patches, outside its buffers
    return {
        "weights": totals[0],
        "compute": totals[1] - totals[0] + mask,
        "max_pixels": told.get("max_pixels"),
        "reserved_pixels": side and side * side,
        "pixels_of_token": (told.get("patch", 0) * told.get("merge", 0)) ** 2 or None,
    }


def main() -> None:
    request = json.loads(sys.argv[1])
    resource = unix.module("resource")
    resource.setrlimit(resource.RLIMIT_AS, (request["max_memory"], request["max_memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (request["max_seconds"], request["max_seconds"]))
    out = os.fdopen(os.dup(1), "w", buffering=1)  # the libraries may print to stdout
    os.dup2(2, 1)
    libraries = Path(llama_cpp.__file__).parent / "lib"
    llama_cpp.llama_log_set(_keep, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    try:
        content = text_model(request, libraries)
        content["vision"] = vision(request, libraries) if request["mmproj"] else None
    except _ReportError as failure:
        content = {"error": str(failure)}
    out.write(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
