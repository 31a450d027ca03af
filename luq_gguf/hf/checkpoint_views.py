"""Forms of checkpoints that transformers saves and llama.cpp's converter does not know, and how it is shown them.

The converter knows the tensors' names and layouts of the Hub. A model that transformers 5 made, or loaded and saved
again, may have others, and then the converter would leave tensors out or write them wrongly. `FORMS` is the table of
those forms, and `HALVES` that of architectures whose halves it knows by other names. Of what is shown, weights are
neither copied nor kept: names change when the converter lists the tensors, and axes when it reads one. A form that is
not in the tables is compared with what transformers computes and refused (`run/structure.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from luq_gguf.core.checkpoint_view import Architecture, Half, Rule, View

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """A form in which checkpoints of these architectures are saved, and how the converter is shown it.

    Some tensors have names in which `names` is found, and shapes of which `told` says so, from the config, a name and
    its shape. `vision` is the model_type of the vision half, where the architectures have others too.
    """

    architectures: tuple[str, ...]
    names: str
    shown: View
    vision: str | None = None
    told: Callable[[Mapping[str, Any], str, Shape], bool] = lambda config, name, shape: True

    def is_of(self, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> bool:
        """Return whether a checkpoint has this form."""
        if config["architectures"][0] not in self.architectures:
            return False
        if self.vision and _part(config, "vision_config").get("model_type") != self.vision:
            return False
        return any(re.search(self.names, name) and self.told(config, name, shape) for name, shape in shapes.items())


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def find(config: Mapping[str, Any], shapes: Mapping[str, Shape], unused: Collection[str] = ()) -> View:
    """Return how the converter is shown a checkpoint, from its config and the shapes of its tensors: nothing where it
    has the form that the converter knows. `unused` tensors are left out."""
    left_out = tuple(Rule(f"^{re.escape(name)}$", left_out=True) for name in sorted(unused))
    rules = tuple(rule for form in FORMS if form.is_of(config, shapes) for rule in form.shown)
    return _halves(config) + left_out + rules


def _halves(config: Mapping[str, Any]) -> tuple[Architecture, ...]:
    """The architectures of the halves, where config.json does not name them as the checkpoints of the Hub do."""
    text, vision = HALVES.get(config["architectures"][0], (None, None))
    if text == _OF_ITS_TYPE:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        text = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(_part(config, "text_config").get("model_type")))
    named: tuple[tuple[Half, str | None, str], ...] = (
        ("text", text, "text_config"),
        ("vision", vision, "vision_config"),
    )
    return tuple(Architecture(name, half) for half, name, part in named if name and not _named(_part(config, part)))


def _named(part: Mapping[str, Any]) -> bool:
    return bool(part.get("architectures"))


def _has_outputs_as_rows(config: Mapping[str, Any], name: str, shape: Shape) -> bool:
    """Whether experts are [experts, outputs, inputs]; of the two kinds, one is not square and tells it."""
    width = _part(config, "text_config").get("hidden_size")
    ours, theirs = (-1, -2) if "gate_up" in name else (-2, -1)
    return len(shape) == 3 and shape[ours] == width != shape[theirs]


_SHORT_TOWER = r"^(?:model\.)?vision_tower\.(?!vision_model\.)"
_EXPERTS = r"\.mlp\.experts\.(?:gate_up_proj|down_proj)$"

_OF_ITS_TYPE = "that of its model_type"  # the class of transformers for the text half as a model of its own

# What config.json calls the architecture -> those by which the converter knows its text and its vision half (None: the
# same), unless config.json names them.
HALVES: dict[str, tuple[str | None, str | None]] = {
    "InternVLForConditionalGeneration": (_OF_ITS_TYPE, "InternVisionModel"),
    "Lfm2VlForConditionalGeneration": (_OF_ITS_TYPE, None),
    "LightOnOcrForConditionalGeneration": (_OF_ITS_TYPE, "LightOnOCRForConditionalGeneration"),
    "Glm46VForConditionalGeneration": ("Glm4vForConditionalGeneration", "Glm4vForConditionalGeneration"),
}

_LLAMA_4_NORM = r"^vision_model\.model\.layers\.(\d+)\.post_attention_layernorm\."

FORMS: tuple[Form, ...] = (
    Form(  # gguf's names have this one twice, and the converter takes the one of Gemma 4: a norm behind the attention
        ("Llama4ForConditionalGeneration",),
        _LLAMA_4_NORM,
        (Rule(_LLAMA_4_NORM, r"vision_tower.vision_model.encoder.layers.\1.layer_norm2.", half="vision"),),
    ),
    Form(  # as transformers calls its modules
        ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        r"^model\.visual\.",
        (Rule(r"^model\.visual\.", "visual.", half="vision"),),
    ),
    Form(
        ("InternVLForConditionalGeneration",),
        r"^(?:vision_tower|multi_modal_projector)\.",
        (Rule(r"^(?=(?:vision_tower|multi_modal_projector)\.)", "model.", half="vision"),),
    ),
    # The vision half has a row of the embeddings: the one of [IMG_BREAK]. The converter looks for it after it has left
    # out what is in the language model.
    Form(
        ("LlavaForConditionalGeneration", "Mistral3ForConditionalGeneration"),
        r"(?:^|\.)language_model\.(?:model\.)?embed_tokens\.weight$",
        (Rule(r"^(?:model\.)?language_model\.(?:model\.)?(?=embed_tokens\.weight$)", "", half="vision"),),
        vision="pixtral",
    ),
    Form(
        ("LlavaForConditionalGeneration", "Mistral3ForConditionalGeneration"),
        r"^model\.(?:vision_tower|multi_modal_projector)\.",
        (Rule(r"^model\.(?=(?:vision_tower|multi_modal_projector)\.)", "", half="vision"),),
        vision="pixtral",
    ),
    # The tower as a model of its own, which transformers 5 saves without the name of the model around it.
    Form(
        ("Lfm2VlForConditionalGeneration", "Gemma3ForConditionalGeneration"),
        _SHORT_TOWER,
        (Rule(_SHORT_TOWER, "vision_tower.vision_model.", half="vision"),),
    ),
    Form(  # a head of its own, which the converter leaves out of the mmproj of other families
        ("Lfm2VlForConditionalGeneration",),
        r"^lm_head\.",
        (Rule(r"^lm_head\.", left_out=True, half="vision"),),
    ),
    # The Hub has [experts, inputs, outputs], as the layer was computed before transformers 5.
    Form(
        ("Qwen3VLMoeForConditionalGeneration",),
        _EXPERTS,
        (Rule(_EXPERTS, axes=(0, 2, 1), half="text"),),
        told=_has_outputs_as_rows,
    ),
)
