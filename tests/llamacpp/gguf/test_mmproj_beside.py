"""Which vision halves lie beside a text model's file."""

from pathlib import Path

import pytest

from luq_gguf.llamacpp.gguf import mmproj


def test_vision_halves_are_found_by_name_in_the_files_own_folder(tmp_path: Path):
    for name in (
        "model.gguf",
        "mmproj-b-F16.gguf",
        "mmproj.gguf",
        "mmproj-a.gguf.part",
        "commproj.gguf",
        "mmprojector.gguf",
        "mmproj.txt",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "mmproj-c.gguf").write_bytes(b"")
    assert [path.name for path in mmproj.beside(tmp_path / "model.gguf")] == ["mmproj-b-F16.gguf", "mmproj.gguf"]


@pytest.mark.parametrize(
    "name",
    [
        "mmproj-model-f16.gguf", "model.mmproj-f16.gguf", "model-mmproj-F16.gguf", "model.mmproj.gguf", "MMPROJ-a.gguf",
        "mmproj-a.GGUF", "model_mmproj_Q8_0.gguf", "Model-MMPROJ.GGUF",
    ],
)  # fmt: skip
def test_names_that_publishers_give(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    assert [path.name for path in mmproj.beside(tmp_path / "model.gguf")] == [name]
