"""Two passes in two threads of one process give what each gives alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from luq_gguf.calibration import distributed_pass
from luq_gguf.calibration import shards as shard_files
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.types import ShardSpec
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf import model as hf_model

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


def test_models_made_at_the_same_time_leave_torchs_default_dtype(tiny_model):
    checkpoint = checkpoints.open_checkpoint(str(tiny_model))

    def dtypes(_: int) -> list[torch.dtype]:
        made = hf_model.meta_model(checkpoint)
        return [tensor.dtype for tensor in (*made.parameters(), *made.buffers())]

    alone = dtypes(0)
    with ThreadPoolExecutor(4) as threads:
        assert all(together == alone for together in threads.map(dtypes, range(8)))
    assert torch.get_default_dtype() == torch.float32


def test_passes_in_two_threads_are_those_of_one(tiny_model, calibration_file, tmp_path):
    calibration = CalibrationSet(calibration_file, samples=8)

    def make(name: str) -> None:
        distributed_pass.profile_shard(str(tiny_model), tmp_path / name, calibration, ShardSpec())

    make("alone")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(make, ("one", "other")))
    for name in shard_files.names(12):
        expected = (tmp_path / "alone" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() == expected, name
