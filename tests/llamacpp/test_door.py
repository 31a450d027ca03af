"""What the door learns of a checkpoint, and what it refuses, before any weight is read."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

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


def test_rows_that_no_block_fits_are_named_with_what_they_would_become(cli, text_model, book, tmp_path):
    model = text_model(hidden=192)
    arguments = ("convert", model, "--out", tmp_path / "run", "--calib-text", book, "--samples", 3, "--low-layers", 1)
    done = cli(*arguments)
    assert done.returncode == 2
    assert "12 matrices have rows that IQ1_M's blocks of 256 do not divide" in done.stderr
    assert "attn_k, attn_output, attn_q, attn_v, ffn_gate, ffn_up would become IQ4_NL" in done.stderr
    assert not (tmp_path / "run" / "profile.json").exists()
    forced = cli(*arguments, "--force", "--json")
    assert forced.returncode == 0, forced.stderr
    assert "would become IQ4_NL" in forced.stderr


def test_an_architecture_unknown_to_llama_cpp(cli, text_model, tmp_path):
    model = text_model()
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["XGLMForCausalLM"], "model_type": "xglm"}
    (model / "config.json").write_text(json.dumps(config))
    done = cli("convert", model, "--out", tmp_path / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert "XGLMForCausalLM is not supported" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tensor_without_a_gguf_name_is_named(cli, text_model, tmp_path):
    from safetensors.torch import load_file, save_file

    model = text_model()
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.self_attn.extra_proj.weight"] = tensors["model.layers.0.self_attn.q_proj.weight"].clone()
    save_file(tensors, model / "model.safetensors")
    done = cli("convert", model, "--out", tmp_path / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert "model.layers.0.self_attn.extra_proj.weight has no GGUF name" in done.stderr


def test_calibration_of_too_few_tokens_says_how_many_it_takes(cli, text_model, tmp_path):
    (tmp_path / "short.txt").write_text("a red circle")
    done = cli(
        "convert", text_model(), "--out", tmp_path / "run", "--calib-text", tmp_path / "short.txt", "--low-layers", 1
    )
    assert done.returncode == 2
    assert "needs 100 at least" in done.stderr


def test_the_folder_of_another_model_is_not_overwritten(cli, converted, text_model):
    done = cli("convert", text_model(), "--out", converted.folder, "--low-layers", 1)
    assert done.returncode == 2
    assert "holds a run of" in done.stderr


def test_a_read_only_folder_is_one_sentence(cli, text_model, tmp_path):
    (tmp_path / "file").touch()
    done = cli("convert", text_model(), "--out", tmp_path / "file" / "run", "--low-layers", 1)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
