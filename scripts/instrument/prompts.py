"""The tokens of a checkpoint's prompts: what comes before a question, and question and answer behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from instrument.splits import Asked
from luq_gguf.core.errors import LuqError
from luq_gguf.workflows.easy_vqa import SIDE

LENGTH = 28  # tokens of the longest question with its answer, and a few more
_QUESTION, _ANSWER = "{Q}", "{A}"


class Tokens(NamedTuple):
    """Token ids of a question and its answer with all that the chat puts around them; the last n_answer are the
    answer's, with the token that ends it."""

    ids: list[int]
    n_answer: int


@dataclass(frozen=True)
class Prompts:
    """How a checkpoint is asked about one picture of SIDE x SIDE.

    `prefix` are the ids up to the picture's last, of which those equal to `image_token` are the picture; `asked` and
    `said` are the text from the last image token on, without and with an answer. All questions have the same prefix.
    """

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    image_token: int
    asked: str
    said: str
    _known: dict[Asked, Tokens] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, folder: Path) -> Prompts:
        """Read the prompts of a checkpoint folder from its own processor. Raises LuqError where it has none."""
        from luq_gguf.hf.processor import load_processor

        if not (folder / "tokenizer.json").exists():
            raise LuqError(
                f"{folder} is no checkpoint: it has no tokenizer.json.", "Make one with the command prepare."
            )
        processor = load_processor(folder)
        image = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)

        def chat(question: str, answer: str | None) -> str:
            turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            if answer is not None:
                turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            return processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)

        def behind(text: str) -> str:
            return text[text.rindex(image) :]

        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        ids = [int(i) for i in processor(images=[picture], text=[chat(_QUESTION, None)])["input_ids"][0]]
        end = len(ids) - ids[::-1].index(processor.image_token_id)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        asked, said = behind(chat(_QUESTION, None)), behind(chat(_QUESTION, _ANSWER))
        return cls(tokenizer, tuple(ids[:end]), processor.image_token_id, asked, said)

    @property
    def digest(self) -> str:
        """Twelve digits that differ where another checkpoint has other tokens for the same questions."""
        told = [self.tokenizer.to_str(), self.prefix, self.image_token, self.asked, self.said]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]

    def tokens(self, asked: Asked) -> Tokens:
        """Return the tokens that follow the prefix, at most LENGTH. Raises LuqError where they are more, and where an
        answer changes the tokens of its question: then its logits would not be those of the model asked alone."""
        if asked not in self._known:
            if len(self._known) >= 400_000:  # words to read never come twice
                self._known.clear()
            self._known[asked] = self._encoded(asked)
        return self._known[asked]

    def _encoded(self, asked: Asked) -> Tokens:
        question = self._ids(self.asked.replace(_QUESTION, asked.question))
        whole = self._ids(self.said.replace(_QUESTION, asked.question).replace(_ANSWER, asked.answer))
        if whole[: len(question)] != question or whole[0] != self.image_token:
            raise LuqError(
                f'The answer "{asked.answer}" changes the tokens of the question "{asked.question}".',
                "Use a chat template with a token of its own before the answer.",
            )
        if len(whole) - 1 > LENGTH:
            raise LuqError(
                f'"{asked.question}" and "{asked.answer}" are {len(whole) - 1} tokens together; {LENGTH} have room.',
                "Use a tokenizer that was trained on these questions, or raise LENGTH in prompts.py.",
            )
        return Tokens(whole[1:], len(whole) - len(question))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def rows(self, asked: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of questions with their answers, int16 [n, LENGTH], zero behind them, and how many tokens
        there are at all and in the answer, int16 [n, 2]."""
        ids, sizes = np.zeros((len(asked), LENGTH), np.int16), np.zeros((len(asked), 2), np.int16)
        for i, one in enumerate(asked):
            tokens = self.tokens(one)
            ids[i, : len(tokens.ids)] = tokens.ids
            sizes[i] = len(tokens.ids), tokens.n_answer
        return ids, sizes
