"""What a file is said to need of memory is what llama-server takes, without its weights being there."""

import http.client
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from luq_gguf.benchmarking import synthetic_model
from luq_gguf.core.errors import RunnerError
from luq_gguf.core.machine import PeakMemory
from luq_gguf.core.memory_use import ContextShape
from luq_gguf.llamacpp import child, server
from luq_gguf.llamacpp.gguf import header_only, reader
from luq_gguf.llamacpp.runtime import memory
from luq_gguf.method import two_type_plan

BUFFER = re.compile(r"(?P<what>model|KV|compute) buffer size =\s+(?P<mib>[\d.]+) MiB")


def hollow(file: Path, folder: Path) -> Path:
    """A file's header before a hole."""
    copy = folder / file.name
    copy.write_bytes(file.read_bytes()[: reader.read(file).header_bytes])
    os.truncate(copy, file.stat().st_size)
    return copy


def run_server(llama, file: Path, n_ctx: int, log: Path, n_prompt: int) -> tuple[int, float]:
    """llama-server's peak of resident memory after a prompt, and the sum of the buffers that it names, in bytes."""
    port = server._free_port()
    command = [llama.tool("llama-server"), "-m", file, "-c", n_ctx, "--host", server.HOST, "--port", port, "-t", 2]
    command += ["--load-mode", "none", "-lv", 4]
    with log.open("wb") as out, child.started(command, os.environ, stdout=out, stderr=subprocess.STDOUT) as running:
        server._wait(running, port, file, log)
        peak = PeakMemory(running.pid)
        connection = http.client.HTTPConnection(server.HOST, port, timeout=600)
        connection.request("POST", "/completion", json.dumps({"prompt": [5] * n_prompt, "n_predict": 2}))
        assert connection.getresponse().status == 200
        connection.close()
        peak._read()
        peak.stop()
    sizes = [float(match["mib"]) for match in BUFFER.finditer(log.read_text())]
    return peak.n_bytes, sum(sizes) * 2**20


def test_memory_is_what_llama_server_takes(llama, converted, tmp_path):
    shapes = [ContextShape(256), ContextShape(4096), ContextShape(4096, "q8_0", "q8_0")]
    header = hollow(converted.model, tmp_path)
    told = memory.report(header, None, shapes)
    small, large, halved = told.uses
    assert halved.kv_cache_bytes == large.kv_cache_bytes * 17 / 32
    assert small.weights_bytes == pytest.approx(converted.model.stat().st_size, rel=0.05)
    begun, buffers = run_server(llama, converted.model, 256, tmp_path / "log", 100)
    assert buffers == pytest.approx(small.total_bytes - small.program_bytes, abs=2**20 / 50)
    peak, buffers = run_server(llama, converted.model, 4096, tmp_path / "log", 600)
    assert buffers == pytest.approx(large.total_bytes - large.program_bytes, abs=2**20 / 50)
    baseline = begun - small.total_bytes
    assert peak - baseline == pytest.approx(large.total_bytes, rel=0.05)


def test_headers_alone_give_the_figures_of_whole_files(converted, tmp_path):
    shape = ContextShape(2048)
    files = converted.model, converted.mmproj
    whole = memory.report(*files, [shape])
    hollowed = memory.report(*(hollow(file, tmp_path) for file in files), [shape])
    parts = [dict(vars(report.uses[0]), program_bytes=0) for report in (whole, hollowed)]
    assert parts[0] == parts[1]
    assert whole.images == hollowed.images
    assert whole.uses[0].mmproj_bytes == pytest.approx(converted.mmproj.stat().st_size, rel=0.05)
    if whole.images.most:  # Qwen's pictures are of any size
        assert (whole.images.most, whole.images.reserved) == (4096, 2116)
        assert whole.uses[0].image_bytes > 400 * 2**20


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True)
def test_what_llama_cpp_cannot_load_is_said_in_its_words(converted, tmp_path):
    with pytest.raises(RunnerError, match="imatrix.gguf: .*unknown model architecture"):
        memory.report(converted.folder / "imatrix.gguf", None, [ContextShape(512)])
    with pytest.raises(RunnerError, match="cannot load"):
        memory.report(converted.model, converted.model, [ContextShape(512)])
    odd = memory.report(hollow(converted.model, tmp_path), None, [ContextShape(512), ContextShape(512, "f16", "q5_1")])
    assert odd.uses[1] is None or odd.uses[1].kv_cache_bytes < odd.uses[0].kv_cache_bytes


def test_a_7b_shape(llama, tmp_path):
    source = synthetic_model.synthetic_outline("qwen2.5-vl-7b", tmp_path / "shape", llama)
    tensors = synthetic_model.geometry(source, llama, "IQ1_M", "Q4_K_M").tensors
    types = two_type_plan.tensor_types(tensors, synthetic_model.spread_layers(28, 12))
    shapes = {tensor.name: (types[tensor.name], tensor.shape[::-1]) for tensor in source.tensors}
    file = header_only.write(tmp_path / "7b.gguf", source.path, shapes).path
    shutil.rmtree(tmp_path / "shape")
    contexts = 4096, 16384
    for n_ctx, use in zip(contexts, memory.report(file, None, [ContextShape(n) for n in contexts]).uses, strict=True):
        peak, buffers = run_server(llama, file, n_ctx, tmp_path / "log", 128)
        assert buffers == pytest.approx(use.total_bytes - use.program_bytes, abs=2**20 / 20)
        assert peak == pytest.approx(use.total_bytes, rel=0.05)
