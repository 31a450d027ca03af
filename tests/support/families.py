"""Small random checkpoints of the families that people publish, each from its own config class, with a tokenizer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from luq_gguf.hf.processor import images_and_text
from tiny_vlm_models import complete_tokenizer_config, train_tokenizer

SIDE = 112
LINES = [
    "what is the color of the shape in the picture? it is red, and the shape is a circle.",
    "user model assistant system",
    " is there a blue triangle, a yellow rectangle or a green one? yes, no, there is none of them.",
    "A model reads the picture and answers the question with one word, or with a longer sentence about it.",
]
TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.08,
}
_TURN = (
    "{% for m in messages %}START{{ ROLE }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}"
)
_CHAT = _TURN + "{{ c['text'] }}{% endif %}{% endfor %}END\n{% endfor %}{{ 'START' + ANSWER + '\n' }}"


def _chat(start: str, end: str, image: str, answer: str) -> str:
    text = _CHAT.replace("START", start).replace("END", end).replace("IMAGE", image)
    return text.replace("ROLE", "m['role']").replace("ANSWER", repr(answer))


@dataclass(frozen=True)
class Family:
    """How to build one. `image` is the text behind which the HF processor sees the picture, `media` what libmtmd must
    be given in its place; `drop` are the tokens of HF's prompt that stand for the picture; `side` its pixels."""

    name: str
    controls: tuple[str, ...]
    end: str
    add_bos: bool
    chat: str
    make: Callable[[Any, dict[str, int]], tuple[Any, Any]]
    image: str = ""
    media: str = "<__media__>"
    drop: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    side: int = SIDE
    hub_names: tuple[str, str] | None = None
    prefix: bool = True

    def build(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        controls = list(self.controls)
        tokenizer = train_tokenizer(
            folder, LINES * 20, controls, self.end, self.end, self.add_bos, self.whole, self.prefix
        )
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in controls}
        torch.manual_seed(0)
        model, processor = self.make(tokenizer, ids)
        if processor is tokenizer:
            tokenizer.chat_template = self.chat
        else:
            processor.chat_template = self.chat
        processor.save_pretrained(folder)
        complete_tokenizer_config(folder / "tokenizer_config.json", self.add_bos, self.prefix)
        model.to(torch.bfloat16).save_pretrained(folder)
        if self.hub_names:
            _rename(folder / "model.safetensors", *self.hub_names)
        return folder


def _rename(path: Path, old: str, new: str) -> None:
    """Tensors' names as on the Hub, where transformers 5 saves them under others."""
    from safetensors.torch import load_file, save_file

    tensors = {name.replace(old, new, 1): tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


QWEN_CONTROLS = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_CHAT = _chat("<|im_start|>", "<|im_end|>", QWEN_IMAGE, "assistant")
CHATML_CONTROLS = ("<|im_start|>", "<|im_end|>")
CHATML = _chat("<|im_start|>", "<|im_end|>", "", "assistant")


VICUNA = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}ASSISTANT:"
)


def _qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    found = {f"{kind}_token_id": ids[token] for kind, token in names.items()}
    return found | {"vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}


def _qwen_processor(kind: type, tokenizer: Any, **options: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    tokenizer.vision_start_token, tokenizer.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": SIDE * SIDE, "longest_edge": 448 * 448}, **options)
    return images_and_text(kind)(image_processor=pictures, tokenizer=tokenizer)


def _qwen2_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "tie_word_embeddings": True}
    vision = {"depth": 3, "embed_dim": 128, "hidden_size": 256, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_qwen_ids(ids))
    return Qwen2VLForConditionalGeneration(config), _qwen_processor(Qwen2VLProcessor, tokenizer)


def _qwen3_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "num_hidden_layers": 3}
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **_qwen_ids(ids))
    processor = _qwen_processor(Qwen3VLProcessor, tokenizer, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Qwen3VLForConditionalGeneration(config), processor


def _gemma3(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    text = TEXT | {
        "vocab_size": len(tokenizer), "head_dim": 64, "query_pre_attn_scalar": 64, "num_hidden_layers": 6,
        "sliding_window": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=16,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )
    tokenizer._set_model_specific_special_tokens(
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    )
    pictures = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_seq_length=16)
    processor = Gemma3Processor(image_processor=pictures, tokenizer=tokenizer, image_seq_length=16)
    return Gemma3ForConditionalGeneration(config), processor


def _smolvlm(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"}
    text |= {"architectures": ["VLlama3ForCausalLM"], "pad_token_id": tokenizer.pad_token_id}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14,
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=ids["<image>"], tie_word_embeddings=False
    )
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = images_and_text(SmolVLMProcessor)(pictures, tokenizer, None, image_seq_len=16)
    return SmolVLMForConditionalGeneration(config), processor


def _llava(layers: Any = -2) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"}
        vision = {
            "hidden_size": 128, "intermediate_size": 256, "projection_dim": 64, "num_hidden_layers": 3,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14, "model_type": "clip_vision_model",
        }  # fmt: skip
        config = LlavaConfig(
            text_config=text, vision_config=vision, image_token_index=ids["<image>"], image_seq_length=64,
            vision_feature_layer=layers,
        )  # fmt: skip
        pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
        processor = LlavaProcessor(
            pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default", image_token="<image>",
            num_additional_image_tokens=1,
        )  # fmt: skip
        return LlavaForConditionalGeneration(config), processor

    return make


def _text(config: str, model: str, **more: Any) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        import transformers

        settings = TEXT | {"vocab_size": len(tokenizer)} | more
        return getattr(transformers, model)(getattr(transformers, config)(**settings)), tokenizer

    return make


FAMILIES = (
    Family("qwen2-vl", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen2_vl, QWEN_IMAGE, drop=("<|image_pad|>",)),
    Family("qwen3-vl", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen3_vl, QWEN_IMAGE, drop=("<|image_pad|>",)),
    Family(
        "gemma-3",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        "<end_of_turn>",
        True,
        _chat("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "model"),
        _gemma3,
        "<start_of_image>",
        media="\n\n<__media__>\n\n",  # transformers sets the picture apart by blank lines, libmtmd does not
        drop=("<image_soft_token>",),
        prefix=False,
        hub_names=("vision_tower.", "vision_tower.vision_model."),
    ),
    Family(
        "smolvlm2",
        ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>",
         *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2))),
        "<end_of_utterance>",
        True,
        _chat("<|im_start|>", "<end_of_utterance>", "<image>", "assistant"),
        _smolvlm,
        "<image>",
        drop=("<image>",),
        whole=("\n\n",),
        prefix=False,
        side=2 * SIDE,
    ),
    *(
        Family(name, ("<image>", "<pad>"), "</s>", True, VICUNA, _llava(layers), "<image>", drop=("<image>",))
        for name, layers in (("llava-1.5", -2), ("llava-of-two-layers", [-2, -1]))
    ),
    Family("llama", CHATML_CONTROLS, "<|im_end|>", True, CHATML, _text("LlamaConfig", "LlamaForCausalLM")),
    Family(
        "qwen2.5", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        _text("Qwen2Config", "Qwen2ForCausalLM", tie_word_embeddings=True),
    ),
    Family(
        "qwen3", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        _text("Qwen3Config", "Qwen3ForCausalLM", head_dim=64),
    ),
)  # fmt: skip
