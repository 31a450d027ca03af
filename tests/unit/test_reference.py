"""When a reference model is spread over several GPUs."""

import pytest
import torch

from luq_gguf.hf import reference

GIB = 2**30


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * GIB, 24 * GIB))
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_a_model_that_one_gpu_holds_stays_on_it(two_gpus):
    assert reference.device_map("auto", 15 * GIB) is None
    assert reference.device_map("auto", 20 * GIB) is None


def test_a_larger_one_is_spread(two_gpus):
    assert reference.device_map("auto", 20 * GIB + 1) == "auto"


def test_what_the_user_or_a_launcher_chose_is_kept(two_gpus, monkeypatch):
    assert reference.device_map("cuda:1", 40 * GIB) is None
    assert reference.device_map("cpu", 40 * GIB) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert reference.device_map("auto", 40 * GIB) is None


def test_one_gpu_has_nobody_to_share_with(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert reference.device_map("auto", 40 * GIB) is None
