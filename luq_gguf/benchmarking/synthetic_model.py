"""Makes a model's geometry without its weights: a checkpoint of a config, a made-up tokenizer and a hole for weights.

llama.cpp's converter reads it like the real one, so tensors, names and stock types are the real ones.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core import json_input, process_state
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import download, multi_token
from luq_gguf.llamacpp import converter, quantize
from luq_gguf.llamacpp.gguf import header_only, reader
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.method.tensor_types import layer_of

_QWEN = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1e6,
    "max_position_embeddings": 128000,
    "num_key_value_heads": 2,
    "vision_config": {"model_type": "qwen2_5_vl", "depth": 1},
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "vocab_size": 32064,
}
# The numbers are those of the models' published config.json; LLaVA-1.5's text half is a Llama.
BUILT_IN: Mapping[str, dict[str, Any]] = {
    "qwen2.5-vl-7b": _QWEN
    | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "qwen2.5-vl-3b": _QWEN
    | {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"vocab_size": 151936, "tie_word_embeddings": True},
    "llava-1.5-7b": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llava-1.5-13b": _LLAMA
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}


def synthetic_outline(model: str, folder: Path, llama: LlamaCpp) -> reader.GGUFInfo:
    """Make the header-only GGUF of a built-in name, a folder with config.json, or a Hub id, of which only config.json
    is downloaded.

    The header-only GGUF is written to `folder`. Raises CheckpointError for a config that transformers or llama.cpp does
    not support.
    """
    config = _config(model)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    shapes, config = _tensors(config, model)
    multi = multi_token.agreeing(config, shapes)  # transformers makes no such layers
    (checkpoint / "config.json").write_text(json.dumps(multi.config))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (checkpoint / "tokenizer.model").write_bytes(_tokenizer())
    sparse_safetensors(checkpoint / "model.safetensors", shapes)
    tensors = converter.text_tensors(llama, checkpoint, folder / "metadata.gguf", model, options=multi.options)
    shutil.rmtree(checkpoint)
    return header_only.write(folder / "skeleton.gguf", folder / "metadata.gguf", tensors)


def geometry(source: reader.GGUFInfo, llama: LlamaCpp, low: str, high: str) -> Geometry:
    """Return a header-only GGUF with both possible types of its tensors, all of which count as having importance."""
    n_layers = 1 + max(layer for t in source.tensors if (layer := layer_of(t.name)) is not None)
    everything = {tensor.name for tensor in source.tensors}
    types = reader.check_type(low, "--low"), quantize.check_ftype(llama, high)
    return Geometry(source, quantize.model_tensors(llama, source, *types, n_layers=n_layers, has_imatrix=everything))


def spread_layers(n_layers: int, count: int) -> tuple[int, ...]:
    """Return `count` layers, evenly spaced from front to back: without entropies one choice is as good as another, but
    the stock mixtures give some depths more bits, and this takes its share of all."""
    return tuple(i * n_layers // count for i in range(count))


def _config(model: str) -> dict[str, Any]:
    if model.lower() in BUILT_IN:
        return BUILT_IN[model.lower()]
    path = Path(model).expanduser() / "config.json"
    if not path.is_file():
        if Path(model).exists() or "/" not in model:
            names = ", ".join(BUILT_IN)
            raise CheckpointError(
                f"{model} is not a folder with a config.json, a Hub id, or a built-in name.",
                f"Built-in names: {names}.",
            )
        path = download.fetch_config(model)
    try:
        return dict(json_input.read(path))
    except (ValueError, TypeError):
        raise CheckpointError(f"{path} is not valid JSON.", "Give a folder with a model's config.json.") from None


def _tensors(config: dict[str, Any], model: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Return names and shapes as transformers makes them, without memory for weights, and the config they belong to.

    If transformers knows the text half as a model of its own, only that is made.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        kind = str(config.get("model_type", ""))
        model_config = AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})
        text = model_config.get_text_config()
        alone = type(text) in AutoModelForCausalLM._model_mapping
        with process_state.TORCH, torch.device("meta"):
            network: Any = (AutoModelForCausalLM if alone else AutoModelForImageTextToText).from_config(
                text if alone else model_config
            )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"transformers cannot make a model from {model}'s config.json: {str(error).splitlines()[0]}",
            "Give a vision-language or causal language model that the installed transformers supports.",
        ) from None
    ties = any(
        getattr(part, "tie_word_embeddings", False) for part in (network.config, network.config.get_text_config())
    )
    tied = set(network._tied_weights_keys or ()) if ties else set()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name not in tied}
    described = network.config.to_dict() | {"architectures": [type(network).__name__]}
    return shapes, described


def _tokenizer() -> bytes:
    """Return a SentencePiece model of a few tokens; the converter pads the vocabulary to the config's size."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["speed and size are of a geometry alone"] * 10),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def sparse_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of float16 tensors with these shapes and a hole for their data."""
    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at := at + 2 * math.prod(shape)]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
