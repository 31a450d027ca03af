"""The tiny models of both architectures that are trained here: configuration, tokenizer, processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import sentencepiece
from torch import Tensor, nn

from luq_gguf.hf.processor import images_and_text
from luq_gguf.workflows.easy_vqa import SIDE

VOCAB = 768
ARCHITECTURES = ("qwen2.5-vl", "llava-1.5")
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] == 'user' %} {% else %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_CONTROLS = {
    "qwen2.5-vl": [
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ],
    "llava-1.5": ["<image>", "<pad>"],
}
_LANGUAGE = """ user assistant system
 user
 assistant
 system
USER: what is it? ASSISTANT: it is a shape.
The picture shows one shape on a pale ground. The shape has a color. There is a circle, a rectangle or a triangle.
A model reads the picture and answers the question with one word: yes or no, a shape, or a color.
"""


def build(
    architecture: str,
    folder: Path,
    questions: list[str],
    answers: tuple[str, ...],
    layers: int = 12,
    tower_blocks: int | None = None,
):
    """Return a random model and its processor; tokenizer, processor and configuration are saved in the folder.

    `layers` are the decoder's; `tower_blocks` those of the vision tower, 4 (Qwen) or 5 (LLaVA, which does not read the
    last) if not given.
    """
    tokenizer = _tokenizer(architecture, folder, questions, answers)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _CONTROLS[architecture]}
    if architecture == "qwen2.5-vl":
        model, processor = _qwen(tokenizer, ids, layers, tower_blocks or 4)
    else:
        model, processor = _llava(tokenizer, ids, layers, tower_blocks or 5)
    processor.save_pretrained(folder)
    complete_tokenizer_config(folder / "tokenizer_config.json", architecture == "llava-1.5")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def complete_tokenizer_config(path: Path, add_bos: bool, prefix: bool = True) -> None:
    """Write `legacy` and `add_bos_token`, which transformers saves only as the tokenizer happened to be loaded.

    Without the second, llama.cpp begins every prompt with a token that transformers does not add.
    """
    saved = json.loads(path.read_text())
    for key in ("is_local", "local_files_only", "backend"):
        saved.pop(key, None)
    path.write_text(json.dumps(saved | {"legacy": prefix, "add_bos_token": add_bos}, indent=1, sort_keys=True) + "\n")


def image_inputs(processor, pixels: list[np.ndarray]) -> dict[str, Tensor]:
    return dict(processor.image_processor(images=pixels, return_tensors="pt"))


def _tokenizer(architecture: str, folder: Path, questions: list[str], answers: tuple[str, ...]):
    lines = [*questions, *answers, *_LANGUAGE.splitlines()] * 3
    end, pad = ("<|im_end|>", "<|im_end|>") if architecture == "qwen2.5-vl" else ("</s>", "<pad>")
    return train_tokenizer(folder, lines, _CONTROLS[architecture], end, pad, architecture == "llava-1.5")


def train_tokenizer(
    folder: Path,
    lines: list[str],
    controls: list[str],
    end: str,
    pad: str,
    add_bos: bool,
    whole: tuple[str, ...] = (),
    prefix: bool = True,
):
    """Train a SentencePiece tokenizer on these lines; its tokenizer.model is what llama.cpp's converter reads.

    `whole` are pieces of text that are never cut; `prefix` puts a space before every piece of text after a special
    token, as llama.cpp's SentencePiece tokenizer does unless a model's family says otherwise.
    """
    from transformers import AddedToken, LlamaTokenizer

    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            model_type="bpe",
            vocab_size=VOCAB,
            hard_vocab_limit=False,
            byte_fallback=True,
            control_symbols=controls,
            user_defined_symbols=list(whole),
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            num_threads=1,
            minloglevel=2,
        )
    tokenizer = LlamaTokenizer.from_pretrained(
        folder,
        legacy=prefix,
        add_prefix_space=None if prefix else False,
        add_bos_token=add_bos,
        eos_token=end,
        pad_token=pad,
        extra_special_tokens=controls,
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in whole])
    return tokenizer


def _text_config(layers: int) -> dict:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }


def _qwen(tokenizer, ids: dict[str, int], layers: int, tower_blocks: int):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    text = _text_config(layers) | {
        "rms_norm_eps": 1e-6,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
    }
    vision = {
        "depth": tower_blocks,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": 6,
        "out_hidden_size": 256,
        "fullatt_block_indexes": list(range(1, tower_blocks, 2)),
        "window_size": 112,
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": SIDE * SIDE, "longest_edge": 448 * 448})
    processor = images_and_text(Qwen2_5_VLProcessor)(
        image_processor=pictures, tokenizer=tokenizer, chat_template=_CHATML
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _llava(tokenizer, ids: dict[str, int], layers: int, tower_blocks: int):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    text = LlamaConfig(
        **_text_config(layers),
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=512,
        projection_dim=192,
        num_hidden_layers=tower_blocks,
        num_attention_heads=6,
        image_size=SIDE,
        patch_size=14,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=ids["<image>"],
        image_seq_length=(SIDE // 14) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    crop = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop)
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=_VICUNA,
    )
    return LlavaForConditionalGeneration(config), processor


def one_attention_call_for_all_images() -> None:
    """Change transformers in this process: it calls attention once per image; here all images are of one size, so one
    call a layer does."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

    def attend(self, hidden_states, cu_seqlens, position_embeddings=None, **_):
        count = cu_seqlens.numel() - 1
        qkv = self.qkv(hidden_states).reshape(-1, 3, self.num_heads, self.head_dim).unbind(1)
        q, k = qwen.apply_rotary_pos_emb_vision(qkv[0], qkv[1], *position_embeddings)
        q, k, v = (t.reshape(count, -1, self.num_heads, self.head_dim).transpose(1, 2) for t in (q, k, qkv[2]))
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(hidden_states.shape[0], -1))

    def embed(self, hidden_states):  # the convolution's window is its input: a matrix product, and a fast one
        weight = self.proj.weight.reshape(self.embed_dim, -1)
        return nn.functional.linear(hidden_states.to(weight.dtype), weight)

    qwen.Qwen2_5_VLVisionAttention.forward = attend
    qwen.Qwen2_5_VisionPatchEmbed.forward = embed
