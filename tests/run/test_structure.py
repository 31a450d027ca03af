"""What the converter would write is compared with what transformers computes, and its tokens with the tokenizer's."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from families import any_tokenizer_environment, by_name
from safetensors.torch import load_file, save_file

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import checkpoint_views
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.llamacpp import converter
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.gguf.reader import GGUFInfo, TensorInfo
from luq_gguf.llamacpp.runtime import mmproj_check
from luq_gguf.run import structure, vocabulary
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import load_model_spec


@pytest.fixture(autouse=True)
def cache(empty_cache, monkeypatch):
    """Folders of links go to a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", empty_cache())


def renamed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    changed = {change(name): tensor.clone() for name, tensor in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(model, tmp_path) -> str:
    with pytest.raises(CheckpointError) as caught, RunFolder(tmp_path / "run", create=True) as run:
        load_model_spec(run, str(model))
    assert caught.value.hint
    return caught.value.message


@pytest.fixture
def unknown(monkeypatch):
    """No form of a checkpoint is in the table: what its rows are for is compared and refused like any other form."""
    monkeypatch.setattr(checkpoint_views, "FORMS", ())


def test_a_vision_half_under_names_that_only_transformers_knows(models, tmp_path, unknown):
    shutil.copytree(models / "tiny-qwen2.5-vl", tmp_path / "tuned")
    renamed(tmp_path / "tuned", lambda name: f"model.{name}" if name.startswith("visual.") else name)
    told = refusal(tmp_path / "tuned", tmp_path)
    assert "recognizes no tensor of the vision half of tuned, and its tensors are called model.visual." in told


def test_experts_in_a_layout_that_the_converter_does_not_know(llama, tmp_path, monkeypatch, unknown):
    model = by_name("qwen3-vl-moe").build(tmp_path / "moe")
    for name, value in any_tokenizer_environment(tmp_path / "llama.cpp", llama).items():
        monkeypatch.setenv(name, value)
    told = refusal(model, tmp_path)
    assert "blk.0.ffn_gate_exps.weight with 512 columns (8 times), but transformers computes it with 256" in told


def tensors(*blocks: int, projector: bool = True) -> dict[str, tuple[str, tuple[int, ...]]]:
    listed = {f"v.blk.{n}.ffn_up.weight": ("F16", (64, 64)) for n in blocks}
    return listed | ({"mm.0.weight": ("F16", (64, 64))} if projector else {})


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (tensors(0, 1, 3), "without its layer 2"),
        (tensors(0), "without its layer 1"),
        ({"mm.0.weight": ("F16", (8, 8))}, "would write 64 of the 20,480 weights"),
        ({}, "recognizes no tensor"),
    ],
)
def test_a_vision_half_with_holes(written, words):
    import torch

    checkpoint = SimpleNamespace(config={"vision_config": {"depth": 4}}, name="little", shapes={"visual.a": (1,)})
    model = torch.nn.ModuleList([torch.nn.Linear(64, 64, bias=False) for _ in range(5)])
    structure.check_vision(tensors(0, 1, 2, 3), checkpoint, model)
    with pytest.raises(CheckpointError, match=words):
        structure.check_vision(written, checkpoint, model)


def test_what_libmtmd_would_miss_is_named(llama, models, tmp_path):
    path = tmp_path / "vision.gguf"
    listed = converter.vision_tensors(llama, models / "tiny-qwen2.5-vl", path, "little")
    mmproj_check.check(path, listed, "little")
    for name in ("mm.2.bias", "v.blk.1.attn_out.weight"):
        without = {other: tensor for other, tensor in listed.items() if other != name}
        with pytest.raises(CheckpointError, match=rf"the vision half of little without {name}, which libmtmd needs"):
            mmproj_check.check(path, without, "little")
    with pytest.raises(CheckpointError, match=r"libmtmd cannot load .* of little: GGML_ASSERT\(.*failed"):
        mmproj_check.check(path, listed | {"v.patch_embd.weight": ("F16", (64, 3, 7, 7))}, "little")
    assert list(tmp_path.iterdir()) == [path]


def header(tokens, rows, types=()):
    table = TensorInfo("token_embd.weight", "F16", (8, rows), 8 * rows, 16 * rows)
    metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": list(types)}
    return GGUFInfo(Path("x.gguf"), 0, 0, metadata, (table,))


@pytest.mark.parametrize(
    ("tokens", "types", "words"),
    [
        (["a", "b"], (1, 1), "writes 2 tokens for little, but its embeddings have 3 rows"),
        (["a", "b", "[PAD2]"], (1, 1, 5), "Token 2 of little is '<defect>'"),
        (["b", "a", "<defect>"], (1, 1, 4), "Token 0 of little is 'a'.*'b'.*, and 1 more differ"),
    ],
)
def test_tokens_that_the_file_does_not_have_are_named(tokens, types, words):
    ours = {0: "a", 1: "b", 2: "<defect>"}
    little = SimpleNamespace(name="little")
    vocabulary.check(header(["a", "b", "<defect>"], 3, (1, 1, 4)), little, ours)
    vocabulary.check(header(["a", " b", "<defect>"], 3, (1, 1, 4)), little, ours | {1: "\u2581b", 3: "<lost>"})
    with pytest.raises(CheckpointError, match=words):
        vocabulary.check(header(tokens, 3, types), little, ours)


@pytest.mark.parametrize("sentencepiece", [True, False])
def test_a_llava_has_a_token_for_every_row_and_the_added_ones_under_their_ids(llama, models, tmp_path, sentencepiece):
    from transformers import AddedToken, AutoTokenizer

    source, folder = models / "tiny-llava-1.5", tmp_path / "tuned"
    shutil.copytree(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([AddedToken("<defect>", normalized=False), AddedToken("<crack>", special=True)])
    for path in folder.glob("*token*"):
        path.unlink()
    tokenizer.save_pretrained(folder)  # transformers 5 writes them to tokenizer.json alone
    if sentencepiece:
        shutil.copy(source / "tokenizer.model", folder)
    opened = open_checkpoint(str(folder))
    converter.text_tensors(llama, opened.folder, tmp_path / "metadata.gguf", opened.name)
    info = reader.read(tmp_path / "metadata.gguf")
    rows = TensorInfo("token_embd.weight", "F16", (256, 768), 256 * 768, 2 * 256 * 768)
    ours = vocabulary.tokenizer_tokens(opened)
    assert {"<defect>", "<crack>", "<image>"} <= set(ours.values())
    vocabulary.check(replace(info, tensors=(rows,)), opened, ours)


def test_blocks_that_the_converter_counts_and_does_not_write():
    checkpoint = SimpleNamespace(name="little")

    def written(count, *blocks):
        tensors = tuple(TensorInfo(f"blk.{n}.attn_norm.weight", "F32", (8,), 8, 32) for n in blocks)
        return GGUFInfo(Path("x.gguf"), 0, 0, {"general.architecture": "llama", "llama.block_count": count}, tensors)

    structure.check_blocks(written(3, 0, 1, 2), checkpoint)
    structure.check_blocks(written(3, 0, 2), checkpoint)  # a block without tensors, as pruned models have
    with pytest.raises(CheckpointError, match="counts 4 blocks in little, but would write 3") as caught:
        structure.check_blocks(written(4, 0, 1, 2), checkpoint)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("vision", "entry"),
    [
        ({"hidden_activation": "gelu_pytorch_tanh"}, {"clip.use_gelu": True}),
        ({"hidden_act": "silu"}, {"clip.use_silu": True}),
        ({"hidden_act": "quick_gelu"}, {}),
        ({"depth": 3}, {}),
        (None, {}),
    ],
)
def test_the_activation_of_a_vision_half(vision, entry):
    assert structure.activation(SimpleNamespace(config={"vision_config": vision})) == entry
