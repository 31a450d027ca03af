"""Parsers of what others may have written either return a value or raise a LuqError, for any bytes at all."""

import contextlib
import json
import math
import struct
import tempfile
from pathlib import Path

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luq_gguf.core import json_input
from luq_gguf.core.errors import GGUFFileError, LuqError
from luq_gguf.core.types import Plan, Profile
from luq_gguf.hf import checkpoint, datasets, weights_files
from luq_gguf.llamacpp.gguf import imatrix, reader, validate
from luq_gguf.run import folder, serialization

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.text(max_size=8) | st.sampled_from(
    [*json.loads(hostile.PLAN), *json.loads(hostile.PROFILE), "stages", "outputs", "dtype", "shape", "data_offsets"]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)
numbers = st.sampled_from([0, 1, 2, 31, 32, 63, 64, 2**31, 2**32 - 1, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 1])
FOLDER = Path(tempfile.mkdtemp())


def attempt(name: str, content: bytes, parse):
    """What the parser makes of it, or its LuqError; anything else that it raises fails the test."""
    (FOLDER / name).write_bytes(content)
    try:
        return parse(FOLDER / name)
    except LuqError as error:
        return error


def is_sound(found) -> bool:
    """A refusal that says what to do, or a header whose tensors lie in the file."""
    if isinstance(found, LuqError):
        return bool(found.message and found.hint)
    data = sum(tensor.n_bytes for tensor in found.tensors)
    return found.header_bytes + data <= found.n_bytes and all(0 <= t.n_weights < 2**63 for t in found.tensors)


def is_sound_importance(found) -> bool:
    if isinstance(found, LuqError):
        return bool(found.message and found.hint)
    sums = [*found.in_sum2.values()]
    return all(np.isfinite(one).all() and (one >= 0).all() for one in sums)


def spoilt(whole: bytes, spoil) -> bytes:
    content = bytearray(whole)
    for at, byte in spoil:
        content[at % len(content)] = byte
    return bytes(content)


@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic(content):
    assert is_sound(attempt("a.gguf", b"GGUF\3\0\0\0" + content, reader.read))


@settings(max_examples=300)
@given(changes)
def test_a_gguf_with_some_bytes_changed(spoil):
    assert is_sound(attempt("a.gguf", spoilt(hostile.WHOLE, spoil), reader.read))
    assert is_sound_importance(attempt("imatrix.gguf", spoilt(hostile.imatrix(), spoil), imatrix.read))


@settings(max_examples=300)
@given(st.integers(8, len(hostile.WHOLE) - 8), numbers)
def test_a_gguf_with_a_large_number_anywhere(at, number):
    content = hostile.WHOLE[:at] + struct.pack("<Q", number) + hostile.WHOLE[at + 8 :]
    assert is_sound(attempt("a.gguf", content, reader.read))


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.integers(1, 99)), unique_by=lambda t: t[0]))
def test_a_right_gguf_is_taken_and_one_byte_less_is_not(tensors):
    at, described = 0, []
    for name, n in tensors:
        described.append(hostile.tensor(name, (n,), offset=at))
        at += -(-4 * n // 32) * 32
    end = at - (-4 * tensors[-1][1] % 32) if tensors else 0
    content = hostile.gguf((hostile.ARCH,), tuple(described), data=end)
    validate.check_bytes(content, "right")
    if tensors:
        with pytest.raises(GGUFFileError):
            validate.check_bytes(content[:-1], "cut")


@given(st.binary(max_size=200))
def test_any_bytes_as_json(content):
    try:
        found = json_input.parse(content)
    except ValueError:
        return
    assert json.loads(json.dumps(found)) == found


@settings(max_examples=200)
@given(values)
def test_any_json_as_any_file(value):
    content = json.dumps(value).encode()
    assert isinstance(attempt("plan.json", content, serialization.read_plan), Plan | LuqError)
    assert isinstance(attempt("profile.json", content, serialization.read_profile), Profile | LuqError)
    done = attempt("run.json", content, lambda path: folder.RunFolder(path.parent).is_done("plan", "a"))
    assert done is False or isinstance(done, LuqError)
    read = attempt("a.jsonl", content + b"\n", lambda path: list(datasets.read_jsonl(path)))
    assert isinstance(read, LuqError) or all(isinstance(one.prompt, str) for one in read)
    shapes = attempt("a.safetensors", hostile.safetensors(content), checkpoint.safetensors_shapes)
    assert shapes == {} or isinstance(shapes, LuqError), "there is no data behind the header"
    mapped = attempt("model.safetensors.index.json", content, lambda path: weights_files._weight_map(path.parent))
    assert isinstance(mapped, LuqError) or all(Path(name).name == name for name in mapped.values())


@given(st.dictionaries(st.sampled_from([*json.loads(hostile.PLAN)]), values))
def test_a_plan_with_other_values(value):
    found = attempt("plan.json", json.dumps(json.loads(hostile.PLAN) | value).encode(), serialization.read_plan)
    assert isinstance(found, Plan | LuqError)


@given(st.dictionaries(st.sampled_from([*json.loads(hostile.PROFILE)]), values))
def test_a_profile_with_other_values(value):
    found = attempt(
        "profile.json", json.dumps(json.loads(hostile.PROFILE) | value).encode(), serialization.read_profile
    )
    assert isinstance(found, Profile | LuqError)


@given(st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), values))
def test_a_safetensors_header_with_other_values(value):
    content = hostile.safetensors(hostile.one_tensor(**value))
    found = attempt("a.safetensors", content, checkpoint.safetensors_shapes)
    assert isinstance(found, LuqError) or all(2**40 > math.prod(shape) >= 0 for shape in found.values())


@given(st.text(max_size=40))
def test_no_recorded_name_leads_outside(name):
    content = json.loads(hostile.RUN)
    content["stages"]["plan"]["outputs"] = {name: content["stages"]["plan"]["outputs"]["b"]}
    (FOLDER / "run.json").write_text(json.dumps(content))
    run = folder.RunFolder(FOLDER)
    with contextlib.suppress(LuqError):
        for known in run.outputs("plan"):
            assert run.file(known).resolve().is_relative_to(FOLDER.resolve())
