#!/usr/bin/env python3
"""Write a checkpoint with a published model's shape and random weights, to test what depends only on the size.

.venv/bin/python scripts/make_random_checkpoint.py qwen2.5-vl-7b OUT [--layers 28] [--seed 0]
.venv/bin/python scripts/make_random_checkpoint.py llava-1.5-7b OUT

Configuration, vocabulary size, tensor names and shards are the published ones. Tokenizer and processor are those of the
tiny models in tests/models, whose tokens are the first of the vocabulary. Weights are drawn so that activations stay
finite, and are written tensor by tensor, so the script needs memory for the largest tensor only.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from luq_gguf.benchmarking.synthetic_model import BUILT_IN

LITTLE = Path(__file__).parents[1] / "tests" / "models"
SHARD_BYTES = 4_900_000_000
PIECE = 1 << 24  # weights drawn at once
COPIED = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
VISION = {
    "qwen2.5-vl-7b": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "window_size": 112,
        "tokens_per_second": 2,
        "patch_size": 14,
    },
    "llava-1.5-7b": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
RENAMED = {  # transformers' names to those of the published files
    "qwen2.5-vl-7b": {"model.language_model.": "model.", "model.visual.": "visual."},
    "llava-1.5-7b": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "lm_head.": "language_model.lm_head.",
    },
}


def configuration(shape: str, layers: int | None) -> Any:
    from transformers import LlavaConfig, Qwen2_5_VLConfig

    little = json.loads((LITTLE / _little(shape) / "config.json").read_text())
    text = {k: v for k, v in BUILT_IN[shape].items() if k not in ("architectures", "model_type", "vision_config")}
    text |= {"num_hidden_layers": layers or text["num_hidden_layers"]}
    text |= {key: little["text_config"].get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokens = {key: value for key, value in little.items() if key.endswith(("_token_id", "_token_index"))}
    if shape == "qwen2.5-vl-7b":
        rope = {"rope_type": "default", "rope_theta": text.pop("rope_theta"), "mrope_section": [16, 24, 24]}
        text = {k: v for k, v in text.items() if k != "rope_scaling"} | {"rope_parameters": rope}
        made: Any = Qwen2_5_VLConfig(text_config=text, vision_config=VISION[shape], **tokens)
        made.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    else:
        vision = VISION[shape] | {"model_type": "clip_vision_model"}
        text |= {"model_type": "llama"}
        made = LlavaConfig(text_config=text, vision_config=vision, image_seq_length=576, **tokens)
        made.architectures = ["LlavaForConditionalGeneration"]
    made.dtype = torch.bfloat16
    return made


def _little(shape: str) -> str:
    return "tiny-qwen2.5-vl" if shape.startswith("qwen") else "tiny-llava-1.5"


def tensors(config: Any, shape: str) -> dict[str, tuple[int, ...]]:
    """Return name -> shape, in transformers' order, under the published names."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    found = {}
    for name, tensor in model.state_dict().items():
        old = next((start for start in RENAMED[shape] if name.startswith(start)), "")
        found[RENAMED[shape].get(old, "") + name[len(old) :]] = tuple(tensor.shape)
    return found


def shards(shapes: dict[str, tuple[int, ...]]) -> list[dict[str, tuple[int, ...]]]:
    """Return shards in order, each below the limit unless a single tensor is above it."""
    found: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        held = sum(2 * math.prod(one) for one in found[-1].values())
        if found[-1] and held + 2 * math.prod(shape) > SHARD_BYTES:
            found.append({})
        found[-1][name] = shape
    return found


def draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Any:
    """Yield pieces of a tensor in bfloat16. Norms are one, biases are zero, and matrices roughly preserve a vector's
    length."""
    left = math.prod(shape)
    n_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    while left:
        count = min(left, PIECE)
        left -= count
        if name.endswith(".bias"):
            yield torch.zeros(count, dtype=torch.bfloat16)
        elif len(shape) == 1 and "embed" not in name:
            yield torch.ones(count, dtype=torch.bfloat16)
        else:
            yield (torch.randn(count, generator=generator) / math.sqrt(n_in)).to(torch.bfloat16)


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]], generator: torch.Generator) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at := at + 2 * math.prod(shape)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            for piece in draw(name, shape, generator):
                file.write(piece.view(torch.uint8).numpy().tobytes())


def write_processor(shape: str, folder: Path) -> None:
    """Write the tiny model's processor, with the published image sizes."""
    source = LITTLE / _little(shape)
    for name in COPIED:
        shutil.copy(source / name, folder / name)
    processor = json.loads((source / "processor_config.json").read_text())
    pictures = processor["image_processor"]
    if shape.startswith("qwen"):
        pictures["size"] = {"shortest_edge": 56 * 56, "longest_edge": 14 * 14 * 4 * 1280}
    else:
        pictures |= {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(VISION))
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="number of decoder layers  [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = configuration(args.shape, args.layers)
    parts = shards(tensors(config, args.shape))
    args.out.mkdir(parents=True)
    n_bytes = sum(2 * math.prod(shape) for part in parts for shape in part.values())
    free = shutil.disk_usage(args.out).free
    if n_bytes > free:
        parser.error(f"the weights take {n_bytes / 2**30:.1f} GiB, but the disk has only {free / 2**30:.1f} GiB free")
    config.to_json_file(args.out / "config.json")
    write_processor(args.shape, args.out)
    generator, weight_map = torch.Generator().manual_seed(args.seed), {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_shard(args.out / name, part, generator)
        weight_map |= dict.fromkeys(part, name)
        print(f"{name}: {len(part)} tensors", flush=True)
    index = {"metadata": {"total_size": n_bytes}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    main()
