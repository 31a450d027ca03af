"""Whether the reference model sees a picture: what its processor makes of one is held against the modules.

A processor that drops pictures, or passes them on under a name that the model does not read, would leave the whole
calibration blind, and nothing would fail.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf.checkpoint import Checkpoint

if TYPE_CHECKING:  # it takes two seconds to import, and most commands need none of it
    from torch import nn

_IMAGE_IDS = ("image_token_id", "image_token_index", "media_placeholder_token_id")
_HINT = "Check that preprocessor_config.json, processor_config.json and config.json are this model's own."


def check_processor(checkpoint: Checkpoint, processor: Any) -> None:
    """Raise CheckpointError where a model has a vision half, and its processor no part that takes pictures."""
    if not checkpoint.has_vision or getattr(processor, "image_processor", None) is not None:
        return
    from transformers import __version__

    raise CheckpointError(
        f"{checkpoint.name} reads pictures, but transformers {__version__} finds no processor for them, so it would be "
        "calibrated blind.",
        "Check that preprocessor_config.json or processor_config.json of this model is there and names its "
        "processor_class.",
    )


def check_inputs(
    checkpoint: Checkpoint, processor: Any, model: nn.Module, text_ids: list[int], inputs: Mapping[str, Any]
) -> None:
    """Check what a processor has made of a prompt with a picture: there are tokens for the picture, which the same
    prompt without it, `text_ids`, does not have, and a tensor of pixels that the model reads and can compute with.

    `model` may have no weights. Raises CheckpointError.
    """
    from torch import Tensor

    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    ids = tensors["input_ids"][0].tolist() if "input_ids" in tensors else []
    known = image_ids(model, processor)
    if not (known & set(ids) if known else len(ids) > len(text_ids)):
        raise CheckpointError(
            f"transformers makes no image token of a picture in a prompt of {checkpoint.name}, so it would be "
            "calibrated blind.",
            "Check that chat template, tokenizer and processor_config.json are this model's own.",
        )
    parameters = inspect.signature(model.base_model.forward).parameters  # type: ignore[union-attr, arg-type]
    names = set(parameters) if "input_ids" in parameters else set(tensors)  # of a forward that passes all on
    pixels = {name: value for name, value in tensors.items() if name in names and value.is_floating_point()}
    if not pixels:
        outputs = ", ".join(sorted(set(inputs) - {"input_ids", "attention_mask"})) or "nothing"
        raise CheckpointError(
            f"The model of {checkpoint.name} reads nothing that its processor makes of a picture ({outputs}), so it "
            "would be calibrated blind.",
            _HINT,
        )
    entrances = _entrances(model)
    for name, value in pixels.items():
        if name.startswith("pixel_values") and entrances and not any(_takes(e, value.shape) for e in entrances):
            shape = " x ".join(map(str, value.shape))
            raise CheckpointError(
                f"The processor of {checkpoint.name} makes {shape} values of a picture, which its vision half does not "
                "take.",
                _HINT,
            )


def image_ids(model: nn.Module, processor: Any) -> set[int]:
    """Return the ids of the tokens that stand for pieces of a picture, by the names that families have for them. The
    model looks for its config's: a processor may call that one so for which it puts all of a picture."""
    return named_image_ids(model.config, processor)


def named_image_ids(config: Any, processor: Any) -> set[int]:
    """Return the same for a model that was not made: its config says it."""
    return set(_named_ids(config)) or set(_named_ids(processor))


def _named_ids(owner: Any) -> Iterator[int]:
    for name in _IMAGE_IDS:
        value = getattr(owner, name, None)
        if type(value) is int:
            yield value


def _entrances(model: nn.Module) -> list[nn.Conv2d | nn.Conv3d | nn.Linear]:
    """Layers of the vision half that pixels may go into first: its convolutions, or its linear layers if it has none.
    Empty where transformers does not say which half that is."""
    find: Any = getattr(model, "get_encoder", None)
    try:
        tower = find(modality="image") if find else model
    except TypeError:  # a model of the checkpoint's own code
        return []
    if tower in (model, model.base_model):
        return []
    from torch import nn

    layers = [layer for layer in tower.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear)]
    return [layer for layer in layers if not isinstance(layer, nn.Linear)] or layers


def _takes(entrance: nn.Conv2d | nn.Conv3d | nn.Linear, shape: tuple[int, ...]) -> bool:
    """Whether a layer takes pixels of a shape: channels, height and width behind each other, or patches that are
    flattened, here or by the model."""
    from torch import nn

    if isinstance(entrance, nn.Linear):
        patch, left = divmod(entrance.in_features, shape[-3]) if len(shape) > 2 and shape[-3] else (0, 1)
        return entrance.in_features == shape[-1] or (left == 0 and math.isqrt(patch) ** 2 == patch)
    kernel = entrance.kernel_size
    flat = entrance.in_channels * math.prod(kernel)
    if shape[-1] == flat:
        return True
    if len(shape) < 4 or shape[-3] != entrance.in_channels:
        return False
    return shape[-2] >= kernel[-2] and shape[-1] >= kernel[-1]
