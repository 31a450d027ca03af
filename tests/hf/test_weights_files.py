"""Which files of a folder are the weights, and that transformers and the converter are shown the same."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf.checkpoint import open_checkpoint

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
INDEX = "model.safetensors.index.json"
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "somebody/base-vl"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "little"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write(folder, name, *tensors, value=1.0):
    save_file({tensor: np.full(4, value, np.float32) for tensor in tensors}, folder / name)


def index(folder, **held):
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {tensor: name for name, ts in held.items() for tensor in ts}})
    )


def shown(checkpoint) -> dict[str, float]:
    """What a reader finds that takes the index where there is one, and model.safetensors otherwise, as transformers and
    the converter do, the last of the files with a tensor counting."""
    path = checkpoint.folder / INDEX
    names = sorted(set(json.loads(path.read_text())["weight_map"].values())) if path.exists() else ["model.safetensors"]
    if path.exists():
        assert not (checkpoint.folder / "model.safetensors").exists()
    found = {}
    for name in names:
        found |= {tensor: float(values[0]) for tensor, values in load_file(checkpoint.folder / name).items()}
    return found


def refused(folder) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder))
    assert caught.value.hint
    return caught.value


def test_a_usual_folder_is_read_as_it_is(folder):
    write(folder, "model.safetensors", "a", "b")
    assert open_checkpoint(str(folder)).folder == folder
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index(folder, **{"model-00001-of-00001.safetensors": ["a", "b"]})
    opened = open_checkpoint(str(folder))
    assert (opened.folder, opened.notes) == (folder, ())


def test_the_index_of_shards_that_are_gone_does_not_count_beside_a_whole_file(folder):
    write(folder, "model.safetensors", "a", "b", value=2)
    index(folder, **{"model-00001-of-00002.safetensors": ["a"], "model-00002-of-00002.safetensors": ["b"]})
    opened = open_checkpoint(str(folder))
    assert shown(opened) == {"a": 2, "b": 2}
    assert "model-00001-of-00002.safetensors, which it names, is not there" in opened.notes[0]
    assert opened.folder.name == "little"  # the converter takes metadata from it


def test_two_whole_sets_are_refused_for_nothing_tells_which_is_meant(folder):
    write(folder, "model.safetensors", "a", value=2)
    write(folder, "model-00001-of-00001.safetensors", "a")
    index(folder, **{"model-00001-of-00001.safetensors": ["a"]})
    error = refused(folder)
    assert "two sets of weights" in error.message
    assert "Move model.safetensors away" in error.hint


def test_leftovers_that_the_index_does_not_name_are_not_read(folder):
    for n in (1, 2, 3):
        write(folder, f"model-0000{n}-of-00003.safetensors", "abc"[n - 1], value=9)
    write(folder, "model-00001-of-00002.safetensors", "a", "b")
    write(folder, "model-00002-of-00002.safetensors", "c")
    index(folder, **{"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]})
    opened = open_checkpoint(str(folder))
    assert shown(opened) == {"a": 1, "b": 1, "c": 1}
    assert opened.sizes == {"a": 16, "b": 16, "c": 16}


@pytest.mark.parametrize("name", ["a-overlay.safetensors", "overlay.safetensors"])
def test_a_tensor_twice_is_taken_from_where_the_index_says(folder, name):
    write(folder, "model-00001-of-00001.safetensors", "a", "b")
    write(folder, name, "b", value=5)
    index(folder, **{"model-00001-of-00001.safetensors": ["a"], name: ["b"]})
    opened = open_checkpoint(str(folder))
    assert shown(opened) == {"a": 1, "b": 5}
    assert opened.shards["b"].name == name


def test_tensors_that_the_index_forgot_are_read(folder):
    write(folder, "model-00001-of-00001.safetensors", "a", "b")
    index(folder, **{"model-00001-of-00001.safetensors": ["a"]})
    opened = open_checkpoint(str(folder))
    assert set(opened.shapes) == {"a", "b"} == set(shown(opened))
    write(folder, "model-00002-of-00002.safetensors", "c")
    index(folder, **{"model-00001-of-00001.safetensors": ["a"], "model-00002-of-00002.safetensors": ["c"]})
    opened = open_checkpoint(str(folder))
    assert set(json.loads((opened.folder / INDEX).read_text())["weight_map"]) == {"a", "b", "c"}


def test_shards_without_an_index(folder):
    for n in (1, 2):
        write(folder, f"model-0000{n}-of-00002.safetensors", "ab"[n - 1])
    assert shown(open_checkpoint(str(folder))) == {"a": 1, "b": 1}
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert "lacks the shard model-00001-of-00002.safetensors" in refused(folder).message
    write(folder, "model-00001-of-00001.safetensors", "a")
    assert "several sets of weights" in refused(folder).message


@pytest.mark.parametrize("name", ["pytorch_model.safetensors", "weights.safetensors"])
def test_the_only_file_whatever_its_name(folder, name):
    write(folder, name, "a")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    opened = open_checkpoint(str(folder))
    assert shown(opened) == {"a": 1}
    assert not (opened.folder / "training_args.bin").exists()


def test_what_lies_beside_the_weights_is_named_and_not_read(folder):
    write(folder, "model.safetensors", "a")
    write(folder, "consolidated.safetensors", "wq", value=7)
    write(folder, "adapter_model.safetensors", "x.lora_A.weight", value=7)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    opened = open_checkpoint(str(folder))
    assert set(opened.shapes) == {"a"} == set(shown(opened))
    assert not (opened.folder / "adapter_config.json").exists()
    assert "LoRA adapter of somebody/base-vl" in opened.notes[0]
    assert "Mistral's own format" in opened.notes[1]


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_alone_is_called_so(folder, config, name):
    (folder / name).write_bytes(b"") if name.endswith("bin") else write(folder, name, "x.lora_A.weight")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    if not config:
        (folder / "config.json").unlink()
    error = refused(folder)
    assert "is a LoRA adapter of somebody/base-vl, not a model" in error.message
    assert "Merge it" in error.hint


@pytest.mark.parametrize("name", ["q_proj.lora_A.default.weight", "q_proj.base_layer.weight"])
def test_matrices_of_an_adapter_in_the_weights(folder, name):
    write(folder, "model.safetensors", f"base_model.model.model.layers.0.self_attn.{name}")
    assert "has not been merged" in refused(folder).message


def test_mistrals_own_format_alone(folder):
    write(folder, "consolidated.safetensors", "wq")
    assert "only in Mistral's own format" in refused(folder).message


def test_a_checkpoint_in_a_subfolder(folder):
    write(folder, "model.safetensors", "a")
    opened = open_checkpoint(str(folder.parent), subfolder="little")
    assert (opened.folder, opened.name) == (folder, "little")
    for wrong in ("nowhere", "../little", "/tmp"):
        with pytest.raises(CheckpointError, match="subfolder|has no folder"):
            open_checkpoint(str(folder.parent), subfolder=wrong)


def test_a_snapshot_of_the_hub_cache_is_called_by_the_model(tmp_path):
    folder = tmp_path / "models--acme--Tiny-VL" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write(folder, "model.safetensors", "a")
    assert open_checkpoint(f"{folder}/").name == "Tiny-VL"


def bf16(folder, **matrices):
    save_file({name.replace("__", "."): values for name, values in matrices.items()}, folder / "model.safetensors")


def test_the_config_of_a_quantization_that_is_gone(folder):
    kept = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": kept}))
    bf16(folder, a__weight=np.ones((4, 4), np.float16))
    opened = open_checkpoint(str(folder))
    assert "quantization_config" not in json.loads((opened.folder / "config.json").read_text())
    assert "quantization_config" in opened.notes[0]
    bf16(folder, a__weight=np.ones((4, 4), np.uint8))
    assert open_checkpoint(str(folder)).folder == folder  # the converter says what it thinks of it


def test_integers_without_a_word_how_to_read_them(folder):
    bf16(folder, a__weight=np.ones((4, 4), np.int8))
    assert "a.weight of little is stored as I8" in refused(folder).message


def test_a_head_that_is_the_embeddings_once_more_is_left_out(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    rows = np.arange(32, dtype=np.float16).reshape(8, 4)
    bf16(folder, model__embed_tokens__weight=rows, lm_head__weight=rows)
    opened = open_checkpoint(str(folder))
    assert opened.unused == {"lm_head.weight"}
    assert set(opened.shapes) == {"model.embed_tokens.weight"}
    bf16(folder, model__embed_tokens__weight=rows, lm_head__weight=rows + 1)
    opened = open_checkpoint(str(folder))
    assert not opened.unused
    assert "lm_head.weight differs from the embeddings" in opened.notes[0]
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": False}))
    assert open_checkpoint(str(folder)).notes == ()
