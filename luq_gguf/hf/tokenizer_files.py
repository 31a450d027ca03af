"""What a checkpoint's tokenizer files have to say differently, so that its files have a token for every embedding row.

llama.cpp's converter reads a ``tokenizer.model`` where there is one, and of the added tokens only what
``tokenizer_config.json`` and ``added_tokens.json`` name; transformers 5 writes them to ``tokenizer.json`` alone.
Without a ``tokenizer.model`` it writes the tokens that a tokenizer with byte fallback has, and no row more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import json_input
from luq_gguf.core.errors import CheckpointError

TOKENIZER, CONFIG, ADDED, SPECIAL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
_EMBEDDINGS = (
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
)


@dataclass(frozen=True)
class TokenizerChanges:
    """New contents of tokenizer files, by name; and sentences about tokens that the model has no room for."""

    contents: Mapping[str, str]
    notes: tuple[str, ...] = ()


def embedding_rows(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the rows of a checkpoint's token embeddings, from the shapes of its tensors; None where none is named
    so."""
    rows = [shape[0] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS) and len(shape) == 2]
    return max(rows, default=None)


def changes(folder: Path, rows: int | None) -> TokenizerChanges:
    """Return what to change for a model of so many embedding rows; nothing where tokenizer.json is not there or is
    not one. Raises CheckpointError where the vocabulary itself is larger than the embeddings."""
    tokenizer = _read(folder / TOKENIZER)
    listed = tokenizer.get("added_tokens")
    if rows is None or not isinstance(listed, list) or not all(_is_token(token) for token in listed):
        return TokenizerChanges({})
    vocabulary = _vocabulary_ids(tokenizer.get("model"))
    largest = max(vocabulary, default=-1)
    if largest >= rows:
        raise CheckpointError(
            f"The tokenizer of {folder.name} has {largest + 1} tokens, but its embeddings have {rows} rows.",
            "Use the tokenizer that belongs to the model, or resize its embeddings (resize_token_embeddings).",
        )
    lost = [token for token in listed if token["id"] >= rows]
    kept = [token for token in listed if token["id"] < rows]
    files: dict[str, Any] = {name: _read(folder / name) for name in (CONFIG, ADDED, SPECIAL)}
    before = json.dumps(files)
    padding = []
    if (folder / "tokenizer.model").is_file():
        pieces = _pieces(folder / "tokenizer.model")
        unknown = [token for token in kept if pieces[token["id"] : token["id"] + 1] != [token["content"]]]
        _tell_all(files[CONFIG], files[ADDED], unknown)
    elif _has_byte_fallback(tokenizer):
        padding = _padding(rows, {*vocabulary, *(token["id"] for token in kept)})
    if lost:
        _drop(files, {token["content"] for token in lost})
    changed = {name: json.dumps(content) for name, content in files.items() if json.dumps(files) != before and content}
    if lost or padding:
        changed[TOKENIZER] = json.dumps(tokenizer | {"added_tokens": sorted([*kept, *padding], key=lambda t: t["id"])})
    return TokenizerChanges(changed, (_lost_note(lost, rows),) if lost else ())


def _read(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none. What is wrong with it is for its readers to say."""
    try:
        content = json_input.read(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _pieces(path: Path) -> list[str]:
    """The tokens of a SentencePiece model by id; none where it is damaged, which the converter says."""
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError):
        return []
    return [model.IdToPiece(n) for n in range(model.GetPieceSize())]


def _is_token(token: object) -> bool:
    return isinstance(token, dict) and type(token.get("id")) is int and isinstance(token.get("content"), str)


def _vocabulary_ids(model: Any) -> set[int]:
    """Ids of the tokens that were not added."""
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        return set(range(len(vocabulary)))
    return {n for n in vocabulary.values() if type(n) is int} if isinstance(vocabulary, dict) else set()


def _has_byte_fallback(tokenizer: Mapping[str, Any]) -> bool:
    model = tokenizer.get("model")
    return isinstance(model, dict) and model.get("type") == "BPE" and model.get("byte_fallback") is True


def _padding(rows: int, used: set[int]) -> list[dict[str, Any]]:
    """Tokens for rows without one, called as the converter calls them. No text becomes a special token."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": n, "content": f"[PAD{n}]"} | flags for n in range(rows) if n not in used]


def _tell_all(config: dict[str, Any], added: Mapping[str, Any], tokens: list[dict[str, Any]]) -> None:
    """Name tokens where the converter looks for them."""
    decoder = config.get("added_tokens_decoder")
    named = dict(decoder) if isinstance(decoder, dict) else {}
    for token in tokens:
        entry = named.get(str(token["id"]))
        known = isinstance(entry, dict) and entry.get("content") == token["content"]
        if not known and added.get(token["content"]) != token["id"]:
            named[str(token["id"])] = {name: value for name, value in token.items() if name != "id"}
    if named:
        config["added_tokens_decoder"] = named


def _drop(files: Mapping[str, dict[str, Any]], lost: set[str]) -> None:
    """Remove tokens from the small files: as added ones, and in the roles of special tokens."""
    decoder = files[CONFIG].get("added_tokens_decoder")
    if isinstance(decoder, dict):
        files[CONFIG]["added_tokens_decoder"] = {n: token for n, token in decoder.items() if _text(token) not in lost}
    for name in (ADDED, CONFIG, SPECIAL):
        content = files[name]
        for key, value in list(content.items()):
            if name == ADDED and key in lost:
                del content[key]
            elif isinstance(value, list):
                content[key] = [token for token in value if _text(token) not in lost]
            elif key != "added_tokens_decoder" and _text(value) in lost:
                del content[key]
                if key == "pad_token" and _text(content.get("eos_token")):
                    content[key] = content["eos_token"]


def _text(token: object) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _lost_note(lost: list[dict[str, Any]], rows: int) -> str:
    texts = [repr(token["content"]) for token in lost]
    listed = ", ".join(texts) if len(texts) < 4 else f"{texts[0]}, {texts[1]} ... {texts[-1]}"
    plural = "s" * (len(lost) > 1)
    return (
        f"the tokenizer has {len(lost)} token{plural} that the model has no embedding for ({listed}; {rows} rows): "
        f"{'they are' if plural else 'it is'} left out"
    )
