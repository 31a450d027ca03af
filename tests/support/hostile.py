"""Files that somebody made to do harm: a corpus by category, each made from its own bytes, none from anybody's code.

What is made must be refused with one sentence, or be read; it must never end in a traceback, wait for ever, or fill
memory. Whole folders that hold such files are in `hostile_folders`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from luq_gguf.core.types import PredictedSpeed

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10
BIG = 2**64 - 1


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def text_entry(key: str, value: str) -> bytes:
    return entry(key, STRING, string(value))


def number_entry(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(
    name: str | bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0, n_dims: int | None = None
) -> bytes:
    n = len(shape) if n_dims is None else n_dims
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", n, *shape, kind, offset)


ARCH = text_entry("general.architecture", "llama")
ALIGNMENT = "general.alignment"


def gguf(
    entries: tuple[bytes, ...] = (ARCH,),
    tensors: tuple[bytes, ...] = (),
    *,
    data: int = 0,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_entries: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A GGUF of these parts; counts are right unless they are given."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(entries) if n_entries is None else n_entries)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join((*entries, *tensors))
    return head + bytes(-len(head) % alignment) + bytes(data)


WHOLE = gguf(
    (
        ARCH,
        number_entry("llama.block_count", 1),
        entry("some.words", ARRAY, array(STRING, 2, string("a") + string("b"))),
    ),
    (tensor("token_embd.weight", (32, 4)), tensor("blk.0.ffn_up.weight", (32, 2), offset=512)),
    data=512 + 256,
)


def imatrix(sums: float = 1.0, count: float = 2.0, kind: int = 0) -> bytes:
    """An importance matrix of one tensor with 32 columns."""
    entries = (text_entry("general.type", "imatrix"), number_entry("imatrix.chunk_count", 1))
    tensors = (tensor("a.in_sum2", (32,), kind), tensor("a.counts", (1,), offset=128))
    return gguf(entries, tensors) + struct.pack("<32f", *[sums] * 32) + struct.pack("<f", count) + bytes(28)


def _truncated() -> Iterator[tuple[str, bytes]]:
    """Cut within every section: magic, version, counts, keys, values, arrays, names, shapes, offsets, data."""
    for cut in (0, 2, 4, 6, 8, 12, 20, 24, 30, 40, 52, 60, 65, 80, 95, 110, 130, 150, 170, 200, 230, 260, 300, 700):
        yield f"cut-at-{cut}", WHOLE[:cut]
    yield "cut-by-one", WHOLE[:-1]


def gguf_files() -> dict[str, bytes]:
    """Bad GGUF files by name."""
    one = (tensor("a.weight", (32,)),)
    deep = array(ARRAY, 1)
    for _ in range(3000):
        deep = array(ARRAY, 1, deep)
    found = {
        "magic-other": gguf(magic=b"GGML"),
        "magic-reversed": gguf(magic=b"FUGG"),
        "magic-lower-case": gguf(magic=b"gguf"),
        "version-0": gguf(version=0),
        "version-1": gguf(version=1),
        "version-4": gguf(version=4),
        "version-huge": gguf(version=2**32 - 1),
        "byte-order-other": gguf(version=3 << 24),
        "tensors-count-too-large": gguf(n_tensors=7),
        "tensors-count-overflows": gguf(n_tensors=BIG),
        "tensors-count-2-63": gguf(n_tensors=2**63),
        "entries-count-too-large": gguf(n_entries=7),
        "entries-count-overflows": gguf(n_entries=BIG),
        "entries-count-fits-file-of-zeros": gguf((), n_entries=70_000, data=1_000_000),
        "tensors-count-fits-file-of-zeros": gguf(n_tensors=30_000, data=1_000_000),
        "key-length-overflows": gguf((string("k", BIG),)),
        "key-length-beyond": gguf((string("k", 10_000),)),
        "key-empty": gguf((text_entry("", "x"),)),
        "key-not-utf8": gguf((entry(b"\xff\xfe", U32, bytes(4)),)),
        "key-twice": gguf((ARCH, ARCH)),
        "key-of-the-reader": gguf((ARCH, number_entry("GGUF.version", 3))),
        "key-with-escapes": gguf((ARCH, entry("\x1b[2J", 77, b"x"))),
        "value-type-unknown": gguf((entry("k", 13, bytes(8)),)),
        "value-type-huge": gguf((entry("k", 2**32 - 1, bytes(8)),)),
        "value-string-overflows": gguf((entry("k", STRING, string("", BIG)),)),
        "value-string-wraps": gguf((entry("k", STRING, string("x", 2**64 - 40)),)),
        "value-string-not-utf8": gguf((ARCH, entry("k", STRING, string(b"\xff\xfe")))),
        "array-count-overflows": gguf((entry("k", ARRAY, array(U32, BIG)),)),
        "array-bytes-wrap": gguf((entry("k", ARRAY, array(U64, 2**61)),)),
        "array-strings-overflow": gguf((entry("k", ARRAY, array(STRING, BIG)),)),
        "array-too-many-elements": gguf((entry("k", ARRAY, array(0, 6_000_000, bytes(6_000_000))),)),
        "array-type-unknown": gguf((entry("k", ARRAY, array(99, 1, bytes(8))),)),
        "array-nested": gguf((entry("k", ARRAY, array(ARRAY, 1, array(U32, 1, bytes(4)))),)),
        "array-nested-deep": gguf((entry("k", ARRAY, deep),)),
        "array-empty": gguf((ARCH, entry("k", ARRAY, array(STRING, 0)))),
        "alignment-0": gguf((ARCH, number_entry(ALIGNMENT, 0)), one, data=128),
        "alignment-3": gguf((ARCH, number_entry(ALIGNMENT, 3)), one, data=128),
        "alignment-huge": gguf((ARCH, number_entry(ALIGNMENT, 2**31)), one, data=128),
        "alignment-not-a-number": gguf((ARCH, text_entry(ALIGNMENT, "32")), one, data=128),
        "alignment-64-bits": gguf((ARCH, entry(ALIGNMENT, U64, struct.pack("<Q", 32))), one, data=128),
        "tensor-twice": gguf(tensors=(*one, tensor("a.weight", (32,), offset=128)), data=256),
        "tensor-name-too-long": gguf(tensors=(tensor("n" * 64, (32,)),), data=128),
        "tensor-name-overflows": gguf(tensors=(string("n", BIG),)),
        "tensor-name-not-utf8": gguf(tensors=(tensor(b"\xff", (32,)),), data=128),
        "tensor-name-is-markup": gguf(tensors=(tensor("blk.0.[/bold].weight", (32,)),), data=128),
        "tensor-dimensions-5": gguf(tensors=(tensor("a", (1,) * 5),), data=128),
        "tensor-dimensions-huge": gguf(tensors=(tensor("a", (1,), n_dims=2**32 - 1),), data=128),
        "tensor-shape-0": gguf(tensors=(tensor("a", (32, 0)),), data=128),
        "tensor-shape-negative": gguf(tensors=(tensor("a", (BIG,)),), data=128),
        "tensor-shape-wraps-to-0": gguf(tensors=(tensor("a", (2**32, 2**32)),), data=128),
        "tensor-shape-wraps-to-1": gguf(tensors=(tensor("a", (2**32 + 1, 2**32 - 1)),), data=128),
        "tensor-type-unknown": gguf(tensors=(tensor("a", (32,), kind=999),), data=128),
        "tensor-type-removed": gguf(tensors=(tensor("a", (32,), kind=4),), data=128),
        "tensor-rows-no-block": gguf(tensors=(tensor("a", (31,), kind=2),), data=128),
        "offset-beyond": gguf(tensors=(tensor("a", (32,), offset=2**40),), data=128),
        "offset-overflows": gguf(tensors=(tensor("a", (32,), offset=BIG - 31),), data=128),
        "offset-not-aligned": gguf(tensors=(tensor("a", (32,), offset=1),), data=256),
        "offset-overlaps": gguf(tensors=(*one, tensor("b", (32,), offset=64)), data=256),
        "offset-leaves-a-hole": gguf(tensors=(*one, tensor("b", (32,), offset=4096)), data=8192),
        "data-missing": gguf(tensors=one),
        "data-half": gguf(tensors=one, data=64),
        "no-architecture": gguf((), one, data=128),
        "architecture-a-number": gguf((number_entry("general.architecture", 7),), one, data=128),
        "architecture-is-markup": gguf((text_entry("general.architecture", "[/red]"),), one, data=128),
        "architecture-is-mathtext": gguf((text_entry("general.architecture", "$\\bad{$"),), one, data=128),
        "layers-a-text": gguf((ARCH, text_entry("llama.block_count", "many")), one, data=128),
        "layers-huge": gguf((ARCH, number_entry("llama.block_count", 2**32 - 1)), one, data=128),
        "layer-number-huge": gguf(tensors=(tensor(f"blk.{10**40}.a.weight", (32,)),), data=128),
        "nothing-in-it": gguf((), ()),
        "zeros-behind-magic": b"GGUF" + bytes(4096),
        "ones-behind-magic": b"GGUF" + b"\xff" * 4096,
        "text": b"<html>404</html>",
    }
    return found | dict(_truncated())


def safetensors(header: object, data: int = 8, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def one_tensor(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def safetensors_files() -> dict[str, bytes]:
    """Bad safetensors files by name."""
    two = one_tensor() | {"v": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}
    gap = one_tensor() | {"v": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}}
    return {
        "empty": b"",
        "seven-bytes": bytes(7),
        "length-overflows": safetensors(one_tensor(), length=BIG),
        "length-beyond": safetensors(one_tensor(), length=4096),
        "length-0": safetensors(one_tensor(), length=0),
        "header-not-json": safetensors(b"{"),
        "header-not-utf8": safetensors(b'{"\xff": 1}'),
        "header-a-list": safetensors([]),
        "header-deep": safetensors(b"[" * 100_000 + b"]" * 100_000),
        "header-deep-objects": safetensors(b'{"a":' * 70 + b"1" + b"}" * 70),
        "name-twice": safetensors(b'{"w":%b,"w":%b}' % ((json.dumps(one_tensor()["w"]).encode(),) * 2)),
        "entry-a-number": safetensors({"w": 1}),
        "no-offsets": safetensors({"w": {"dtype": "F32", "shape": [2]}}),
        "offsets-a-text": safetensors(one_tensor(data_offsets="08")),
        "offsets-one": safetensors(one_tensor(data_offsets=[8])),
        "offsets-negative": safetensors(one_tensor(data_offsets=[-8, 0])),
        "offsets-reversed": safetensors(one_tensor(data_offsets=[8, 0])),
        "offsets-floats": safetensors(one_tensor(data_offsets=[0.0, 8.0])),
        "offsets-huge": safetensors(one_tensor(data_offsets=[0, 10**400])),
        "offsets-beyond": safetensors(one_tensor(data_offsets=[0, 4096])),
        "offsets-overlap": safetensors(two, 12),
        "offsets-with-a-hole": safetensors(gap, 24),
        "shape-a-number": safetensors(one_tensor(shape=2)),
        "shape-negative": safetensors(one_tensor(shape=[-2, -1])),
        "shape-of-bools": safetensors(one_tensor(shape=[True, 2])),
        "shape-not-the-bytes": safetensors(one_tensor(shape=[3])),
        "shape-huge": safetensors(one_tensor(shape=[2**62] * 16)),
        "shape-of-a-million": safetensors(one_tensor(shape=[1] * 1_000_000)),
        "dtype-a-list": safetensors(one_tensor(dtype=[])),
        "data-missing": safetensors(one_tensor(), 0),
        "data-too-much": safetensors(one_tensor(), 9),
    }


PLAN = json.dumps(
    {
        "low": "IQ1_M", "high": "Q4_K_M", "ranking": "entropy", "low_layers": [0], "order": [0], "near_ties": [[0, 1]],
        "tensor_types": {"a": "IQ1_M"}, "predicted_bytes": 1, "predicted_file_bytes": 2, "bpw": 1.5,
        "budget": {"low_layers": 1}, "unsettled": {"0": 0.5}, "without_importance": ["a"],
        "predicted_kld": {"value": 0.1, "error": 0.1}, "compared": [{"name": "a", "file_bytes": 1, "kld": 0.1}],
        "predicted_speed": vars(PredictedSpeed(1.0, 1.0, 1.0, 1.0, 1, 1, 1.0, "Q4_K_M")),
    }
)  # fmt: skip
PROFILE = json.dumps(
    {
        "layers": [{"layer": 0, "entropy_bits": 1.0, "spread_bits": 0.1, "by_modality": {}, "n_tokens": 1}],
        "estimator": {
            "method": "m", "k": 1, "seeds": [0], "spread": "s", "token_vectors": {"text": 1}, "capacity": 1,
            "dtype": "d",
        },
        "calibration": {
            "sources": ["a"], "images": "a", "text": None, "revisions": {"a": "b"}, "alpha": 0.5, "n_multimodal": 1,
            "n_text": 1, "n_tokens": 1, "seed": 0, "sha256": "c", "skipped_images": [],
        },
        "rankings": {"seed-0": [1.0]}, "model": "m", "version": 1,
    }
)  # fmt: skip
RUN = json.dumps({"stages": {"plan": {"key": "a", "outputs": {"b": {"n_bytes": 1, "mtime_ns": 2, "sha256": "c"}}}}})
LINE = '{"prompt": "What is this?", "answers": ["a"]}\n'


def question_files() -> dict[str, bytes]:
    """Bad .jsonl files by name."""
    given = {
        "empty": "",
        "not-json": "{",
        "a-number": "7\n",
        "a-list": "[1, 2]\n",
        "no-prompt": '{"image": "a.png"}\n',
        "prompt-a-list": '{"prompt": []}\n',
        "image-a-number": '{"prompt": "x", "image": 5}\n',
        "image-nul": '{"prompt": "x", "image": "a\\u0000b.png"}\n',
        "image-missing": '{"prompt": "x", "image": "no.png"}\n',
        "image-a-folder": '{"prompt": "x", "image": "/"}\n',
        "image-a-device": '{"prompt": "x", "image": "/dev/zero"}\n',
        "image-name-too-long": '{"prompt": "x", "image": "%s"}\n' % ("a" * 5000),
        "answers-deep": '{"prompt": "x", "answers": [[[["a"]]]]}\n',
        "answers-an-object": '{"prompt": "x", "answers": {"a": 1}}\n',
        "half-a-surrogate": '{"prompt": "\\ud800"}\n',
        "half-a-surrogate-in-an-answer": '{"prompt": "x", "answers": ["\\ud800"]}\n',
        "deep": "[" * 100_000 + "]" * 100_000 + "\n",
        "long-line": '{"prompt": "' + "a" * 5_000_000 + '"}\n',
        "number-of-5000-digits": '{"prompt": "x", "n": 1' + "0" * 5000 + "}\n",
        "second-line-bad": LINE + "nonsense\n",
    }
    return {name: text.encode() for name, text in given.items()} | {
        "binary": bytes(range(256)) * 40,
        "zeros": bytes(6_000_000),
        "utf-16": LINE.encode("utf-16"),
    }
