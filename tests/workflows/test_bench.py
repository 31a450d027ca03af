"""`luq-gguf bench` on real files with the real llama-bench. How fast they are is never asserted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from luq_gguf.benchmarking import file_benchmark, type_benchmark
from luq_gguf.core import machine
from luq_gguf.core.errors import DiskSpaceError, EvaluationError
from luq_gguf.llamacpp import shape_file
from luq_gguf.llamacpp.gguf import reader

pytestmark = [
    pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session"),
    pytest.mark.usefixtures("rates_of_its_own"),
]

FEW = ("--threads", 1, "--prompt", "16,32", "--generate", 8)


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """What types do on this CPU is told of one round instead of two: no test asks how well."""
    monkeypatch.setattr(type_benchmark, "ROUNDS", 1)


@pytest.fixture(scope="module")
def run(converted, tmp_path_factory):
    return converted.copy(tmp_path_factory.mktemp("bench") / "run").folder


@pytest.fixture(scope="module")
def benched(cli, run):
    done = cli("bench", "--run", run, *FEW, "--repetitions", 2, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_is_compared_with_its_16_bit_and_high_files_which_are_made(benched, run, converted):
    names = [row["file"] for row in benched["rows"]]
    assert names == ["tiny-qwen2.5-vl-F16.gguf", "tiny-qwen2.5-vl-Q4_K_M.gguf", converted.model.name]
    assert all((run / name).exists() for name in names)
    assert json.loads((run / "bench.json").read_text()) == benched
    assert (run / "bench.png").exists()


def test_rows_hold_the_contracts_keys_and_every_sample(benched, run):
    keys = {"file", "n_bytes", "threads", "decode_tps", "prefill_tps", "decode_ratio", "peak_rss_bytes"}
    for row in benched["rows"]:
        assert keys <= set(row)
        assert row["n_bytes"] == (run / row["file"]).stat().st_size
        assert row["peak_rss_bytes"] > 10 * 2**20
        for spread in (row["decode_tps"], row["prefill_tps"], *row["prefill"].values()):
            assert {"mean", "std", "median", "samples"} <= set(spread)
            assert len(spread["samples"]) == 2
            assert min(spread["samples"]) > 0
        assert set(row["prefill"]) == {"16", "32"}
        assert row["prefill_tps"] == row["prefill"]["32"]
        image = row["image"]
        assert 0 < image["encode_seconds"]["median"] < image["first_token_seconds"]["median"]
        assert image["first_token_seconds"]["median"] < image["answer_seconds"]["median"]
        assert image["n_answer"]["samples"] == [8, 8]
    baseline = next(row for row in benched["rows"] if "Q4_K_M.gguf" in row["file"] and "LUQ" not in row["file"])
    assert baseline["decode_ratio"]["value"] == pytest.approx(1)
    assert benched["conditions"]["baseline"] == baseline["file"]


def test_the_machine_and_the_build_are_told(benched):
    told = benched["machine"]
    assert {"cpu", "features", "physical_cores", "memory_bytes", "governor", "llama_cpp_commit", "build"} <= set(told)
    assert told["cpu"] == machine.cpu_name()
    assert 0 <= told["busy_share_before"] <= 1
    assert told["layers_on"] == "all layers on the CPU"


def test_the_report_shows_it(cli, benched, run):
    done = cli("report", run)
    assert done.returncode == 0, done.stderr
    assert (run / "figures" / "throughput.png").exists()
    assert "Throughput" in (run / "report.html").read_text()


def test_files_with_kernels_stand_beside_stock(cli, converted, run, tmp_path):
    """Twice the same file, told apart; the image goes through libmtmd with them too."""
    files = (run / "tiny-qwen2.5-vl-Q4_K_M.gguf", run / converted.model.name)
    how = ("--kernels", "--repetitions", 2, "--mmproj", run / converted.mmproj.name, "--out", tmp_path / "b.json")
    done = cli("bench", *files, *FEW, *how)
    assert done.returncode == 0, done.stderr
    assert "with kernels" in done.stdout
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    names = [(row["file"], row["kernels"]) for row in rows]
    assert names == [(files[0].name, False), (files[1].name, False), (files[1].name, True)]
    for row in rows:
        assert len(row["decode_tps"]["samples"]) == 2
        assert row["decode_ratio"]["value"] > 0
        assert row["image"]["answer_seconds"]["median"] > 0
    assert json.loads((tmp_path / "b.json").read_text())["conditions"]["kernels"].startswith("with ")


def test_kernels_that_would_not_be_used_are_refused(cli, run, converted, tmp_path):
    how = ("--kernels", "--repetitions", 1, "--out", tmp_path / "b.json")
    done = cli("bench", run / converted.f16.name, *FEW, *how)
    assert done.returncode == 2
    assert "No file has tensors in IQ1_M" in done.stderr
    done = cli("bench", run / converted.model.name, *FEW, *how, env=os.environ | {"LUQ_KERNELS": "off"})
    assert done.returncode == 1
    assert "LUQ_KERNELS=off" in done.stderr
    assert not (tmp_path / "b.json").exists()


def test_with_two_mmproj_files_it_is_said_that_none_is_used(converted, tmp_path):
    from luq_gguf.core.reporter import Reporter
    from luq_gguf.workflows import bench

    shutil.copy(converted.model, tmp_path / "model.gguf")
    for name in ("mmproj-F16.gguf", "model-mmproj-Q8_0.gguf"):
        shutil.copy(converted.mmproj, tmp_path / name)
    told = []
    assert bench._only_mmproj(tmp_path / "model.gguf", Reporter(info=told.append)) is None
    assert told == [
        "model.gguf: no answers about images are timed, because 2 mmproj files are beside it (mmproj-F16.gguf, "
        "model-mmproj-Q8_0.gguf); choose one with --mmproj"
    ]


def test_an_interrupted_bench_leaves_what_was_finished_and_one_model_runs_at_a_time(run, benched, tmp_path):
    out = tmp_path / "bench.json"
    files = [run / row["file"] for row in benched["rows"]]
    command = [sys.executable, "-m", "luq_gguf", "bench", *files, "--out", out, *FEW, "--repetitions", 1000]
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most, until = 0, time.monotonic() + 120
    while time.monotonic() < until:
        running = [p.info["name"] for p in psutil.process_iter(["name", "ppid"]) if p.info["ppid"] == child.pid]
        most = max(most, running.count("llama-bench"))
        if out.exists() and len(json.loads(out.read_text())["rows"]) == 3:
            break
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Interrupted" in errors
    assert most == 1
    kept = json.loads(out.read_text())
    assert [row["file"] for row in kept["rows"]] == [path.name for path in files]
    assert all(row["decode_tps"]["samples"] for row in kept["rows"])


def test_what_cannot_be_measured_is_refused(cli, run, converted, tmp_path):
    for arguments, words in (
        ((converted.mmproj,), "is not a text model"),
        ((), "Give FILES, --run DIR or --shape MODEL"),
        (("--shape", "no-such-model"), "or a built-in name"),
        (("--shape", tmp_path), "not a folder with a config.json"),
        (("--shape", "llava-1.5-7b", "--low-layers", 33), "32 decoder layers"),
        (("--shape", "llava-1.5-7b", "--low", "Q9_Z"), "--low Q9_Z"),
        ((converted.model, "--prompt", "x"), "'x' is not a number"),
    ):
        done = cli("bench", *arguments, "--out", tmp_path / "bench.json")
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    assert not (tmp_path / "bench.json").exists()
    assert not list(tmp_path.glob("luq-shape-*"))


def test_a_file_beyond_free_memory_is_refused_or_marked(converted):
    arm = file_benchmark.make_arm(converted.model)
    large = file_benchmark.Arm(arm.path, 2**50, arm.bpw, arm.types)
    with pytest.raises(EvaluationError, match="its speed would be that of the disk") as refused:
        file_benchmark.check_memory([arm, large], allow_swap=False)
    assert converted.model.name in refused.value.message
    assert "--allow-swap" in refused.value.hint
    assert [one.fits for one in file_benchmark.check_memory([arm, large], allow_swap=True)] == [True, False]


def test_a_geometry_without_weights_is_the_real_file_but_for_its_weights(converted, tiny_model, cli, tmp_path):
    real = reader.read(converted.model)
    source = reader.read(converted.folder / ".work" / "skeleton.gguf")
    made = shape_file.write(tmp_path / "twin.gguf", source, real.types)
    told = [{(t.name, t.type, t.shape, t.n_bytes) for t in file.tensors} for file in (made, real)]
    assert told[0] == told[1]
    assert abs(made.n_bytes - real.n_bytes) < 1000  # what llama-quantize tells of the imatrix
    done = cli("bench", "--shape", tiny_model, "--low-layers", 6, "--low", "IQ1_M,Q2_K", "--f16", *FEW,
               "--repetitions", 1, "--out", tmp_path / "shape.json", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["file"]: row for row in json.loads(done.stdout)["rows"]}
    stock = rows["tiny-qwen2.5-vl-Q4_K_M.gguf"]
    assert stock["decode_ratio"]["value"] == pytest.approx(1)
    assert set(rows) == {
        "tiny-qwen2.5-vl-F16.gguf",
        "tiny-qwen2.5-vl-Q4_K_M.gguf",
        "tiny-qwen2.5-vl-LUQ6-IQ1_M-Q4_K_M.gguf",
        "tiny-qwen2.5-vl-LUQ6-Q2_K-Q4_K_M.gguf",
    }
    assert not list(tmp_path.glob("luq-shape-*"))


def test_a_full_disk_is_told_before_anything_is_written(converted, tmp_path, monkeypatch):
    source = reader.read(converted.folder / ".work" / "skeleton.gguf")
    free = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(DiskSpaceError, match="twin.gguf takes"):
        shape_file.write(tmp_path / "twin.gguf", source, source.types)
    assert not list(tmp_path.iterdir())


def test_types_are_measured_in_layers_of_the_models_shapes_and_once(cli, tiny_model):
    asked = ("bench", "--types", "--shape", tiny_model, "--threads", 1)
    done = cli(*asked, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["type"]: row for row in json.loads(done.stdout)["types"]}
    assert {"IQ1_M", "Q2_K", "Q4_K", "Q6_K", "F16"} <= set(rows)
    assert rows["Q4_K"]["decode_ratio"] == 1
    for row in rows.values():
        per_second = row["decode_weights_per_second"] * row["bpw"] / 8e9
        assert row["gigabytes_per_second"] == pytest.approx(per_second)
    again = cli(*asked)
    assert again.returncode == 0, again.stderr
    assert ("not kept for later" in done.stderr) or ("speed of tensor types" not in again.stderr)


def test_a_plan_for_a_speed_tells_what_it_predicts(cli, run, benched):
    done = cli("plan", run, "--target-tps", 1, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["low_layers"] == []
    speed = planned["predicted_speed"]
    assert speed["decode_tps"] == speed["high_decode_tps"] > 1
    assert json.loads((run / "plan.json").read_text())["predicted_speed"] == speed
    told = cli("plan", run, "--target-tps", 1, "--threads", 1)
    assert "predicted on this machine (1 threads): decode 1.00 x Q4_K_M" in told.stdout + told.stderr


def test_a_speed_out_of_reach_is_refused(cli, run, benched):
    done = cli("plan", run, "--target-tps", 10**9, "--threads", 1)
    assert done.returncode == 2
    assert "reaches 1e+09 tokens/s on this machine" in done.stderr
