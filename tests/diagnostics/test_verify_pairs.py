"""verify, where the vision half is of another family: both little models have the same widths."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from luq_gguf.diagnostics import pairs, verify
from luq_gguf.llamacpp import converter, tools
from luq_gguf.llamacpp.gguf.metadata import CHECKPOINT
from luq_gguf.llamacpp.gguf.reader import GGUFInfo


@pytest.fixture(scope="module")
def halves(llama, models, tmp_path_factory):
    """The Qwen's text half, and a file that says it is LLaVA's vision half of the same width."""
    folder = tmp_path_factory.mktemp("halves")
    text = converter.to_16_bit(llama, models / "tiny-qwen2.5-vl", folder / "text.gguf", "qwen").path
    vision = converter.to_16_bit(llama, models / "tiny-qwen2.5-vl", folder / "mmproj.gguf", "qwen", mmproj=True).path
    return text, vision


def test_another_familys_mmproj(halves, tmp_path):
    text, vision = halves
    other = tmp_path / "mmproj-other.gguf"
    other.write_bytes(vision.read_bytes().replace(b"qwen2.5vl_merger", b"ldpv2_projector_", 1))
    found = {check.name: check for check in verify.verify(text, other, threads=1).checks}
    assert not found["mmproj-other.gguf: belongs"].ok
    assert "does not belong to qwen2vl" in found["mmproj-other.gguf: belongs"].found
    assert found["text.gguf: logits"].ok
    assert verify.verify(text, vision, threads=1).ok


@pytest.mark.parametrize(
    ("arch", "projector", "ok"),
    [
        ("qwen35", "qwen3vl_merger", True),
        ("qwen35moe", "qwen3vl_merger", True),
        ("qwen3vlmoe", "qwen3vl_merger", True),
        ("qwen4exp", "qwen3vl_merger", True),
        ("qwen35", "minicpmv4_6", True),
        ("llama", "qwen2vl_merger", True),
        ("glm4", "glm4v", True),
        ("qwen3", "pixtral", True),
        ("qwen35", "gemma3", False),
        ("gemma3", "gemma4v", False),
        ("qwen35", "pixtral", False),
        ("qwen3", "qwen3vl_merger", False),
        ("qwen2vl", "qwen3vl_merger", False),
    ],
)
def test_families_that_share_a_projector(arch, projector, ok):
    assert belongs(arch, projector).ok == ok


def belongs(arch, projector, **both):
    text = {"general.architecture": arch, f"{arch}.embedding_length": 64} | both
    half = {"general.architecture": "clip", "clip.projector_type": projector, "clip.vision.projection_dim": 64} | both
    return verify._belongs(*(GGUFInfo(Path(f"{kind}.gguf"), 0, 0, made, ()) for kind, made in ((1, text), (2, half))))


def test_two_halves_that_name_one_checkpoint_belong_together_whatever_they_are():
    assert belongs("qwen2vl", "a projector of tomorrow", **{CHECKPOINT: "abc"}).ok
    assert not belongs("qwen2vl", "a projector of tomorrow").ok


_LIST = """
import inspect, json, re
import gguf
from conversion import MMPROJ_MODEL_MAP, TEXT_MODEL_MAP, get_model_class
for name in sorted(set(MMPROJ_MODEL_MAP) & set(TEXT_MODEL_MAP)):
    try:
        halves = get_model_class(name), get_model_class(name, mmproj=True)
    except KeyError:  # listed, and not there
        continue
    names = re.findall(r"VisionProjectorType\\.(\\w+)", inspect.getsource(halves[1]))
    projectors = [getattr(gguf.VisionProjectorType, each) for each in names]
    print(json.dumps([name, gguf.MODEL_ARCH_NAMES[halves[0].model_arch], projectors]))
"""


def test_every_pair_that_the_pinned_converter_writes_belongs_together(llama):
    """By its classes: those of one name for both halves, with the projectors that the vision half's class names."""
    folder = llama.converter.parent
    environment = os.environ | {"PYTHONPATH": f"{folder}:{folder / 'gguf-py'}"}
    command = [tools.python(), "-c", _LIST]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = {
        (arch, projector)
        for _, arch, projectors in lines
        for projector in projectors
        if not pairs.belong(arch, projector)
    }
    assert len(lines) > 30
    assert wrong == {("deepseek2", "deepseekocr")}  # whose class calls itself deepseek2-ocr when it is made
