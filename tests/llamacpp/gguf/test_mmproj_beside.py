"""Which vision halves lie beside a text model's file."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from luq_gguf.core.errors import GGUFFileError
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


def write(path: Path, checkpoint: str | None) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    if checkpoint:
        writer.add_string("luq.checkpoint", checkpoint)
    writer.add_tensor("t", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_of_several_vision_halves_the_one_of_the_same_checkpoint_is_taken(tmp_path: Path):
    model = write(tmp_path / "model.gguf", "a")
    ours, theirs = (write(tmp_path / f"mmproj-{name}.gguf", name) for name in "ab")
    unknown = write(tmp_path / "mmproj-c.gguf", None)
    assert mmproj.candidates(model) == [ours]
    ours.unlink()
    assert mmproj.candidates(model) == [theirs, unknown]
    assert mmproj.candidates(write(tmp_path / "other.gguf", None)) == [theirs, unknown]


def test_two_halves_that_name_different_checkpoints_are_refused_and_files_of_others_are_not(tmp_path: Path):
    model, theirs = write(tmp_path / "model.gguf", "a"), write(tmp_path / "mmproj.gguf", "b")
    with pytest.raises(GGUFFileError, match=r"mmproj.gguf was made from another checkpoint than model.gguf"):
        mmproj.check_pair(model, theirs)
    mmproj.check_pair(model, write(tmp_path / "mmproj-same.gguf", "a"))
    mmproj.check_pair(model, write(tmp_path / "mmproj-unknown.gguf", None))
    mmproj.check_pair(write(tmp_path / "unknown.gguf", None), theirs)


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
