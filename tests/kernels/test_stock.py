"""The kernels in stock binaries of the pinned llama.cpp: loaded, refused, and with the models' own logits."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from kernel_programs import compile_program, sanitized
from launch import free_port, wait_until

from luq_gguf.kernels import build
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.runtime.client import LlamaClient

SUPPORT = Path(__file__).parent.parent / "support"
PATHS = ("auto", "avx512", "avx512vl", "avx2", "portable", "portable-t5")
KLD = 1e-4
one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def library():
    return build.library()


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    names = ("other-version", "other-api", "other-size")
    return compile_program(tmp_path_factory.mktemp("others") / "build", targets=names)


@pytest.fixture(scope="session")
def ask(llama):
    """Runs kernel_products.py; its answer and what was said on stderr."""

    def run(kernels, what, **environment):
        command = [sys.executable, SUPPORT / "kernel_products.py", llama.tools.parent / "lib", kernels, what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run


@pytest.mark.parametrize("path", PATHS)
def test_products_of_stock_ggml_are_the_same_to_rounding(ask, library, path):
    found, told = ask(library, "products", LUQ_KERNELS=path)
    assert found["taken"]
    assert found["listed"]
    assert len(found["answer"]) == 32
    for product in found["answer"]:
        assert product["lossless"], product
        assert product["apart"] < 2e-6, product
    if "not to be had" in told:
        pytest.skip(f"this CPU has no {path}: {told.strip().splitlines()[0]}")


def test_what_the_kernels_cannot_do_they_leave_to_ggml(ask, library):
    found, _ = ask(library, "refusals")
    assert found["answer"].pop("product") is True
    assert set(found["answer"].values()) == {False}, found["answer"]
    assert set(found["answer"]) == {"half activations", "view", "rows", "experts", "stack", "40 rows"}


def test_pages_of_a_mapped_model_leave_and_other_memory_stays(ask, library):
    found, _ = ask(library, "sources")
    pages = 2 * 4096  # of the ends, which may be other tensors' too
    assert set(found["answer"]) == {"mapped", "private", "shared and written", "anonymous"}
    for kind, seen in found["answer"].items():
        assert seen["same"], kind
        assert seen["before"] >= seen["bytes"] - pages, kind
        assert seen["after"] <= pages if kind == "mapped" else seen["after"] == seen["before"], (kind, seen)


@pytest.mark.parametrize(
    ("name", "said"),
    [("other-version", "version is"), ("other-api", "API version is 2"), ("other-size", "tensor size is")],
)
def test_another_ggml_is_refused_with_a_sentence(ask, others, name, said):
    found, told = ask(others / f"lib{name}.so", "none")
    assert not found["taken"]
    assert not found["listed"]
    assert said in told
    assert "luq kernels are not used:" in told


def test_without_ggml_and_after_a_model_they_refuse_with_a_sentence(ask, library):
    sentence, _ = ask(library, "alone")
    assert "no symbol ggml_version" in sentence
    found, told = ask(library, "late")
    assert not found["taken"]
    assert not found["listed"]
    assert "A model was loaded before them" in told


def test_switched_off_they_are_not_listed(ask, library):
    found, told = ask(library, "none", LUQ_KERNELS="off")
    assert not found["listed"]
    assert "not used" not in told
    found, told = ask(library, "none", LUQ_KERNELS="sse9")
    assert found["listed"]
    assert "LUQ_KERNELS=sse9 is not to be had on this CPU" in told


def test_sanitizers_find_nothing_in_the_library(ask, tmp_path):
    folder = compile_program(tmp_path / "build", sanitized("address", "undefined"), targets=("luq-kernels",))
    runtimes = [
        subprocess.run(["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    preload = {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    found, _ = ask(folder.parent / build.LIBRARY, "products", **preload)
    assert found["listed"]
    assert all(product["lossless"] and product["apart"] < 2e-6 for product in found["answer"])


def logits(model, threads, out, *library, path="auto"):
    command = [sys.executable, SUPPORT / "kernel_logits.py", model, str(threads), out, *library]
    environment = tools.bindings_environment() | {"LUQ_KERNELS": path}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert ("CPU_LUQ model buffer" in done.stderr) == bool(library), "the model's tensors are not where they should be"
    with np.load(out) as content:
        return {name: content[name].astype(np.float64) for name in content.files}


def divergence(one, other):
    """KL divergence of each position's distributions."""
    a, b = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (one, other))
    return (np.exp(a) * (a - b)).sum(-1)


def quantized_to(low, cli, converted, folder):
    """The shipped model with six layers in another low type."""
    converted.copy(folder)
    assert cli("plan", folder, "--low", low, "--low-layers", 6).returncode == 0
    done = cli("quantize", folder, "--json")
    assert done.returncode == 0, done.stderr
    return folder / json.loads(done.stdout)["model"]


@pytest.mark.parametrize(
    ("tiny_model", "low"),
    [("tiny-qwen2.5-vl", "IQ1_M"), ("tiny-llava-1.5", "IQ1_M"), ("tiny-qwen2.5-vl", "IQ1_S")],
    indirect=["tiny_model"],
)
def test_expectations_about_images_are_the_same(low, cli, converted, library, test_set, tmp_path):
    """Of every text token of 40 questions and their answers. One position in some hundred can be apart by a hundredth,
    where rounding tips an activation into the next 8-bit step: the mean holds for all, the median for the rest."""
    model = converted.model if low == "IQ1_M" else quantized_to(low, cli, converted, tmp_path / "run")
    asked, found = test_set[:40], {}
    for kernels in (None, library):
        with LlamaClient(model, converted.mmproj, threads=2, kernels=kernels) as runner:
            scored = [runner.score(question, image, answer=answer) for image, question, answer in asked]
            texts = [runner.ask(question, image, max_tokens=4).text for image, question, _ in asked]
        found[kernels] = [one.log_probabilities.astype(np.float64) for one in scored], texts
    (plain, said), (ours, said_with) = found[None], found[library]
    apart = np.concatenate([divergence(a, b) for a, b in zip(plain, ours, strict=True)])
    assert len(apart) > 400
    assert 0 < apart.mean() < KLD, "0: the kernels were not there"
    assert np.median(apart) < KLD / 1000
    assert said == said_with


@one_model
def test_a_models_logits_are_the_same(converted, library, tmp_path):
    """Text without an image, which these models were not trained on. Where rounding tips an activation into the next
    8-bit step a little model's answer moves far more, also to ggml's own change of batch size: that is what the mean,
    which a few positions make up, is compared with."""
    plain = logits(converted.model, 2, tmp_path / "plain.npz")
    floor = divergence(plain["together"], plain["one_by_one"]).mean()
    for path in ("auto", "avx2", "portable"):
        ours = logits(converted.model, 2, tmp_path / f"{path}.npz", library, path=path)
        for form, expected in plain.items():
            assert expected.std() > 0.5
            found = divergence(expected, ours[form])
            assert found.mean() < max(KLD, 2 * floor), (path, form, floor)
            assert np.median(found) < KLD / 10, (path, form)
            assert (expected.argmax(-1) == ours[form].argmax(-1)).mean() > 0.98


def answer(llama, model, log, *more):
    """What llama-server writes to a prompt, and what it said in all."""
    address = f"http://127.0.0.1:{free_port()}"
    command = [llama.tool("llama-server"), "-m", model, "-t", "2", "-c", "512", "--port", address.rsplit(":")[-1]]
    with log.open("wb") as out:
        child = subprocess.Popen([*command, "-lv", "5", *more], stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: _healthy(address))
        asked = {"prompt": "what shape is in the image?", "n_predict": 12, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            address + "/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["content"], log.read_text(errors="replace")
    finally:
        child.kill()
        child.wait()


def _healthy(address):
    try:
        with urllib.request.urlopen(address + "/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@one_model
def test_llama_server_takes_them_with_an_option_that_matches_nothing(llama, converted, library, tmp_path, monkeypatch):
    """It reads the variable only where an option names backends."""
    monkeypatch.delenv("GGML_BACKEND_PATH", raising=False)
    plain, told = answer(llama, converted.model, tmp_path / "plain.log", "-ot", "^$=CPU")
    assert len(plain) > 10
    assert "CPU_LUQ" not in told
    monkeypatch.setenv("GGML_BACKEND_PATH", str(library))
    ours, told = answer(llama, converted.model, tmp_path / "kernels.log", "-ot", "^$=CPU")
    assert "CPU_LUQ model buffer size" in told
    assert ours == plain


def run_tool(llama, name, *arguments, kernels=None):
    environment = {k: v for k, v in os.environ.items() if k != "GGML_BACKEND_PATH"}
    if kernels:
        environment["GGML_BACKEND_PATH"] = str(kernels)
    command = [llama.tool(name), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


@one_model
def test_llama_bench_loads_them_by_the_variable_alone(llama, converted, library):
    arguments = ("-m", converted.model, "-t", "1", "-p", "16", "-n", "4", "-r", "1", "-o", "json", "-v")
    with_kernels = run_tool(llama, "llama-bench", *arguments, kernels=library)
    without = run_tool(llama, "llama-bench", *arguments)
    assert "CPU_LUQ model buffer size" in with_kernels.stderr
    assert "CPU_LUQ" not in without.stderr
    assert "LUQ" in json.loads(with_kernels.stdout)[0]["backends"]
    no_repack = run_tool(llama, "llama-bench", *arguments, "--repack", "0", kernels=library)
    assert "CPU_LUQ model buffer" not in no_repack.stderr


@one_model
def test_a_refused_library_leaves_llama_bench_as_it_was(llama, converted, others):
    arguments = ("-m", converted.model, "-t", "1", "-p", "0", "-n", "4", "-r", "1", "-o", "json")
    done = run_tool(llama, "llama-bench", *arguments, kernels=others / "libother-version.so")
    assert "luq kernels are not used: This ggml's version is" in done.stderr
    assert json.loads(done.stdout)[0]["avg_ts"] > 0


def test_the_command_says_what_is_there(cli, library):
    done = cli("kernels", "--path")
    assert done.stdout.strip() == str(library)
    done = cli("kernels", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["built"]
    assert found["library"] == str(library)
    assert found["gain"]["value"] > 0
    assert found["bits_per_weight"] == (2.0 if found["path"] == "avx512" else 2.375)


@one_model
def test_without_a_compiler_one_sentence_and_everything_else_works(cli, tmp_path, converted):
    empty = tmp_path / "bin"
    empty.mkdir()
    environment = os.environ | {"PATH": str(empty), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = cli("kernels", "--path", env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "there is no C++ compiler" in done.stderr
    assert "everything else works without" in done.stderr
    assert cli("inspect", converted.model, env=environment).returncode == 0


def test_the_headers_carry_the_version_of_the_built_ggml(llama):
    import ctypes

    base = ctypes.CDLL(str(llama.tools.parent / "lib" / "libggml-base.so"))
    base.ggml_version.restype = ctypes.c_char_p
    assert build.ggml_version(tools.ggml_headers()) == base.ggml_version().decode()
