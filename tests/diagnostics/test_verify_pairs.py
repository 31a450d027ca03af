"""verify, where the vision half is of another family: both little models have the same widths."""

from pathlib import Path

import pytest

from luq_gguf.diagnostics import verify
from luq_gguf.llamacpp import converter
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
        ("qwen3", "qwen3vl_merger", False),
        ("qwen2vl", "qwen3vl_merger", False),
    ],
)
def test_families_that_share_a_projector(arch, projector, ok):
    text = GGUFInfo(Path("text.gguf"), 0, 0, {"general.architecture": arch, f"{arch}.embedding_length": 64}, ())
    half = {"general.architecture": "clip", "clip.projector_type": projector, "clip.vision.projection_dim": 64}
    assert verify._belongs(text, GGUFInfo(Path("mmproj.gguf"), 0, 0, half, ())).ok == ok
