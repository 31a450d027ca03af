"""Makes a checkpoint to train: configuration, tokenizer, processor, and random weights."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import easy_vqa_data
import tiny_vlm_models
from instrument import vocabulary
from luq_gguf.core.atomic import whole

LAYERS = 12
TOWER_BLOCKS = {"qwen2.5-vl": 6, "llava-1.5": 7}


def prepare(architecture: str, folder: Path, layers: int = LAYERS, seed: int = 0) -> int:
    """Write a checkpoint that transformers loads, and return how many weights it has. The same seed gives the same."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = sorted({*easy_vqa_data.all_questions(), *vocabulary.tokenizer_lines()})
    model, _ = tiny_vlm_models.build(
        architecture, folder, lines, easy_vqa_data.ANSWERS, layers, TOWER_BLOCKS[architecture]
    )
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = random_weights({name: tuple(w.shape) for name, w in load_file(path).items()}, layers, seed)
    write_weights(path, weights)
    return sum(weight.numel() for weight in weights.values())


def random_weights(shapes: Mapping[str, tuple[int, ...]], layers: int, seed: int) -> dict[str, Tensor]:
    """Return weights scaled by fan-in, and those of residual branches by depth, too: tiny models learn slowly from
    transformers' 0.02. Norms are 1 and biases 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in sorted(shapes.items()):
        if len(shape) < 2 and "class_embedding" not in name:
            weights[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
            continue
        weights[name] = torch.randn(shape, generator=generator) * _deviation(name, shape, layers)
    return weights


def _deviation(name: str, shape: tuple[int, ...], layers: int) -> float:
    if "class_embedding" in name:
        return 0.02
    if "embed_tokens" in name:
        return 0.25
    branch = name.endswith(("o_proj.weight", "down_proj.weight"))
    return math.prod(shape[1:]) ** -0.5 / (math.sqrt(2 * layers) if branch else 1.0)


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    with whole(path) as part:
        save_file({name: w.contiguous() for name, w in weights.items()}, part, metadata={"format": "pt"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("architecture", choices=TOWER_BLOCKS, help="whose configuration, prompt and vision tower")
    parser.add_argument("out", type=Path, help="the folder of the checkpoint")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"decoder layers (default: {LAYERS})")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")


def run(args: argparse.Namespace) -> None:
    n = prepare(args.architecture, args.out, args.layers, args.seed)
    print(f"{n / 1e6:.1f} M weights in {args.out}")
