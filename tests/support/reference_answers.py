"""Answers of the Hugging Face reference model, one prompt at a time as a user would ask."""

from __future__ import annotations

from pathlib import Path

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
