"""Layers on a GPU, as far as a build for the CPU shows it: what is refused, and in which words."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from luq_gguf.core.errors import DeviceError, RunnerError
from luq_gguf.core.measurements import EvalConditions, EvalResult
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.llamacpp import gpu
from luq_gguf.llamacpp.gpu import Offload
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.reporting import tables

of_tiny = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
TWO = ("CUDA0: NVIDIA H200", "Vulkan1: Intel(R) Arc(tm) Graphics (DG2)")


def test_the_devices_of_a_list_are_its_gpus():
    listed = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA H200, compute capability 9.0, VMM: yes
Available devices:
  CUDA0: NVIDIA H200 (143156 MiB, 142641 MiB free)
  Vulkan1: Intel(R) Arc(tm) Graphics (DG2) (15473 MiB, 15210 MiB free)
  BLAS: OpenBLAS (0 MiB, 0 MiB free)
"""
    assert gpu.devices_in(listed) == TWO
    assert gpu.devices_in("Available devices:\n  (none)\n") == ()


@pytest.mark.parametrize(
    ("layers", "gpus", "words"),
    [
        (-1, "", "all layers on the CPU"),
        (0, "NVIDIA H200", "all layers on the CPU"),
        (-1, "NVIDIA H200", "all layers on NVIDIA H200"),
        (12, "NVIDIA H200", "up to 12 layers on NVIDIA H200, others on the CPU"),
    ],
)
def test_where_layers_ran_is_told_in_words(layers, gpus, words):
    assert gpu.placement(layers, gpus) == words


def test_no_layers_need_no_gpu_and_some_do(llama):
    assert gpu.offload(None) is None
    assert gpu.offload(0) is None
    with pytest.raises(DeviceError, match="--gpu-layers 9: the llama.cpp in .* has no GPU backend, or does not find"):
        gpu.offload(9)


@of_tiny
@pytest.mark.parametrize("command", ["eval", "bench"])
def test_a_build_for_the_cpu_is_refused_in_a_sentence(cli, small, tmp_path, command):
    data = ("--text", Path(__file__)) if command == "eval" else ("--out", tmp_path / "bench.json")
    done = cli(command, small.model, "--gpu-layers", 9, *data)
    assert done.returncode == 2
    assert "has no GPU backend, or does not find a GPU." in done.stderr
    assert "Set LUQ_LLAMA_CPP to a llama.cpp that was built for this GPU" in done.stderr
    assert not list(tmp_path.iterdir())


def test_types_are_measured_on_the_cpu(cli):
    done = cli("bench", "--types", "--gpu-layers", 4)
    assert done.returncode == 2
    assert "--types measures this CPU; leave --gpu-layers out." in done.stderr


def test_the_libraries_of_a_build_must_be_there_and_of_the_pinned_version(llama, tmp_path):
    own = replace(llama, pinned=False)
    assert gpu._why_not(own) == ""
    assert "does not have the shared libraries libllama and libmtmd" in gpu._why_not(replace(own, libraries=None))
    assert "does not have the shared libraries" in gpu._why_not(replace(own, libraries=tmp_path))
    shutil.copytree(llama.converter.parent / "conversion", tmp_path / "conversion")
    converter = Path(shutil.copy(llama.converter, tmp_path))
    assert gpu._why_not(replace(own, converter=converter)) == ""
    next((tmp_path / "conversion").glob("*.py")).write_text("# of another version\n")
    assert "is of another version than the one that luq-gguf can call" in gpu._why_not(
        replace(own, converter=converter)
    )


@of_tiny
def test_a_process_of_ours_loads_a_builds_libraries_and_asks_them_for_a_gpu(llama, small, tmp_path):
    libraries = tmp_path / "lib"
    shutil.copytree(llama.libraries, libraries, symlinks=True)
    offload = Offload(0, TWO, libraries, "", "key")
    with LlamaClient(small.model, n_ctx=64, gpu=offload) as client:
        maps = Path(f"/proc/{client.pid}/maps").read_text()
        assert len(client.tokenize("a b")) > 0
    assert str(libraries / "libllama.so") in maps
    assert str(llama.libraries) not in maps
    with (
        pytest.raises(RunnerError, match="this build of libllama has no GPU backend"),
        LlamaClient(small.model, n_ctx=64, gpu=replace(offload, layers=4)),
    ):
        pass


@of_tiny
def test_measurements_are_kept_by_where_layers_ran(small, tmp_path):
    on_cpu = EvalTarget(small.model)
    offload = Offload(4, TWO, None, "", "four")
    keys = {on_cpu.key(), replace(on_cpu, gpu=offload).key(), replace(on_cpu, gpu=replace(offload, key="5")).key()}
    assert len(keys) == 3
    assert replace(on_cpu, image_tokens=(4, None)).key() not in keys


def test_what_is_printed_of_a_measurement_says_which_layers_ran_where():
    conditions = EvalConditions("easy", "0f", 32, None, None, "95%", gpu_layers=4, gpus=TWO)
    result = EvalResult(
        file="a.gguf", reference=None, n_samples=2, metric=None, accuracy=None, kld=None, kld_prompt=None,
        kld_answer=None, kld_text=None, same_top=None, perplexity=None, n_chunks=0, conditions=conditions,
    )  # fmt: skip
    assert tables.eval_table(result).title == f"a.gguf\n2 samples of easy\n--gpu-layers 4 on {', '.join(TWO)}"
