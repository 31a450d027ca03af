"""Where the reference model is computed: answers to what can be known of an accelerator, and this machine's own."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from luq_gguf.calibration.forward_pass import run_pass
from luq_gguf.core.errors import DeviceError, MemoryLimitError
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.hf import devices
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.datasets import read_calibration
from luq_gguf.hf.devices import Facts

GIB = 2**30
SOUND = Facts("cuda", "cuda", available=True, count=1, free=24 * GIB)
NO_DRIVER = Facts("cuda", "cuda", fault="Found no NVIDIA driver on your system. Please check that you have a GPU")
OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading"
KERNEL = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported at"
FULL = "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.25 GiB of which 1.12 MiB"


def pick(facts, weights=15 * GIB, layer=GIB // 2, alone=False):
    placement, sentence = devices.pick(facts, weights, layer, alone=alone)
    return str(placement.device), placement.spread, sentence


def test_an_accelerator_that_computes_and_has_room_is_taken_without_a_word():
    assert pick(SOUND) == ("cuda", False, None)
    assert pick(replace(SOUND, device="cuda:1"), alone=True) == ("cuda:1", False, None)
    assert pick(Facts("mps", "mps", available=True, count=1)) == ("mps", False, None)  # which does not tell its memory


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (NO_DRIVER, "Found no NVIDIA driver on your system"),
        (replace(NO_DRIVER, fault=OLD), "The NVIDIA driver on your system is too old (found version 12040)"),
        (replace(NO_DRIVER, hidden="CUDA_VISIBLE_DEVICES"), "CUDA_VISIBLE_DEVICES hides every device"),
        (
            replace(SOUND, fault=KERNEL, free=None),
            "a test computation on it failed (CUDA error: no kernel image is available for execution on the device)",
        ),
        (replace(SOUND, fault=FULL, free=None), "a test computation on it failed (CUDA out of memory)"),
        (
            replace(SOUND, fault="a sum of 262144 came out as 0", free=None),
            "a test computation on it failed (a sum of 262144 came out as 0)",
        ),
        (replace(SOUND, free=GIB), "1.00 GiB of its memory is free, but the model takes 15.50 GiB"),
        (replace(SOUND, count=2, free=GIB // 4), "0.25 GiB of its memory is free, but one layer takes 0.50 GiB"),
    ],
    ids=["no driver", "old driver", "hidden", "no kernel", "full", "wrong sum", "small", "small of two"],
)
def test_else_the_cpu_is_and_one_line_says_why(facts, reason):
    assert pick(facts) == ("cpu", False, f"the reference model runs on the CPU, not on cuda: {reason}")


def test_a_model_is_spread_where_several_gpus_are_ours_and_the_first_is_too_small():
    two = replace(SOUND, count=2)
    assert pick(two, weights=20 * GIB) == ("cuda", False, None)
    assert pick(two, weights=20 * GIB + 1) == ("cuda", True, None)
    assert pick(two, weights=200 * GIB) == ("cuda", True, None)
    assert pick(SOUND, weights=20 * GIB + 1) == ("cuda", False, None)
    device, spread, sentence = pick(replace(two, device="cuda:1"), weights=40 * GIB, alone=True)
    assert (device, spread) == ("cpu", False)
    assert "24.00 GiB of its memory is free, but the model takes 40.50 GiB" in sentence


def test_a_named_device_that_cannot_be_used_says_what_would_help():
    assert devices.shortcoming(SOUND) is None
    assert devices.shortcoming(Facts("cuda", None)).reason == "this torch is built for the CPU only"
    assert devices.shortcoming(Facts("xpu", "cuda")).remedy == "Install a build of torch for xpu"
    assert devices.shortcoming(NO_DRIVER).remedy == "Install or update its driver"
    assert devices.shortcoming(replace(NO_DRIVER, hidden="CUDA_VISIBLE_DEVICES")).remedy == "Unset CUDA_VISIBLE_DEVICES"


def test_auto_on_this_machine_is_a_device_that_computes(models):
    said = []
    placement = devices.choose_device("auto", open_checkpoint(str(models / "tiny-qwen2.5-vl")), said.append)
    ones = torch.ones(8, 8, dtype=placement.dtype, device=placement.device)
    assert float((ones @ ones).sum()) == 512
    unexpected = placement.device.type == "cpu" and torch.accelerator.current_accelerator() is not None
    assert len(said) == unexpected


def test_a_device_that_is_not_here_is_refused(models):
    checkpoint = open_checkpoint(str(models / "tiny-qwen2.5-vl"))
    with pytest.raises(DeviceError, match="--device tpu: torch does not know this device") as caught:
        devices.choose_device("tpu", checkpoint)
    assert caught.value.exit_code == 2
    assert str(devices.choose_device("cpu", checkpoint).device) == "cpu"
    accelerator = torch.accelerator.current_accelerator()
    absent = "xpu" if accelerator and accelerator.type == "cuda" else "cuda"
    with pytest.raises(DeviceError, match=f"--device {absent} cannot be used: this torch is built for") as caught:
        devices.choose_device(absent, checkpoint)
    assert caught.value.hint == f"Install a build of torch for {absent}, or use --device cpu."


def test_memory_that_is_refused_is_told_as_such():
    cpu = devices.Placement(torch.device("cpu"))
    with pytest.raises(MemoryLimitError, match="did not give the reference model any more"), devices.memory_errors(cpu):
        torch.empty(2**62, dtype=torch.uint8)
    told = "cuda has too little free memory: CUDA out of memory.$"
    with pytest.raises(MemoryLimitError, match=told), devices.memory_errors(devices.Placement(torch.device("cuda"))):
        raise torch.OutOfMemoryError(FULL)
    with pytest.raises(RuntimeError, match="shape"), devices.memory_errors(cpu):
        torch.ones(2, 3) @ torch.ones(3, 2) @ torch.ones(3, 2)


def test_a_pass_begun_in_another_precision_is_not_gone_on_with(models, tmp_path, monkeypatch):
    """Its kept vectors have other bytes. A pass that changes from a GPU to an old CPU does so."""
    checkpoint = open_checkpoint(str(models / "tiny-qwen2.5-vl"))
    path = "model.language_model.layers.3.mlp.up_proj"
    sources = {"blk.3.ffn_up.weight": MatrixSource(path, "", n_mat=1, n_in=256)}
    (tmp_path / "book.txt").write_text("the shape is a circle, and it is red.\n" * 20)
    calibration = read_calibration(
        None, str(tmp_path / "book.txt"), n_samples=1, alpha=0.0, seed=0, cache=tmp_path / "images"
    )

    def vectors(work, bfloat16):
        monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device: bfloat16)
        cpu = devices.Placement(torch.device("cpu"))
        passed = run_pass(checkpoint, calibration, sources, work, placement=cpu, on_samples=lambda done, total: None)
        with passed as pass_result:
            return pass_result.reservoir.vectors("text", 11)

    vectors(tmp_path / "a", True)
    fresh = vectors(tmp_path / "b", False)
    assert len(fresh) > 100
    assert np.array_equal(vectors(tmp_path / "a", False), fresh)


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "2"}, 8),  # torch has heard of it
        ({"OMP_THREAD_LIMIT": "3"}, 3),
        ({"OMP_THREAD_LIMIT": "16"}, 8),
        ({"OMP_DYNAMIC": "TRUE"}, 1),
        ({"OMP_DYNAMIC": "false"}, 8),
        ({"OMP_MAX_ACTIVE_LEVELS": "0"}, 1),
        ({"OMP_MAX_ACTIVE_LEVELS": "1"}, 8),
    ],
)
def test_torch_has_no_more_threads_than_openmp_is_sure_to_start(environment, threads):
    sure, sentence = devices.openmp_threads(8, environment)
    assert sure == threads
    assert (sentence is None) == (threads == 8)


PRODUCTS = """
import torch
from luq_gguf.hf import devices
devices.choose_device("cpu", None)
torch.manual_seed(0)
x, w = torch.randn(300, 256).bfloat16(), torch.randn(688, 256).bfloat16()
for _ in range(5):
    assert torch.allclose(torch.nn.functional.linear(x, w).float(), x.float() @ w.float().T, rtol=0.05, atol=0.5)
"""


@pytest.mark.parametrize("limit", ["OMP_THREAD_LIMIT=1", "OMP_DYNAMIC=true", "OMP_MAX_ACTIVE_LEVELS=0"])
def test_products_are_whole_where_openmp_starts_fewer_threads_than_torch_asks_for(limit):
    name, _, value = limit.partition("=")
    environment = {n: v for n, v in os.environ.items() if n not in ("OMP_THREAD_LIMIT", "OMP_NUM_THREADS")}
    command = (sys.executable, "-c", PRODUCTS)
    done = subprocess.run(command, env=environment | {name: value}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
