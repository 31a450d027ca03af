"""Layers are quantized one after another, on inputs that quantized layers make."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from luq_gguf.calibration.batches import batches
from luq_gguf.comparison import dequantized
from luq_gguf.comparison.sequential import quantize_layers
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf.devices import Placement
from luq_gguf.hf.model import load_reference

TINY = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
DATA = CalibrationData((), (), "a red circle and a blue square. " * 100, 2, 0.0, 0, "f" * 64)


@pytest.fixture
def reference(tiny_model):
    checkpoint = checkpoints.open_checkpoint(str(tiny_model))
    model, processor = load_reference(checkpoint, Placement(torch.device("cpu"), exact=True))
    return checkpoint, model, list(batches(model, processor, DATA))


def unchanged(weights, products):
    return weights


@TINY
def test_a_quantizer_that_changes_nothing_leaves_the_model_as_it_was(reference):
    _, model, data = reference
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    replaced = quantize_layers(model, data, {1: unchanged, 3: unchanged})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name.split("layers.")[1].split(".")[0] for name in replaced} == {"1", "3"}
    assert len(replaced) == 2 * 7  # q, k, v, o, gate, up, down


@TINY
def test_a_layer_is_shown_the_inputs_that_quantized_layers_make(reference):
    _, model, data = reference
    shown = []

    def kept(weights, products):
        shown.append(products)
        return weights

    def zeros(weights, products):
        return np.zeros_like(weights)

    quantize_layers(model, data, {0: zeros, 1: kept})
    hidden = []
    layer = model.base_model.language_model.layers[1]
    handle = layer.self_attn.q_proj.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    with torch.inference_mode():  # its first layer adds nothing by now
        for batch in data:
            model.base_model(**batch.inputs, use_cache=False)
    handle.remove()
    rows = torch.cat([x[batch.valid] for x, batch in zip(hidden, data, strict=True)])
    assert np.allclose(shown[0], (rows.T @ rows).numpy(), rtol=1e-3, atol=1e-2)


@TINY
def test_what_is_written_differs_in_the_quantized_matrices_alone(reference, tmp_path):
    checkpoint, model, data = reference
    replaced = quantize_layers(model, data, {2: lambda weights, products: weights * 0.5})
    dequantized.write(checkpoint, model, replaced, tmp_path / "new")
    written = checkpoints.open_checkpoint(str(tmp_path / "new"))
    assert written.shapes == checkpoint.shapes
    changed = set()
    with safe_open(tmp_path / "new" / "model.safetensors", "pt") as new:
        for name, shard in checkpoint.shards.items():
            with safe_open(shard, "pt") as old:
                if not torch.equal(new.get_tensor(name), old.get_tensor(name)):
                    changed.add(name)
                    assert torch.equal(new.get_tensor(name), old.get_tensor(name).float() * 0.5)
    assert len(changed) == 7
    assert all("layers.2." in name for name in changed)


@TINY
def test_a_weight_that_is_no_tensor_of_the_checkpoint_is_refused(reference, tmp_path):
    checkpoint, model, _ = reference
    with pytest.raises(CheckpointError, match="by itself"):
        dequantized.write(checkpoint, model, {"nobody.weight": np.zeros((2, 2), np.float32)}, tmp_path / "new")
    assert not (tmp_path / "new").exists()
