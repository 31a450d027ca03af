"""Compares the vocabulary that llama.cpp's converter writes with the embeddings and with transformers' tokenizer."""

from __future__ import annotations

from collections.abc import Mapping

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import packages
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp.gguf.reader import GGUFInfo

_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_UNUSED = 5  # llama.cpp's type of tokens that fill rows
_SPACE = "\u2581"  # SentencePiece's, which the converter replaces in added tokens


def check(source: GGUFInfo, checkpoint: Checkpoint, ours: Mapping[int, str]) -> None:
    """Check a header-only GGUF: it has a token for every row of the embeddings, and every token of transformers'
    tokenizer (`ours`, id -> text) under its id.

    Raises CheckpointError naming what differs: llama.cpp does not load a file with another number, and a token that the
    file does not have is read as several others.
    """
    tokens, types = source.metadata.get(_TOKENS), source.metadata.get(_TYPES)
    rows = next((t.shape[1] for t in source.tensors if t.name == "token_embd.weight" and len(t.shape) > 1), None)
    if not isinstance(tokens, list) or rows is None:
        return
    if len(tokens) != rows:
        raise CheckpointError(
            f"llama.cpp's converter writes {len(tokens)} tokens for {checkpoint.name}, but its embeddings have {rows} "
            "rows, so llama.cpp would not load the file.",
            "Use the tokenizer files that belong to these weights (tokenizer.json, tokenizer.model and "
            "tokenizer_config.json), and the config.json with their vocab_size.",
        )
    unused = {n for n, kind in enumerate(types) if kind == _UNUSED} if isinstance(types, list) else set()
    wrong = {n: text for n, text in ours.items() if n < rows and _is_lost(text, tokens[n], filler=n in unused)}
    if wrong:
        first = min(wrong)
        more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"Token {first} of {checkpoint.name} is {wrong[first]!r} in transformers' tokenizer, but "
            f"{tokens[first]!r} in the file that llama.cpp's converter writes{more}.",
            "The checkpoint's tokenizer files contradict each other. Save the tokenizer again, or remove the "
            "tokenizer.model that does not belong to it.",
        )


def _is_lost(ours: str, theirs: object, *, filler: bool) -> bool:
    """Spelling may differ, for the converter writes added tokens as they are decoded; another token may not."""
    if not isinstance(theirs, str) or ours == theirs:
        return False
    return filler or ours.replace(_SPACE, " ").strip() != theirs.replace(_SPACE, " ").strip()


def tokenizer_tokens(checkpoint: Checkpoint) -> Mapping[int, str]:
    """Return id -> text of a checkpoint's tokenizer as transformers loads it. Raises CheckpointError where it does
    not."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code, local_files_only=True
        )
        return {number: text for text, number in tokenizer.get_vocab().items()}
    except Exception as error:  # what transformers raises of files that somebody made up
        if refusal := packages.refusal(checkpoint.name, error):
            raise refusal from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"transformers cannot load the tokenizer of {checkpoint.name}: {reason}",
            "Check that the checkpoint is complete and unmodified.",
        ) from None
