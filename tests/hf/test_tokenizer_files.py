"""A token for every row of the embeddings: padding is added, and what has no row is named."""

import json

import pytest

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf.tokenizer_files import changes, embedding_rows

VOCABULARY = {"<s>": 0, "a": 1, "b": 2, "c": 3}


def token(number, content, special=False):
    return {"id": number, "content": content, "special": special, "normalized": False}


@pytest.fixture
def folder(tmp_path):
    def make(*added, sentencepiece=False, fallback=True, config=None, vocabulary=VOCABULARY):
        model = {"type": "BPE", "byte_fallback": fallback, "vocab": vocabulary}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": list(added)}))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config or {}))
        if sentencepiece:
            (tmp_path / "tokenizer.model").touch()
        return tmp_path

    return make


def added(made) -> dict[int, str]:
    return {entry["id"]: entry["content"] for entry in json.loads(made.contents["tokenizer.json"])["added_tokens"]}


def test_rows_of_the_text_model():
    shapes = {"model.visual.patch_embed.proj.weight": (8, 3, 2), "model.language_model.embed_tokens.weight": (768, 256)}
    assert embedding_rows(shapes) == 768
    assert embedding_rows({"a": (3,)}) is None


def test_rows_without_a_token_get_one_that_no_text_becomes(folder):
    made = changes(folder(token(0, "<s>", True), token(4, "<pad>", True)), 8)
    assert added(made) == {0: "<s>", 4: "<pad>", 5: "[PAD5]", 6: "[PAD6]", 7: "[PAD7]"}
    assert all(entry["special"] for entry in json.loads(made.contents["tokenizer.json"])["added_tokens"])
    assert made.notes == ()


@pytest.mark.parametrize("how", [{"sentencepiece": True}, {"fallback": False}])
def test_where_the_converter_pads_nothing_is_added(folder, how):
    config = {"added_tokens_decoder": {"4": {"content": "<pad>", "special": True}}}
    assert changes(folder(token(4, "<pad>", True), config=config, **how), 8).contents == {}


def test_added_tokens_are_named_where_the_converter_looks_beside_a_tokenizer_model(folder):
    config = {"added_tokens_decoder": {"4": {"content": "<pad>", "special": True}}, "eos_token": "</s>"}
    made = changes(folder(token(4, "<pad>", True), token(5, "<defect>"), sentencepiece=True, config=config), 8)
    assert set(made.contents) == {"tokenizer_config.json"}
    told = json.loads(made.contents["tokenizer_config.json"])
    assert {n: (t["content"], t["special"]) for n, t in told["added_tokens_decoder"].items()} == {
        "4": ("<pad>", True),
        "5": ("<defect>", False),
    }
    assert told["eos_token"] == "</s>"


@pytest.mark.parametrize("sentencepiece", [True, False])
def test_tokens_without_a_row_are_named_and_left_out(folder, sentencepiece):
    many = [token(n, f"<loc{n}>") for n in range(4, 10)]
    config = {
        "added_tokens_decoder": {str(entry["id"]): entry for entry in many},
        "pad_token": "<loc9>", "eos_token": "<s>", "extra_special_tokens": ["<loc8>", "<loc4>"],
    }  # fmt: skip
    made = changes(folder(*many, sentencepiece=sentencepiece, config=config), 6)
    assert added(made) == {4: "<loc4>", 5: "<loc5>"}
    told = json.loads(made.contents["tokenizer_config.json"])
    assert list(told["added_tokens_decoder"]) == ["4", "5"]
    assert told["pad_token"] == "<s>"
    assert told["extra_special_tokens"] == ["<loc4>"]
    assert "has 4 tokens that the model has no embedding for ('<loc6>', '<loc7>' ... '<loc9>'; 6 rows)" in made.notes[0]


def test_a_vocabulary_larger_than_the_embeddings(folder):
    with pytest.raises(CheckpointError, match="has 4 tokens, but its embeddings have 3 rows"):
        changes(folder(), 3)


@pytest.mark.parametrize("text", ["{", "[]", '{"added_tokens": [{"id": "4"}]}', '{"added_tokens": [], "model": 3}'])
def test_what_is_no_tokenizer_is_left_to_its_readers(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    assert changes(tmp_path, 3).contents == {}
