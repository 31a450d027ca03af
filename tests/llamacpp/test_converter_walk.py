"""Which columns and rows of its sources a matrix has, learned from the operations that make it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from luq_gguf.llamacpp import converter

# What converters do, all in one: the graphs are made of llama.cpp's own lazy tensors.
PROGRAM = """
import json
import sys

program, walks, converter, checkpoint, out = sys.argv
sys.path[:0] = [converter, converter + "/gguf-py", walks]
import torch
from conversion import base
from converter_walk import Walk


def tensors(t):
    heads = t["model.layers.0.kv_b_proj.weight"].view(2, 5, 7)
    k, v = torch.split(heads, [3, 2], dim=1)
    yield "blk.0.attn_k_b.weight", k.transpose(1, 2)
    yield "blk.0.attn_v_b.weight", v
    yield "blk.0.attn_norm.weight", t["model.layers.0.norm.weight"] + 1
    for layer in (1, 2):
        each = []
        for n in range(3):
            w, s = (t[f"model.layers.{layer}.experts.{n}.{kind}"] for kind in "ws")
            each.append(w * s.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1))
        yield f"blk.{layer}.exps.weight", torch.stack(each, dim=0)
    a, b, c = (t[f"model.layers.3.{name}"] for name in "abc")
    turned = a.permute(1, 0).contiguous()
    gate, up = c.transpose(-1, -2).split(4, dim=-2)
    yield "blk.3.same.weight", a.reshape(2, 2, 6).swapaxes(0, 1).reshape(4, 6).contiguous()
    yield "blk.3.dealt.weight", a.reshape(4, 3, 2).permute(0, 2, 1).contiguous().reshape(4, 6)
    yield "blk.3.turned.weight", turned.view(6, 4)
    yield "blk.3.there_and_back.weight", turned.view(3, 2, 4).reshape(6, 4).permute(1, 0).contiguous()
    yield "blk.3.joined.weight", torch.cat([a, b], dim=0)
    yield "blk.3.wide.weight", torch.cat([a, b], dim=1)
    yield "blk.3.gate_exps.weight", gate
    yield "blk.3.doubled.weight", a * 2
    yield "blk.3.eager.weight", torch.zeros(4, 6)


walk = Walk()
walk.watch(base)
files = base.gguf.utility.SafetensorsLocal(checkpoint)
lazy = {name: base.LazyTorchTensor.from_local_tensor(tensor) for name, tensor in files.tensors.items()}
for name, tensor in tensors(lazy):
    walk.see(name, tensor)
with open(out, "w") as file:
    json.dump(walk.sources, file)
"""
SHAPES = {
    "model.layers.0.kv_b_proj.weight": (10, 7), "model.layers.0.norm.weight": (7,),
    "model.layers.3.a": (4, 6), "model.layers.3.b": (4, 6), "model.layers.3.c": (5, 6, 8),
}  # fmt: skip
EXPERTS = {
    layer: {f"model.layers.{layer}.experts.{n}.{kind}": shape for n in range(3) for kind, shape in kinds}
    for layer in (1, 2)
    for kinds in [(("w", (4, 6)), ("s", (2, 3)))]
}
ALL_ROWS = ((0, 4),)


@pytest.fixture(scope="module")
def learned(llama, tmp_path_factory):
    """What is learned of that program's tensors."""
    folder = tmp_path_factory.mktemp("walk")
    checkpoint, program, out = folder / "model.safetensors", folder / "program.py", folder / "walk.json"
    save_file({name: torch.zeros(shape) for name, shape in (SHAPES | EXPERTS[1] | EXPERTS[2]).items()}, checkpoint)
    program.write_text(PROGRAM)
    walks, converters = Path(converter.__file__).parent, llama.converter.resolve().parent
    command = [sys.executable, "-P", program, walks, converters, checkpoint, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return converter.read_sources(out)


def test_only_matrices_of_the_checkpoint_are_learned(learned):
    kinds = "same", "dealt", "turned", "there_and_back", "joined", "wide", "gate_exps", "doubled"
    wanted = {f"blk.3.{kind}.weight" for kind in kinds} | {f"blk.{layer}.exps.weight" for layer in (1, 2)}
    assert set(learned) == wanted | {"blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"}


def test_parts_of_a_matrix_have_its_columns_and_some_of_its_rows(learned):
    """Two heads of a key-value projection: 3 rows of each are keys, transposed, and 2 are values."""
    keys, values = learned["blk.0.attn_k_b.weight"], learned["blk.0.attn_v_b.weight"]
    assert keys.sources == values.sources == ("model.layers.0.kv_b_proj.weight",)
    assert (values.axis, values.order, values.rows) == (-1, None, ((3, 5), (8, 10)))
    assert keys.axis is None  # each head has other rows as its columns


@pytest.mark.parametrize(
    ("name", "axis", "order", "rows"),
    [
        ("same", -1, None, ALL_ROWS),  # rows in another order
        ("dealt", -1, ((0, 1), (2, 3), (4, 5), (1, 2), (3, 4), (5, 6)), ALL_ROWS),
        ("turned", -2, None, None),
        ("there_and_back", -1, None, ALL_ROWS),
        ("joined", -1, None, None),  # rows of two matrices
        ("wide", None, None, None),  # the columns of two matrices side by side
        ("gate_exps", -2, None, None),
        ("doubled", None, None, None),
    ],
)
def test_what_became_of_columns_and_rows_is_told(learned, name, axis, order, rows):
    part = learned[f"blk.3.{name}.weight"]
    assert (part.axis, part.order, part.rows) == (axis, order, rows)


def test_the_sources_are_named_with_their_shape(learned):
    assert learned["blk.3.joined.weight"].sources == ("model.layers.3.a", "model.layers.3.b")
    assert learned["blk.3.gate_exps.weight"].shape == (5, 6, 8)


@pytest.mark.parametrize("layer", [1, 2])
def test_stacked_experts_and_scaled_weights_are_recognized(learned, layer):
    """Weights in FP8 are multiplied by scales of their blocks; experts of a layer become one tensor."""
    part = learned[f"blk.{layer}.exps.weight"]
    assert set(part.sources) == set(EXPERTS[layer])
    assert (part.axis, part.order, part.shape) == (-1, None, (4, 6))
