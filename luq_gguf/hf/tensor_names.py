"""HF tensor and module names -> GGUF tensor names, by gguf's own TensorNameMap."""

from __future__ import annotations

import re
from collections.abc import Mapping

import gguf

from luq_gguf.errors import CheckpointError

# What is not the text model: the converter writes it to the mmproj file, or not at all.
_NOT_TEXT = re.compile(
    r"(^|\.)(visual|vision_\w+|image_\w+|audio_\w+|mm_projector|multi_modal_projector|connector|embed_vision)(\.|$)"
    r"|rotary_emb\.inv_freq$"
)


class TensorNames:
    """The name map of one architecture and depth. Raises CheckpointError where gguf does not know the architecture."""

    def __init__(self, arch: str, n_layers: int) -> None:
        known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        if arch not in known:
            raise CheckpointError(
                f"The installed gguf package does not know the architecture {arch}.", "Upgrade the gguf package."
            )
        self._map = gguf.get_tensor_name_map(known[arch], n_layers)
        self.arch = arch

    def gguf_name(self, hf_name: str) -> str | None:
        """The GGUF name of a tensor such as ``model.layers.0.mlp.up_proj.weight``; None where it has none.

        A vision-language model's text half is named as if it stood alone, as the converter does.
        """
        name = hf_name.replace("language_model.", "").replace("text_model.", "")
        name = name if name.startswith(("model.", "lm_head")) else f"model.{name}"
        found: str | None = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        return found


def text_shapes(shapes: Mapping[str, tuple[int, ...]], names: TensorNames) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape (torch order) of the text model's tensors.

    Raises CheckpointError naming a tensor that belongs to the text model and has no GGUF name.
    """
    found = {}
    for hf_name, shape in shapes.items():
        if _NOT_TEXT.search(hf_name):
            continue
        name = names.gguf_name(hf_name)
        if name is None:
            raise CheckpointError(
                f"The tensor {hf_name} has no GGUF name in the architecture {names.arch}.",
                "luq-gguf cannot convert this model yet; please report it with the model's name.",
            )
        found[name] = shape
    return found
