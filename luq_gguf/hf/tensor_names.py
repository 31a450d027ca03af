"""HF module names -> GGUF tensor names, by gguf's own TensorNameMap and the tensors that the converter writes."""

from __future__ import annotations

from collections.abc import Collection

import gguf

from luq_gguf.core.errors import CheckpointError


class TensorNames:
    """The tensor names of one architecture and depth, limited to `tensors`, which the converter writes for the model.

    Raises CheckpointError where gguf does not know the architecture.
    """

    def __init__(self, arch: str, n_layers: int, tensors: Collection[str]) -> None:
        architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        if arch not in architectures:
            raise CheckpointError(
                f"The installed gguf package does not know the architecture {arch}.", "Upgrade the gguf package."
            )
        self._map = gguf.get_tensor_name_map(architectures[arch], n_layers)
        self._tensors = frozenset(tensors)
        self.arch = arch

    def weight(self, hf_name: str) -> str | None:
        """Return the GGUF tensor of a weight such as ``model.layers.0.mlp.up_proj``; None where the file has none.

        A vision-language model's text half is named as if it stood alone, as the converter does.
        """
        name = hf_name.replace("language_model.", "").replace("text_model.", "")
        name = name if name.startswith(("model.", "lm_head")) else f"model.{name}"
        gguf_name: str | None = self._map.get_name(f"{name}.weight", try_suffixes=(".weight",))
        return gguf_name if gguf_name in self._tensors else None
