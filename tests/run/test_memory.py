"""Whether a pass on the CPU has the memory that it needs, said or refused before it begins."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from luq_gguf.calibration.distributed import Launch
from luq_gguf.core import machine
from luq_gguf.core.errors import MemoryLimitError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.units import format_size
from luq_gguf.hf import footprint
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.run.memory import check_memory

MIB = 2**20


@pytest.fixture
def tiny(models):
    return open_checkpoint(str(models / "tiny-qwen2.5-vl"))


def left(tmp_path, n_bytes):
    """What a cgroup with a limit leaves that holds 10 MiB of programs and 90 MiB of files that were read."""
    stat = f"anon {10 * MIB}\ninactive_file {80 * MIB}\nactive_file {10 * MIB}\n"
    limits = {"max": n_bytes + 10 * MIB, "current": 100 * MIB, "stat": stat, "swap.max": 0, "swap.current": 0}
    for name, text in limits.items():
        (tmp_path / f"memory.{name}").write_text(str(text))
    (found,) = machine.cgroup_memory(tmp_path, "0::/")
    assert found.available == n_bytes
    return found


def test_weights_count_where_they_are_held_in_another_type_than_the_files_have(tmp_path, models):
    (tmp_path / "config.json").write_text((models / "tiny-qwen2.5-vl" / "config.json").read_text())
    arrays = {"model.layers.0.a.weight": np.ones((8, 4), "f4"), "b.weight": np.ones(16, "f2")}
    save_file(arrays | {"position_ids": np.ones(64, "i8")}, tmp_path / "model.safetensors")
    opened = open_checkpoint(str(tmp_path))
    assert footprint.of_pass(opened, "bfloat16").converted == 2 * (32 + 16)
    assert footprint.of_pass(opened, "float32").converted == 4 * 16
    assert footprint.largest_layer(opened) == 32


def test_what_the_model_leaves_out_is_not_counted(tiny):
    whole, half = (footprint.of_pass(tiny, "float32", n) for n in (None, 1_000_000))
    assert whole.converted == 4 * footprint.n_parameters(tiny)
    assert half.converted == 4_000_000
    assert half.least < half.usual < whole.usual


def test_a_pass_without_room_is_refused_in_one_sentence_and_a_hint(tiny, tmp_path):
    need = footprint.of_pass(tiny, "float32")
    with pytest.raises(MemoryLimitError) as caught:
        check_memory(tiny, "float32", left=left(tmp_path, need.least - 1))
    assert caught.value.exit_code == 1
    assert caught.value.message == (
        f"The reference model needs about {format_size(need.usual)} of memory (weights are converted to float32, since "
        f"this CPU has no bfloat16 units); the limit in {tmp_path}/memory.max leaves {format_size(need.least - 1)}."
    )
    assert caught.value.hint.startswith("Raise that limit, or run luq-gguf profile on a machine with more memory")


def test_a_near_case_is_said_and_goes_on(tiny, tmp_path):
    need, said = footprint.of_pass(tiny, "float32"), []
    check_memory(tiny, "float32", Reporter(info=said.append), left=left(tmp_path, need.least))
    assert len(said) == 1
    assert "may swap or be killed" in said[0]
    check_memory(tiny, "float32", Reporter(info=said.append), left=left(tmp_path, need.usual))
    check_memory(tiny, "float32", Reporter(info=said.append), left=machine.Memory(need.usual, 0))
    assert len(said) == 1


def test_weights_that_stay_in_their_files_need_no_room(tiny, tmp_path):
    """As bfloat16 the model is mapped, and layers are read again where memory is short."""
    need = footprint.of_pass(tiny, "bfloat16")
    assert need.converted == 0
    check_memory(tiny, "bfloat16", left=left(tmp_path, need.least))


def test_swap_counts_before_a_refusal_and_copies_add_up(tiny):
    need = footprint.of_pass(tiny, "float32")
    check_memory(tiny, "float32", left=machine.Memory(need.least - 1, 1))
    with pytest.raises(MemoryLimitError, match="this machine has") as caught:
        check_memory(tiny, "float32", left=machine.Memory(need.least - 1, 0))
    assert caught.value.hint.startswith("Close other programs, add swap, or run")
    with pytest.raises(MemoryLimitError, match="3 copies of the reference model need") as caught:
        check_memory(tiny, "float32", copies=3, left=machine.Memory(3 * need.least - 1, 0))
    assert caught.value.hint.startswith("Start fewer processes, or run")


def test_a_launcher_tells_how_many_processes_share_this_machine(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert Launch.of_environment() == Launch(1, 4, local=2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert Launch.of_environment() == Launch(1, 4, local=1)
