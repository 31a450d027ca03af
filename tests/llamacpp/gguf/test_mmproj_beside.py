"""Which vision halves lie beside a text model's file."""

from pathlib import Path

from luq_gguf.llamacpp.gguf import mmproj


def test_vision_halves_are_found_by_name_in_the_files_own_folder(tmp_path: Path):
    for name in (
        "model.gguf",
        "mmproj-b-F16.gguf",
        "mmproj.gguf",
        "mmproj-a.gguf.part",
        "not-mmproj.gguf",
        "mmproj.txt",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "mmproj-c.gguf").write_bytes(b"")
    assert [path.name for path in mmproj.beside(tmp_path / "model.gguf")] == ["mmproj-b-F16.gguf", "mmproj.gguf"]
