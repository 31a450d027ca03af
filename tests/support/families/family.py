"""How a small random checkpoint of a family is built from the family's own config class, with a tokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

from tiny_vlm_models import complete_tokenizer_config, train_tokenizer

SIDE = 112
NOT_SQUARE = (150, 100)
BARS = "libmtmd keeps the aspect ratio and adds bars"
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


def chat(start: str, end: str, image: str, answer: str) -> str:
    """Return a template of turns between two tokens: `image` stands for a picture, `answer` is the model's role."""
    text = _CHAT.replace("START", start).replace("END", end).replace("IMAGE", image)
    return text.replace("ROLE", "m['role']").replace("ANSWER", repr(answer))


@dataclass(frozen=True)
class Family:
    """How to build one, and what is expected of it.

    `image` is the text behind which the HF processor sees the picture, `side` its pixels. A `byte_level` tokenizer is
    known to `any_tokenizer_environment` alone, and `tokenizer` makes one of the family's own of `controls` and `end`.
    `hub_names` are a beginning of tensor names and what the Hub has in its place; `more` adds tensors that transformers
    ignores, and `change` alters the folder last.

    `packages` must be installed to build or to load it. `refused` is a part of the sentence with which the preflight
    refuses it, else `largest_kld` bounds the mean divergence of the 16-bit file from transformers. `other_tokens`: the
    file's prompt has other tokens of text than transformers' (its remarks say why). `as_llama_cpp` makes transformers
    compute as llama.cpp does while inside, where the two are known to differ.

    For the suite, `libmtmd_differs` is what libmtmd does otherwise than the processor with a picture of `NOT_SQUARE`
    pixels, and `not_fitted` why no other picture can stand for what the processor makes of it; empty where none of that
    is so.

    `scripts/check-families` tries all of them; the suite takes those that are `in_suite`, and those of the
    `whole_road`, which it also profiles and quantizes. `remarks` go into docs/families.md.
    """

    name: str
    controls: tuple[str, ...]
    end: str
    add_bos: bool
    chat: str
    make: Callable[[Any, dict[str, int]], tuple[Any, Any]]
    image: str = ""
    whole: tuple[str, ...] = ()
    side: int = SIDE
    hub_names: tuple[str, str] | None = None
    prefix: bool = True
    byte_level: bool = False
    tokenizer: Callable[[list[str], str], Any] | None = None
    more: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    change: Callable[[Path], None] | None = None
    packages: tuple[str, ...] = ()
    refused: str = ""
    largest_kld: float = 3e-3
    other_tokens: bool = False
    as_llama_cpp: Callable[[], AbstractContextManager[None]] | None = None
    libmtmd_differs: str = ""
    not_fitted: str = ""
    in_suite: bool = False
    whole_road: bool = False
    remarks: str = ""

    def make_tokenizer(self, folder: Path) -> Any:
        controls = list(self.controls)
        if self.byte_level:
            return _byte_level_tokenizer(controls, self.end)
        if self.tokenizer:
            return self.tokenizer(controls, self.end)
        return train_tokenizer(folder, LINES * 20, controls, self.end, self.end, self.add_bos, self.whole, self.prefix)

    def build(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        tokenizer = self.make_tokenizer(folder)
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in self.controls}
        torch.manual_seed(0)
        model, processor = self.make(tokenizer, ids)
        processor.chat_template = "{{ bos_token }}" * self.add_bos + self.chat
        processor.save_pretrained(folder)
        if not self.byte_level and not self.tokenizer:
            complete_tokenizer_config(folder / "tokenizer_config.json", self.add_bos, self.prefix)
        model.to(torch.bfloat16).save_pretrained(folder)
        if self.hub_names:  # tensors' names as on the Hub, where transformers 5 saves them under others
            old, new = self.hub_names
            change_tensors(folder, lambda tensors: {name.replace(old, new, 1): t for name, t in tensors.items()})
        if self.more:
            change_tensors(folder, lambda tensors: tensors | self.more(tensors))
        if self.change:
            self.change(folder)
        return folder


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Write the tensors of a checkpoint anew, as `change` makes them of what they were."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    changed = change(load_file(path))
    save_file({name: tensor.clone() for name, tensor in changed.items()}, path, metadata={"format": "pt"})


def with_pixel_limits(least: int, most: int) -> Callable[[Path], None]:
    """Return what adds the limits of pictures as older checkpoints have them, which parts of the converter read."""

    def add(folder: Path) -> None:
        name = next(name for name in ("preprocessor_config.json", "processor_config.json") if (folder / name).is_file())
        config = json.loads((folder / name).read_text())
        config.get("image_processor", config).update({"min_pixels": least, "max_pixels": most})
        (folder / name).write_text(json.dumps(config))

    return add


def _byte_level_tokenizer(controls: list[str], end: str) -> Any:
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
    (folder / llama.converter.name).symlink_to(Path(__file__).parents[1] / "any_tokenizer" / llama.converter.name)
    return {"LUQ_LLAMA_CPP": str(folder), "LUQ_TEST_CONVERTER": str(llama.converter)}


CHATML_CONTROLS = ("<|im_start|>", "<|im_end|>")
CHATML = chat("<|im_start|>", "<|im_end|>", "", "assistant")


def text_model(config: str, model: str, **more: Any) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    """Return what makes a text model of two classes of transformers, with `TEXT` and more settings."""

    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        import transformers

        settings = TEXT | {"vocab_size": len(tokenizer)} | more
        settings |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        return getattr(transformers, model)(getattr(transformers, config)(**settings)), tokenizer

    return make
