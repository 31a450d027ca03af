"""LLaVA-1.5's vision half in a checkpoint: what its mmproj file has to say, and its tensors.

llama.cpp's converter has lost CLIP towers (conversion/llava.py knows Pixtral's only), its runtime has not.
"""

from __future__ import annotations

import re
from typing import Any

import gguf
import numpy as np

from luq_gguf.core.clip_vision import ClipVision
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import packages
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import load_processor

_TOWER = re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?")
_PROJECTOR = re.compile(r"^(?:model\.)?multi_modal_projector\.linear_([12])\.(weight|bias)$")
_UNUSED = re.compile(r"post_layernorm|position_ids$")  # hidden states are read before the last norm


def is_clip_llava(checkpoint: Checkpoint) -> bool:
    """Return whether the vision half is a CLIP tower, which llama.cpp's converter does not write."""
    vision = checkpoint.config.get("vision_config")
    kind = vision.get("model_type") if isinstance(vision, dict) else None
    return checkpoint.architecture == "LlavaForConditionalGeneration" and kind == "clip_vision_model"


def is_unused(checkpoint: Checkpoint, name: str) -> bool:
    """Return whether a tensor of the vision half has no part in what the model computes."""
    return is_clip_llava(checkpoint) and bool(_UNUSED.search(name))


def clip_vision(checkpoint: Checkpoint) -> ClipVision:
    """Return the tower and its projector. Raises CheckpointError for a variant that libmtmd would compute
    differently."""
    try:
        return _clip_vision(checkpoint)
    except CheckpointError:
        raise
    except Exception as error:  # what transformers raises, or its values lead to, where a config is not LLaVA's
        raise CheckpointError(
            f"transformers cannot read the config of {checkpoint.name}: {type(error).__name__}",
            "Check that the checkpoint is complete and unmodified.",
        ) from None


def _clip_vision(checkpoint: Checkpoint) -> ClipVision:
    from transformers import LlavaConfig

    config: Any = LlavaConfig.from_dict(checkpoint.config)
    tower = config.vision_config
    if config.vision_feature_select_strategy != "default":
        raise _unlike("keeps the class token (vision_feature_select_strategy full)")
    if config.projector_hidden_act != "gelu":
        raise _unlike(f"has a projector with {config.projector_hidden_act}")
    if tower.hidden_act not in ("quick_gelu", "gelu", "gelu_pytorch_tanh"):
        raise _unlike(f"has a vision tower with {tower.hidden_act}")
    layers = config.vision_feature_layer
    features = tuple(n if n >= 0 else tower.num_hidden_layers + 1 + n for n in np.atleast_1d(layers).tolist())
    if features != tuple(sorted(features)) or not 0 <= features[0] <= features[-1] <= tower.num_hidden_layers:
        raise _unlike(f"reads the vision layers {layers}")
    pictures = _image_processor(checkpoint)
    crops = bool(getattr(pictures, "do_center_crop", False))
    crop = _side(pictures.crop_size if crops else pictures.size)
    if crop != tower.image_size:
        raise _unlike(f"crops images to {crop} pixels for a tower of {tower.image_size}")
    mean, std = _scaling(pictures)
    return ClipVision(
        n_layers=tower.num_hidden_layers,
        width=tower.hidden_size,
        ffn_width=tower.intermediate_size,
        n_heads=tower.num_attention_heads,
        eps=tower.layer_norm_eps,
        activation=tower.hidden_act,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        text_width=config.text_config.hidden_size,
        feature_layers=features,
        image_mean=mean,
        image_std=std,
        stretches=not crops and not getattr(pictures, "do_pad", False) and {"height", "width"} <= _named(pictures.size),
    )


def _unlike(what: str) -> CheckpointError:
    return CheckpointError(
        f"This LLaVA {what}, which llama.cpp's LLaVA does not support.",
        "Choose a checkpoint in LLaVA-1.5's usual form.",
    )


def _image_processor(checkpoint: Checkpoint) -> Any:
    try:
        return load_processor(checkpoint.folder).image_processor
    except Exception as error:  # as above
        if refusal := packages.refusal(checkpoint.name, error):
            raise refusal from None
        raise CheckpointError(
            f"{checkpoint.name} has no usable image processor: {(str(error).splitlines() or [''])[0]}",
            "The checkpoint needs its preprocessor_config.json.",
        ) from None


def _scaling(pictures: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that make of pixels from 0 to 1 what a processor makes of pixels from 0 to 255:
    libmtmd has no other step."""
    scale = 255 * (pictures.rescale_factor if pictures.do_rescale else 1.0)
    mean, std = (pictures.image_mean, pictures.image_std) if pictures.do_normalize else ([0.0] * 3, [1.0] * 3)
    return tuple(float(v) / scale for v in mean), tuple(float(v) / scale for v in std)


def _named(size: Any) -> set[str]:
    return {name for name, side in dict(size).items() if side is not None}


def _side(size: Any) -> int:
    sizes = {int(v) for v in dict(size).values() if v is not None}
    return sizes.pop() if len(sizes) == 1 else -1


def vision_names(checkpoint: Checkpoint, vision: ClipVision) -> dict[str, str]:
    """Return HF name -> name in the mmproj file for the tensors of the tower and the projector, in the file's order.

    Raises CheckpointError naming a tensor without a name there.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, vision.n_layers)
    file_names: dict[str, str] = {}
    for hf_name in checkpoint.shapes:
        if match := _PROJECTOR.match(hf_name):
            file_names[hf_name] = (
                f"mm.{0 if match[1] == '1' else 2}.{match[2]}"  # libmtmd numbers the GELU between them
            )
        elif _TOWER.match(hf_name) and not _UNUSED.search(hf_name):
            plain = _TOWER.sub("vision_tower.vision_model.", hf_name)
            name = names.get_name(plain, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise CheckpointError(
                    f"The vision tensor {hf_name} has no name in llama.cpp's LLaVA.",
                    "luq-gguf cannot convert this model yet; please report this with the model's name.",
                )
            file_names[hf_name] = name
    return dict(sorted(file_names.items(), key=lambda item: item[1]))


def read_tensor(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """Return a float32 tensor of a checkpoint, reading its shard only."""
    import torch
    from safetensors import safe_open

    with safe_open(checkpoint.shards[name], framework="pt") as shard:
        tensor: torch.Tensor = shard.get_tensor(name)
        return np.asarray(tensor.float().numpy())
