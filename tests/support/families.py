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
    be given in its place; `drop` are the tokens of HF's prompt that stand for the picture; `side` its pixels. A
    `byte_level` tokenizer is known to `any_tokenizer_environment` alone. `more`: tensors that transformers ignores."""

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
    byte_level: bool = False
    more: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None

    def build(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        controls = list(self.controls)
        if self.byte_level:
            tokenizer = _byte_level_tokenizer(controls, self.end)
        else:
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
        if not self.byte_level:
            complete_tokenizer_config(folder / "tokenizer_config.json", self.add_bos, self.prefix)
        model.to(torch.bfloat16).save_pretrained(folder)
        if self.hub_names:  # tensors' names as on the Hub, where transformers 5 saves them under others
            old, new = self.hub_names
            _change(folder, lambda tensors: {name.replace(old, new, 1): t for name, t in tensors.items()})
        if self.more:
            _change(folder, lambda tensors: tensors | self.more(tensors))
        return folder


def _change(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    changed = change(load_file(path))
    save_file({name: tensor.clone() for name, tensor in changed.items()}, path, metadata={"format": "pt"})


def _byte_level_tokenizer(controls: list[str], end: str) -> Any:
    import json

    from tokenizers import ByteLevelBPETokenizer
    from transformers import AddedToken, Qwen2Tokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(LINES * 20, vocab_size=480, min_frequency=2, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, unk_token=end, eos_token=end, pad_token=end)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    return tokenizer


def any_tokenizer_environment(folder: Path, llama: Any) -> dict[str, str]:
    """Variables under which luq-gguf uses the pinned tools and a converter that takes any byte-level tokenizer."""
    folder.mkdir()
    (folder / "bin").symlink_to(llama.tool("llama-quantize").parent)
    (folder / llama.converter.name).symlink_to(Path(__file__).parent / "any_tokenizer" / llama.converter.name)
    return {"LUQ_LLAMA_CPP": str(folder), "LUQ_TEST_CONVERTER": str(llama.converter)}


def _ernie_mtp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Heads that predict further tokens: neither transformers nor the converter reads them."""
    layer = {name: t for name, t in tensors.items() if name.startswith("model.layers.0.")}
    block = {name.replace("model.layers.0.", "model.mtp_block.0."): t for name, t in layer.items()}
    return block | {"model.mtp_linear_proj.0.weight": torch.zeros(256, 512)}


def _qwen_mtp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, but the converter keeps them as a block behind the last layer."""
    start = "model.language_model.layers.3."
    block = {name.replace(start, "mtp.layers.0."): t for name, t in tensors.items() if name.startswith(start)}
    norms = ("mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden")
    return block | {"mtp.fc.weight": torch.zeros(256, 512)} | {f"{name}.weight": torch.ones(256) for name in norms}


QWEN_CONTROLS = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_CHAT = _chat("<|im_start|>", "<|im_end|>", QWEN_IMAGE, "assistant")
CHATML_CONTROLS = ("<|im_start|>", "<|im_end|>")
CHATML = _chat("<|im_start|>", "<|im_end|>", "", "assistant")


LLAMA_3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}  # fmt: skip
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


def _qwen3_5(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor

    rope = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }  # fmt: skip
    text = TEXT | {
        "vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "num_hidden_layers": 4,
        "full_attention_interval": 4, "mtp_num_hidden_layers": 1,
        "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "num_position_embeddings": 64,
    }  # fmt: skip
    config = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=False, **_qwen_ids(ids))
    processor = _qwen_processor(Qwen3VLProcessor, tokenizer, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Qwen3_5ForConditionalGeneration(config), processor


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
        settings |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        return getattr(transformers, model)(getattr(transformers, config)(**settings)), tokenizer

    return make


FAMILIES = (
    Family("qwen2-vl", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen2_vl, QWEN_IMAGE, drop=("<|image_pad|>",)),
    Family("qwen3-vl", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen3_vl, QWEN_IMAGE, drop=("<|image_pad|>",)),
    Family(
        "qwen3.5", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen3_5, QWEN_IMAGE, drop=("<|image_pad|>",),
        byte_level=True, more=_qwen_mtp,
    ),
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
    Family(
        "llama-3", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        _text("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True, rope_parameters=LLAMA_3_ROPE),
    ),
    Family(
        "phi", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        _text("Phi3Config", "Phi3ForCausalLM", sliding_window=2047),
    ),
    Family(
        "mixtral", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        _text("MixtralConfig", "MixtralForCausalLM", num_local_experts=8, num_experts_per_tok=2),
    ),
    Family(
        "ernie-4.5-moe", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        _text(
            "Ernie4_5_MoeConfig", "Ernie4_5_MoeForCausalLM", moe_num_experts=8, moe_k=2, moe_num_shared_experts=1,
            moe_intermediate_size=256, moe_layer_start_index=1, num_hidden_layers=3, tie_word_embeddings=True,
        ),
        prefix=False,
        more=_ernie_mtp,
    ),
    Family(
        "qwen3-moe", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        _text(
            "Qwen3MoeConfig", "Qwen3MoeForCausalLM", head_dim=64, num_experts=8, num_experts_per_tok=2,
            moe_intermediate_size=256, norm_topk_prob=True,
        ),
        byte_level=True,
    ),
)  # fmt: skip
