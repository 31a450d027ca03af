"""Answers of the Hugging Face reference model, one prompt at a time as a user would ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def answers(folder: Path, questions: list[tuple[Path, str, str]], max_tokens: int = 4) -> list[str]:
    from luq_gguf.hf import checkpoint, devices
    from luq_gguf.hf import model as hf_model

    opened = checkpoint.open_checkpoint(str(folder))
    model, processor = hf_model.load_reference(opened, devices.choose_device("cpu", opened))
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    said: list[str] = []
    with torch.inference_mode():
        for at in range(0, len(questions), 32):
            some = questions[at : at + 32]
            turns = [
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
                for _, text, _ in some
            ]
            texts = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            pictures = [[Image.open(path).convert("RGB")] for path, _, _ in some]
            inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
            out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            said += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return said


def expectations(folder: Path, text: str, image: Path | None, drop: set[str]) -> tuple[list[int], np.ndarray]:
    """Tokens of a chat text [n] and log-probabilities behind each of them [n, n_vocab], without tokens that stand for
    the image."""
    model, processor = _load_exact(folder)
    tokenizer = getattr(processor, "tokenizer", processor)
    if image is None:
        inputs = tokenizer([text], return_tensors="pt")
    else:
        inputs = processor(images=[[Image.open(image).convert("RGB")]], text=[text], return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    kept = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token not in drop]
    return [ids[i] for i in kept], _log_probabilities(model, **inputs)[kept]


def expectations_of_tokens(folder: Path, tokens: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities behind each of these tokens, [n, n_vocab]."""
    return _log_probabilities(_load_exact(folder)[0], input_ids=torch.tensor([tokens]))


def _load_exact(folder: Path):
    """In float32 whatever the CPU has: two roundings would be compared otherwise."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from luq_gguf.hf.processor import load_processor

    has_vision = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    kind = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).float().eval(), load_processor(folder)


@contextmanager
def as_libmtmd_orders_clip() -> Iterator[None]:
    """LLaVA in transformers as the pinned libmtmd computes it: the class token behind the patches instead of before
    them (tools/mtmd/models/llava.cpp; ggml-org/llama.cpp issue 25814), so that each patch has its neighbour's position,
    and the first patch is dropped in place of the class token."""
    from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

    def forward(self, pixel_values, **_):
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        last = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([patches, last], dim=1) + self.position_embedding(self.position_ids)

    before = CLIPVisionEmbeddings.forward
    CLIPVisionEmbeddings.forward = forward
    try:
        yield
    finally:
        CLIPVisionEmbeddings.forward = before


def _log_probabilities(model, **inputs) -> np.ndarray:
    exact = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.inference_mode():
        return torch.log_softmax(model(**exact).logits[0].double(), dim=-1).numpy()
