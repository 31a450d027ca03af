"""The preflight renders what calibration and evaluation will render later."""

import json
import shutil
from pathlib import Path

import gguf
import pytest

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.reporter import Reporter
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.model import meta_model
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.run import prompt_check

MODEL = Path(__file__).parents[1] / "models" / "tiny-qwen2.5-vl"
TEMPLATE = (MODEL / "chat_template.jinja").read_text()
POWERS = "{% set n = 2 ** 3 %}" + TEMPLATE  # transformers' sandbox lets it pass


@pytest.fixture
def copy(tmp_path):
    """The model's folder, to be changed."""
    folder = shutil.copytree(MODEL, tmp_path / "copy", ignore=lambda *_: ["model.safetensors"])
    (folder / "model.safetensors").symlink_to(MODEL / "model.safetensors")
    return folder


@pytest.fixture
def check(copy, tmp_path):
    """Checks the copy against a file with this template, and returns what the user is told."""

    def tell(template):
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", arch="qwen2vl")
        if template:
            writer.add_chat_template(template)
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        told, checkpoint = [], open_checkpoint(str(copy))
        model = meta_model(checkpoint)
        prompt_check.check(checkpoint, model, reader.read(tmp_path / "a.gguf"), Reporter(info=told.append))
        return told

    return tell


@pytest.mark.parametrize("template", [TEMPLATE, "{% generation %}{% endgeneration %}" + TEMPLATE, None])
def test_templates_that_both_render_are_passed_without_a_word(check, copy, template):
    (copy / "chat_template.jinja").write_text(template or "")
    assert check(template) == []


def test_a_template_that_the_file_will_not_have_is_named(check):
    (told,) = check(None)
    assert "the file will have none: save it as chat_template.jinja" in told
    (told,) = check(TEMPLATE + "!")
    assert "two chat templates" in told


def test_a_template_that_only_transformers_renders_is_refused(check, copy):
    (copy / "chat_template.jinja").write_text(POWERS)
    with pytest.raises(CheckpointError, match="powers are not allowed") as caught:
        check(POWERS)
    assert caught.value.hint


def test_the_preflight_renders_a_prompt(cli, llama, copy, tmp_path):
    (copy / "chat_template.jinja").write_text(POWERS)
    done = cli("profile", copy, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "powers are not allowed" in done.stderr


def test_a_missing_image_mean_is_one_sentence(cli, llama, copy, tmp_path):
    processor = json.loads((copy / "processor_config.json").read_text())
    del processor["image_processor"]["image_mean"]
    (copy / "processor_config.json").write_text(json.dumps(processor))
    done = cli("profile", copy, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "copy has no image_mean in its configuration" in done.stderr
    assert "Add image_mean to preprocessor_config.json" in done.stderr
    assert "KeyError" not in done.stderr
