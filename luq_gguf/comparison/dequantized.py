"""Writes a checkpoint in which some weights are others: what a simulated quantizer has left of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from luq_gguf.core import atomic
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.parameter_names import parameters_of

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def write(checkpoint: Checkpoint, model: nn.Module, weights: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write a copy of the checkpoint to `folder` whose tensors are `weights`, float32 by the names of the model's
    parameters, wherever it has these; all others stay as they are, to the bit.

    Raises CheckpointError where a weight is not a tensor of the checkpoint by itself.
    """
    parameters = parameters_of(model, checkpoint.shapes)
    of_tensor = {name: weights[parameter] for name, parameter in parameters.items() if parameter in weights}
    fitting = {name for name, values in of_tensor.items() if values.shape == checkpoint.shapes[name]}
    missing = weights.keys() - {parameters[name] for name in fitting}
    if missing:
        raise CheckpointError(
            f"{min(missing)} is not a tensor of {checkpoint.name} by itself.",
            "Quantizers that the paper compares with are simulated for models whose files have each matrix apart.",
        )
    with atomic.whole_folder(folder) as new:
        for path in checkpoint.folder.iterdir():
            if path.is_file() and path.suffix not in _WEIGHTS and not path.name.endswith(".index.json"):
                shutil.copyfile(path, new / path.name)
        tensors: dict[str, torch.Tensor] = {}
        for shard in sorted(set(checkpoint.shards.values())):
            with safe_open(shard, framework="pt") as file:
                names = file.keys()
                for name in names:
                    changed = of_tensor.get(name)
                    tensors[name] = file.get_tensor(name) if changed is None else torch.from_numpy(changed)
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
