"""A checkpoint in a form that the converter does not know gives the files of the one that it knows."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from families import any_tokenizer_environment, by_name
from families.family import change_tensors

from luq_gguf.core import checkpoint_view
from luq_gguf.core.errors import ConversionError
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.llamacpp import converter, tools
from luq_gguf.llamacpp.gguf import reader


@pytest.fixture
def qwen(models, tmp_path):
    """The little Qwen2.5-VL twice: as it is, and under the names of transformers' modules."""
    for form in ("known", "saved"):
        shutil.copytree(models / "tiny-qwen2.5-vl", tmp_path / form / "qwen")
    saved = tmp_path / "saved" / "qwen"
    change_tensors(saved, lambda ts: {f"model.{n}" if n.startswith("visual.") else n: t for n, t in ts.items()})
    return open_checkpoint(str(tmp_path / "known" / "qwen")), open_checkpoint(str(saved))


def test_the_mmproj_is_the_same_to_the_byte_here_and_by_the_command_of_a_recipe(llama, qwen, tmp_path):
    known, saved = qwen
    assert (bool(known.view), bool(saved.view)) == (False, True)
    files = [tmp_path / f"mmproj-{n}.gguf" for n in range(3)]
    for checkpoint, out in zip(qwen, files, strict=False):
        converter.to_16_bit(llama, checkpoint.folder, out, "qwen", mmproj=True, view=checkpoint.view)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"checkpoint": {"view": checkpoint_view.to_json(saved.view)}}))
    command = [sys.executable, "-m", "luq_gguf.llamacpp.converter_child", recipe, llama.converter]
    command += [*converter.arguments(str(saved.folder), str(tmp_path / "0.gguf"), "qwen"), "--mmproj"]
    subprocess.run(command, check=True, capture_output=True, env=tools.bindings_environment())
    (tmp_path / "mmproj-0.gguf.bak").write_bytes(files[0].read_bytes())
    assert (tmp_path / "mmproj-0.gguf").read_bytes() == files[1].read_bytes()
    assert files[1].read_bytes() == (tmp_path / "mmproj-0.gguf.bak").read_bytes()


def test_experts_as_transformers_5_stores_them_are_those_of_the_hubs_layout(llama, tmp_path, monkeypatch):
    family = by_name("qwen3-vl-moe")
    saved = family.build(tmp_path / "saved" / "moe")
    known = shutil.copytree(saved, tmp_path / "known" / "moe")
    change_tensors(
        known, lambda ts: {n: t.transpose(1, 2).contiguous() if "experts" in n else t for n, t in ts.items()}
    )
    for name, value in any_tokenizer_environment(tmp_path / "llama.cpp", llama).items():
        monkeypatch.setenv(name, value)
    own, files = tools.find(), []
    for folder in (known, saved):
        checkpoint = open_checkpoint(str(folder))
        assert bool(checkpoint.view) == (folder == saved)
        files.append(tmp_path / f"{folder.parent.name}.gguf")
        converter.to_16_bit(own, checkpoint.folder, files[-1], "moe", view=checkpoint.view)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert any("_exps" in name for name in reader.read(files[0]).types)


def test_a_converter_that_reads_checkpoints_in_another_way_is_refused(llama, qwen, tmp_path, monkeypatch):
    other = tmp_path / "convert_hf_to_gguf.py"
    other.write_text("print('an older one')")
    with pytest.raises(ConversionError, match=r"does not read checkpoints as the pinned one does"):
        converter.to_16_bit(
            replace(llama, converter=other), qwen[1].folder, tmp_path / "f16.gguf", "qwen", view=qwen[1].view
        )
