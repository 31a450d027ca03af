"""The whole road on the shipped model, through the command line."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luq_gguf.llamacpp.gguf import reader


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_convert_prints_its_contract_and_nothing_else(converted, tiny_model):
    result, name = converted.result, tiny_model.name
    assert {"run_dir", "model", "mmproj", "low_layers", "n_bytes", "bpw", "predicted_bytes"} <= set(result)
    assert len(result["low_layers"]) == 6
    assert Path(result["model"]).name.startswith(f"{name}-LUQ6-IQ1M-Q4KM-")
    assert Path(result["model"]).name.endswith("_LUQ.gguf")
    assert Path(result["mmproj"]).name == f"mmproj-{name}-F16.gguf"


def test_the_file_is_exactly_as_large_as_predicted(converted):
    info = reader.read(converted.model)
    assert converted.result["n_bytes"] == info.n_bytes == converted.result["predicted_file_bytes"]
    assert converted.result["predicted_bytes"] == sum(t.n_bytes for t in info.tensors)
    assert converted.result["bpw"] == pytest.approx(info.bpw)


def test_every_tensor_is_as_planned(converted):
    plan = json.loads((converted.folder / "plan.json").read_text())
    assert reader.read(converted.model).types == plan["tensor_types"]
    assert plan["low_layers"] == converted.result["low_layers"]
    assert plan["ranking"] == "entropy"


def test_low_layers_are_those_of_lowest_entropy(converted):
    profile = json.loads((converted.folder / "profile.json").read_text())
    layers = sorted(profile["layers"], key=lambda layer: layer["entropy_bits"])
    assert sorted(layer["layer"] for layer in layers[:6]) == converted.result["low_layers"]
    assert all(0 < layer["entropy_bits"] < 6.65 and layer["spread_bits"] > 0 for layer in layers)
    assert all(isinstance(layer["by_modality"][m], float) for layer in layers for m in ("multimodal", "text"))


def test_no_local_path_is_in_the_published_files(converted):
    home, folder = os.path.expanduser("~"), str(converted.folder.parent)
    for path in (converted.model, converted.mmproj, converted.folder / "imatrix.gguf"):
        header = path.read_bytes()[: 4 * 1024**2]
        assert folder.encode() not in header
        assert f"{home}/".encode() not in header


def test_nothing_half_written_is_left(converted):
    assert not [p.name for p in converted.folder.rglob("*") if p.name.endswith(".part")]


def test_a_second_run_repeats_no_stage(small, cli, tmp_path):
    run = small.copy(tmp_path / "run")
    before = json.loads((run.folder / "run.json").read_text())["stages"]
    done = cli(*run.arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == run.result
    assert json.loads((run.folder / "run.json").read_text())["stages"] == before


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True)
def test_what_to_try_names_token_limits_and_what_llama_cpp_shows(small, cli, tmp_path, tiny_model):
    run = small.copy(tmp_path / "run")
    done = cli(*(part for part in run.arguments if part != "--json"))
    assert done.returncode == 0, done.stderr
    tried = next(line for line in done.stdout.splitlines() if line.startswith("Try it: "))
    is_dynamic = "qwen" in tiny_model.name
    assert ("--image-min-tokens 16 --image-max-tokens 256 --image IMAGE" in tried) == is_dynamic
    assert ("slower and takes more memory" in done.stdout) == is_dynamic
    assert f"luq-gguf fit PICTURES --model {run.folder}" in done.stdout


def test_other_paths_times_and_devices_repeat_no_stage(small, cli, tmp_path, tiny_model, calibration_file, monkeypatch):
    """The checkpoint by a relative path and a link; the calibration set copied, with new times; the CPU named."""
    run = small.copy(tmp_path / "run")
    before = json.loads((run.folder / "run.json").read_text())["stages"]
    copied = shutil.copytree(calibration_file.parent, tmp_path / "set", copy_function=shutil.copyfile)
    (tmp_path / tiny_model.name).symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    given = {tiny_model: f"./{tiny_model.name}/", calibration_file: copied / calibration_file.name, run.folder: "run"}
    done = cli(*[given.get(a, a) for a in run.arguments], "--device", "cpu")
    assert done.returncode == 0, done.stderr
    after = json.loads((run.folder / "run.json").read_text())
    assert after["stages"] == before
    assert Path(after["model"]).is_absolute()


def test_the_same_inputs_give_the_same_bytes(small, cli, tmp_path):
    arguments = [tmp_path / "again" if a == small.folder else a for a in small.arguments]
    done = cli(*[a for a in arguments if a != "--keep-f16"])
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert digest(Path(again["model"])) == digest(small.model)
    assert digest(Path(again["mmproj"])) == digest(small.mmproj)
    for name in ("imatrix.gguf", "profile.json", "plan.json", "tensor-types.txt"):
        assert digest(tmp_path / "again" / name) == digest(small.folder / name), name
    assert list((tmp_path / "again").glob("*-F16.gguf")) != [], "the mmproj is 16-bit"
    assert [p.name for p in (tmp_path / "again").glob("tiny*-F16.gguf")] == []


def test_stages_one_by_one_make_the_same_file(small, cli, tmp_path, tiny_model, calibration_file):
    out = tmp_path / "steps"
    done = cli("profile", tiny_model, "--out", out, "--calib", calibration_file, "--samples", 32, "--json")
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)
    assert len(profile["layers"]) == 12
    assert 1 / 32 <= profile["calibration"]["largest_sample_share"] < 0.2
    done = cli("plan", out, "--low", "Q2_K", "--low-layers", 6, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["low_layers"] == small.result["low_layers"]
    done = cli("quantize", out, "--json")
    assert done.returncode == 0, done.stderr
    assert digest(Path(json.loads(done.stdout)["model"])) == digest(small.model)


def test_another_budget_reuses_the_profile(converted, cli, tmp_path):
    run, size = converted.copy(tmp_path / "run"), converted.result["n_bytes"] + 1
    before = json.loads((run.folder / "run.json").read_text())["stages"]["profile"]
    done = cli("plan", run.folder, "--target-size", size, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["predicted_file_bytes"] <= size
    assert len(plan["low_layers"]) <= 6
    assert json.loads((run.folder / "run.json").read_text())["stages"]["profile"] == before
    done = cli(*run.arguments)  # back to the first one
    assert json.loads(done.stdout) == run.result


def test_an_impossible_size_is_refused_before_anything_heavy(cli, tiny_model, calibration_file, tmp_path):
    out = tmp_path / "run"
    done = cli("convert", tiny_model, "--out", out, "--calib", calibration_file, "--target-size", "1MiB")
    assert done.returncode == 2
    assert "No file of 1.00 MiB is possible" in done.stderr
    assert not out.exists()


def test_inspect_shows_layers_as_table_json_and_picture(converted, cli, tmp_path):
    done = cli("inspect", converted.model, "--png", tmp_path / "types.png", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [layer["layer"] for layer in report["layers"]] == list(range(12))
    low = [layer["layer"] for layer in report["layers"] if layer["types"]["attn_q"] == "IQ1_M"]
    assert low == converted.result["low_layers"]
    assert report["other"]["token_embd.weight"]
    assert report["n_bytes"] == converted.result["n_bytes"]
    assert (tmp_path / "types.png").read_bytes().startswith(b"\x89PNG")
    table = cli("inspect", converted.model)
    assert table.returncode == 0
    assert "IQ1_M" in table.stdout


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True)  # the other takes the same road
@pytest.mark.parametrize(
    ("kill", "moment"), [(signal.SIGINT, "profile.json"), (signal.SIGKILL, "plan.json")], ids=["Ctrl-C", "kill -9"]
)
def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(small, cli, tmp_path, kill, moment):
    """At two moments that are known; at any, with both signals: test_disturbed.py."""
    out = tmp_path / "run"
    arguments = [str(out) if a == small.folder else str(a) for a in small.arguments if a != "--keep-f16"]
    child = subprocess.Popen(
        [sys.executable, "-m", "luq_gguf", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not (out / moment).exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(kill)
    _, told = child.communicate(timeout=60)
    if kill == signal.SIGINT:
        assert child.returncode == 130, told
        assert "resumes where this one stopped" in told
        assert not list(out.rglob("*.part"))
    assert "calibration samples: begins" in told
    assert "layer entropies: done, 12/12 in" in told, "the log of a process that was killed holds the last state"
    profiled = (out / "profile.json").stat().st_mtime_ns
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert digest(Path(json.loads(done.stdout)["model"])) == digest(small.model)
    assert not list(out.rglob("*.part"))
    if moment == "plan.json":
        assert (out / "profile.json").stat().st_mtime_ns == profiled
