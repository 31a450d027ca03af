"""What the preflight learns of a checkpoint, and what it refuses, before any weight is read."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families import any_tokenizer_environment, by_name
from families.family import text_model as text_model_of

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import load_model_spec

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture
def text_model(tmp_path):
    """A random text-only Llama with a shipped model's tokenizer."""

    def build(hidden: int = 256, name: str = "random-llama"):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=768, hidden_size=hidden, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
            shutil.copy(MODELS / "tiny-qwen2.5-vl" / file, tmp_path / name)
        return tmp_path / name

    return build


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text("what is the color of the shape? it is red, and the shape is a circle.\n" * 200)
    return tmp_path / "book.txt"


def test_a_text_model_goes_the_whole_road_with_alpha_0(cli, llama, text_model, book, tmp_path):
    done = cli(
        "convert",
        text_model(),
        "--out",
        tmp_path / "run",
        "--calib-text",
        book,
        "--samples",
        3,
        "--low-layers",
        1,
        "--low",
        "Q2_K",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert "reads text only: alpha is 0" in done.stderr
    result = json.loads(done.stdout)
    assert result["mmproj"] is None
    profile = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert profile["calibration"]["alpha"] == 0
    assert profile["layers"][0]["by_modality"]["multimodal"] is None
    command = [llama.tool("llama-bench"), "-m", result["model"], "-p", "8", "-n", "4", "-r", "1"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def test_a_text_model_reads_the_prompts_of_a_set_and_asks_nobody(cli, text_model, tmp_path):
    lines = [
        {"image": f"{i}.png", "prompt": f"what is the color of shape {i}? " * 8, "answers": ["red"]} for i in range(8)
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("profile", text_model(), "--out", tmp_path / "run", "--calib", tmp_path / "set.jsonl", "--samples", 8)
    assert done.returncode == 0, done.stderr
    calibration = json.loads((tmp_path / "run" / "profile.json").read_text())["calibration"]
    assert (calibration["alpha"], calibration["sources"]) == (0, ["set.jsonl"])


def test_a_text_model_does_not_learn_from_a_folder_of_images(cli, text_model, tmp_path):
    (tmp_path / "photos").mkdir()
    done = cli("profile", text_model(), "--out", tmp_path / "run", "--calib", tmp_path / "photos")
    assert done.returncode == 2
    assert "reads text only, and" in done.stderr
    assert "is a folder of images" in done.stderr


def test_a_name_in_digits_a_path_with_spaces_and_a_head_that_is_stored_twice(cli, text_model, book, tmp_path):
    """llama-quantize takes a file called 19... for a file type; the head is the embeddings once more."""
    from safetensors.torch import load_file, save_file

    model = text_model(name="-19 tied")
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "a run"
    done = cli("convert", model, "--out", out, "--calib-text", book, "--samples", 3, "--low-layers", 1, "--low", "Q2_K")
    assert done.returncode == 0, done.stderr
    (written,) = out.glob("19-tied-LUQ1-Q2K-Q4KM-*_LUQ.gguf")
    assert f"Try it: llama-cli -m '{written}'" in done.stdout
    assert "output.weight" not in reader.read(written).types
    assert json.loads((out / "run.json").read_text())["stages"]["check"]["seconds"] > 0


def test_rows_that_no_block_fits_are_named_with_what_they_would_become(cli, text_model, book, tmp_path):
    model = text_model(hidden=192)
    arguments = ("convert", model, "--out", tmp_path / "run", "--calib-text", book, "--samples", 3, "--low-layers", 1)
    arguments += ("--low", "IQ2_XXS")
    done = cli(*arguments)
    assert done.returncode == 2
    assert "12 matrices have rows that IQ2_XXS's blocks of 256 do not divide" in done.stderr
    assert "attn_k, attn_output, attn_q, attn_v, ffn_gate, ffn_up would become IQ4_NL" in done.stderr
    assert not (tmp_path / "run" / "profile.json").exists()
    assert "accept this with --allow-fallback" in done.stderr
    assert cli(*arguments, "--overwrite").returncode == 2
    allowed = cli(*arguments, "--allow-fallback", "--json")
    assert allowed.returncode == 0, allowed.stderr
    assert "would become IQ4_NL" in allowed.stderr


def test_an_architecture_unknown_to_llama_cpp(cli, text_model, tmp_path):
    model = text_model()
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["XGLMForCausalLM"], "model_type": "xglm"}
    (model / "config.json").write_text(json.dumps(config))
    done = cli("convert", model, "--out", tmp_path / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert "XGLMForCausalLM is not supported" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("KimiVLForConditionalGeneration", "llama.cpp's converter knows it: convert_hf_to_gguf.py"),
        ("NoSuchModelForCausalLM", "llama.cpp's converter does not know it either."),
    ],
)
def test_a_model_unknown_to_transformers_is_said_to_be_known_to_the_converter_or_not(
    cli, text_model, tmp_path, architecture, words
):
    model = text_model()
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": [architecture], "model_type": "no_such_model"}
    (model / "config.json").write_text(json.dumps(config))
    done = cli("convert", model, "--out", tmp_path / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert f"does not know the architecture {architecture}" in done.stderr
    assert words in done.stderr


def test_a_tensor_without_a_gguf_name_is_named(cli, text_model, tmp_path):
    from safetensors.torch import load_file, save_file

    model = text_model()
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.self_attn.extra_proj.weight"] = tensors["model.layers.0.self_attn.q_proj.weight"].clone()
    save_file(tensors, model / "model.safetensors")
    done = cli("convert", model, "--out", tmp_path / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert "model.layers.0.self_attn.extra_proj.weight" in done.stderr
    assert not (tmp_path / "run" / "profile.json").exists()


def test_parts_of_a_linear_layer_have_its_inputs_or_keep_the_high_type(llama, tmp_path, monkeypatch):
    """The converter parts this model's key-value projection in two, one of which it transposes."""
    model, said = by_name("deepseek-v3").build(tmp_path / "parted"), []
    for name, value in any_tokenizer_environment(tmp_path / "llama.cpp", llama).items():
        monkeypatch.setenv(name, value)
    with RunFolder(tmp_path / "run", create=True) as run:
        spec = load_model_spec(run, str(model), reporter=Reporter(info=said.append), low="IQ2_XXS")
    values, rows = spec.matrices["blk.1.attn_v_b.weight"], ((32, 96), (128, 192), (224, 288), (320, 384))
    assert values == MatrixSource("model.layers.1.self_attn.kv_b_proj", "", n_mat=4, n_in=256, rows=rows)
    gate = spec.matrices["blk.2.ffn_gate_exps.weight"]
    assert (gate.module, gate.n_mat, gate.n_in) == ("model.layers.2.mlp.experts", 8, 256)
    keys = [f"blk.{layer}.attn_k_b.weight" for layer in range(3)]
    assert spec.tensors.without_importance == tuple(keys)
    choices = {choice.name: choice for choice in spec.tensors.choices}
    assert all(choices[name].low_type == choices[name].high_type for name in keys)
    assert choices["blk.1.attn_v_b.weight"].low_type == "IQ2_XXS"
    assert said[-1] == (
        "3 matrices of the layers have no importance, as the reference model does not show their inputs, and never "
        "become low: attn_k_b"
    )


def test_a_file_that_libllama_could_not_load_is_refused_before_any_weight_is_read(llama, tmp_path, monkeypatch):
    """The pinned converter takes every Nemotron-H for a mixture of experts, and writes no layer as dense."""
    kinds = ["linear_attention", "mlp", "full_attention", "mlp"]
    family = by_name("nemotron-h")
    dense = text_model_of("NemotronHConfig", "NemotronHForCausalLM", layers_block_type=kinds, vocab_size=384)
    model = replace(family, make=dense).build(tmp_path / "dense")
    for name, value in any_tokenizer_environment(tmp_path / "llama.cpp", llama).items():
        monkeypatch.setenv(name, value)
    wanted = "libllama cannot load the file that .* would write of dense: .*'blk.1.ssm_in.weight' not found"
    with RunFolder(tmp_path / "run", create=True) as run, pytest.raises(CheckpointError, match=wanted):
        load_model_spec(run, str(model))


def test_blocks_that_the_reference_model_does_not_compute_get_types_that_need_no_importance(cli, llama, book, tmp_path):
    family = by_name("qwen3.5")
    model = family.build(tmp_path / "with-mtp")
    more = any_tokenizer_environment(tmp_path / "llama.cpp", llama)
    arguments = (model, "--out", tmp_path / "run", "--calib-text", book, "--alpha", 0, "--samples", 3)
    done = cli("convert", *arguments, "--low-layers", 4, "--low", "IQ2_XXS", "--high", "IQ2_M", env=os.environ | more)
    assert done.returncode == 0, done.stderr
    assert "matrices have no importance, as the reference model does not show their inputs" in done.stdout
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["low_layers"] == [0, 1, 2, 3]
    names = plan["without_importance"]
    assert "blk.4.ffn_down.weight" in names
    assert all(name.startswith("blk.4.") for name in names)
    assert not {plan["tensor_types"][name] for name in names} & set(reader.IMATRIX_TYPES)

    plan["tensor_types"]["blk.4.ffn_down.weight"] = "IQ1_M"
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    edited = cli("quantize", tmp_path / "run", env=os.environ | more)
    assert edited.returncode == 2
    assert "blk.4.ffn_down.weight the type IQ1_M, which needs an importance entry" in edited.stderr


def test_columns_in_another_order_than_measured_are_noticed(cli, text_model, book, tmp_path):
    from safetensors.numpy import load_file, save_file

    arguments = ("--out", tmp_path / "run", "--calib-text", book, "--samples", 3, "--low-layers", 1, "--json")
    done = cli("convert", text_model(), *arguments, "--low", "Q2_K")
    assert done.returncode == 0, done.stderr
    saved = load_file(tmp_path / "run" / "profile.safetensors")
    saved["columns.blk.0.ffn_down.weight"] = np.roll(saved["columns.blk.0.ffn_down.weight"], 64)
    save_file(saved, tmp_path / "run" / "profile.safetensors")
    Path(json.loads(done.stdout)["model"]).unlink()
    again = cli("quantize", tmp_path / "run")
    assert again.returncode == 1
    assert "puts the columns of blk.0.ffn_down.weight in a different order" in again.stderr
    assert not list((tmp_path / "run").glob("*LUQ*"))


def test_calibration_of_too_few_tokens_says_how_many_it_takes(cli, text_model, tmp_path):
    (tmp_path / "short.txt").write_text("a red circle")
    done = cli(
        "convert", text_model(), "--out", tmp_path / "run", "--calib-text", tmp_path / "short.txt", "--low-layers", 1
    )
    assert done.returncode == 2
    assert "needs at least 100" in done.stderr


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_the_folder_of_another_model_is_not_overwritten(cli, small, text_model, tmp_path):
    done = cli("convert", text_model(), "--out", small.copy(tmp_path / "run").folder, "--low-layers", 1)
    assert done.returncode == 2
    assert "contains a run of" in done.stderr


def test_a_read_only_folder_is_one_sentence(cli, text_model, tmp_path):
    (tmp_path / "file").touch()
    done = cli("convert", text_model(), "--out", tmp_path / "file" / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_a_checkpoint_is_learnt_once_and_anew_when_a_file_of_it_changes(text_model, empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", empty_cache())
    model, said = text_model(), []

    def learn(name):
        said.clear()
        with RunFolder(tmp_path / name, create=True) as run:
            spec = load_model_spec(run, str(model), reporter=Reporter(info=said.append))
            header_file = run.work / "skeleton.gguf"
            return header_file.read_bytes(), (run.work / "listenable.json").read_bytes(), spec.tensors

    (model / "nowhere").symlink_to(tmp_path / "gone")  # as a broken download leaves them
    first = learn("first")
    assert said == ["reading random-llama"]
    assert learn("second") == first
    assert said == []
    (model / "README.md").write_text("a card, which the converter reads")
    assert learn("third")[1:] == first[1:]
    assert said == ["reading random-llama"]


@pytest.mark.parametrize("command", [("profile", MODELS / "tiny-qwen2.5-vl"), ("demo", "--questions", 1)])
def test_a_device_that_does_not_exist_is_refused_and_leaves_nothing(cli, llama, tmp_path, command):
    out = tmp_path / "out"
    done = cli(*command, "--out", out, "--device", "tpu")
    assert done.returncode == 2, done.stderr
    assert "--device tpu: torch does not know this device.\nTry auto, cpu or cuda.\n" in done.stderr
    assert not list(tmp_path.rglob("run.json"))
