"""A profile's pass in several processes against one process: shards merged later, and processes of a launcher."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from launch import ONE_THREAD, shard_folder, start, wait_until

from luq_gguf.calibration import forward_pass
from luq_gguf.calibration import shards as shard_files
from luq_gguf.calibration import stage as calibration_stage
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.llamacpp.gguf import imatrix
from luq_gguf.run.folder import RunFolder

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")

SAMPLES = 8
N_BATCHES = 4  # two with images, two without: prompts are long, so that three fill a batch
FILES = ("profile.json", "profile.safetensors", "imatrix.gguf")


@pytest.fixture(scope="session")
def asked(tiny_model, calibration_file, tmp_path_factory):
    """MODEL and the calibration arguments: questions repeated, so that a few samples make several batches."""
    rows = [json.loads(line) for line in calibration_file.read_text().splitlines()]
    path = tmp_path_factory.mktemp("long") / "long.jsonl"
    long = [row | {"image": str(calibration_file.parent / row["image"]), "prompt": row["prompt"] * 24} for row in rows]
    path.write_text("".join(json.dumps(row | {"prompt": row["prompt"][:740]}) + "\n" for row in long))
    return (tiny_model, "--calib", path, "--samples", SAMPLES)


def run(cli, *arguments):
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def alone(cli, asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    run(cli, "profile", *asked, "--out", out)
    return out


@pytest.fixture(scope="session")
def shards(cli, asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for index in range(3):
        told = run(cli, "profile", *asked, "--out", folder / f"{index}", "--shard", f"{index}/3", "--json")
        assert json.loads(told.stdout)["shard"] == f"{index}/3"
    return [folder / f"{index}" for index in range(3)]


@pytest.fixture(scope="session")
def merged(cli, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "run"
    told = run(cli, "merge", shards[1], shards[2], shards[0], "--out", out, "--json")
    assert json.loads(told.stdout) == json.loads((out / "profile.json").read_text())
    return out


def check_same(one: Path, other: Path) -> None:
    """Sums of float64 in another order, written as float32: one unit in its last place, 2^-23, at most. Counts are
    whole numbers. Entropies are of the same vectors, so they are within the spread by a wide margin."""
    a, b = imatrix.read(one / "imatrix.gguf"), imatrix.read(other / "imatrix.gguf")
    assert set(a.in_sum2) == set(b.in_sum2)
    assert len(a.in_sum2) == 12 * 7
    assert a.n_samples == b.n_samples
    for name in a.in_sum2:
        np.testing.assert_array_equal(a.counts[name], b.counts[name])
        np.testing.assert_allclose(a.in_sum2[name], b.in_sum2[name], rtol=2.0**-23, atol=0)
    c, d = (json.loads((folder / "profile.json").read_text()) for folder in (one, other))
    assert c["calibration"] == d["calibration"]
    assert c["estimator"] == d["estimator"]
    for layer, same in zip(c["layers"], d["layers"], strict=True):
        assert layer["n_tokens"] == same["n_tokens"]
        assert abs(layer["entropy_bits"] - same["entropy_bits"]) <= layer["spread_bits"]


def test_shards_merged_are_a_single_process(alone, merged, shards):
    assert sum(len(shard_files.read(folder).seen) for folder in shards) == N_BATCHES
    check_same(alone, merged)


def test_shards_keep_the_same_tokens_with_the_same_vectors(cli, asked, shards, tmp_path):
    run(cli, "profile", *asked, "--out", tmp_path / "whole", "--shard", "0/1")
    whole, parts = shard_files.read(tmp_path / "whole"), [shard_files.read(folder) for folder in shards]

    def tokens(shard, name):
        vectors = shard.vectors(name, 11)
        return {(s, k): v for s, k, v in zip(shard.samples[name], shard.keys[name], vectors, strict=True)}

    for name in ("multimodal", "text"):
        wanted = tokens(whole, name)
        found = {key: vector for part in parts for key, vector in tokens(part, name).items()}
        assert len(wanted) > 300
        assert set(found) == set(wanted)
        for key, vector in wanted.items():
            np.testing.assert_allclose(found[key], vector, rtol=1e-3, atol=1e-3)


def test_convert_goes_on_from_a_merged_profile(cli, asked, merged):
    before = json.loads((merged / "run.json").read_text())["stages"]["profile"]
    told = run(cli, "convert", *asked, "--out", merged, "--low", "Q2_K", "--low-layers", 6, "--json")
    assert len(json.loads(told.stdout)["low_layers"]) == 6
    assert json.loads((merged / "run.json").read_text())["stages"]["profile"] == before
    run(cli, "plan", merged, "--low-layers", 5)


def test_a_merged_profile_is_known_by_its_data(cli, asked, merged, tmp_path):
    before = json.loads((merged / "run.json").read_text())["stages"]["profile"]
    copied = shutil.copytree(asked[2].parent, tmp_path / "other times") / asked[2].name
    run(cli, "profile", *asked[:2], copied, *asked[3:], "--out", merged, "--device", "cpu")
    assert json.loads((merged / "run.json").read_text())["stages"]["profile"] == before
    facts = json.loads((merged / "run.json").read_text())["merged"]
    checkpoint = checkpoints.open_checkpoint(str(asked[0]))
    spec = SimpleNamespace(checkpoint=checkpoint)
    assert checkpoint.fingerprint == facts["model_contents"]
    fine_tuned = SimpleNamespace(checkpoint=replace(checkpoint, outline="0" * 24))
    calibration = CalibrationSet(asked[2], None, 0.5, SAMPLES, 0)
    with RunFolder(merged) as held:
        for other in ({"seed": 1}, {"alpha": 0.25}, {"samples": 6}):
            calibration_stage.adopt_merged(held, spec, replace(calibration, **other), "another key")
        calibration_stage.adopt_merged(held, fine_tuned, calibration, "another key")
        assert held.read()["stages"]["profile"] == before
        calibration_stage.adopt_merged(held, spec, calibration, "another key")
        assert held.read()["stages"]["profile"]["key"] == "another key"
        held.update(stages=held.read()["stages"] | {"profile": before})


def test_a_folder_with_another_shard_is_refused(cli, asked, shards):
    done = cli("profile", *asked, "--out", shards[1], "--shard", "2/3")
    assert done.returncode == 2
    assert "contains shard 1/3" in done.stderr


@pytest.mark.parametrize("text", ["3/3", "1", "1/0", "-1/2", "a/b"])
def test_a_wrong_share_is_wrong_use(cli, asked, text, tmp_path):
    done = cli("profile", *asked, "--out", tmp_path / "run", "--shard", text)
    assert done.returncode == 2
    assert "is not a shard" in done.stderr


def test_an_interrupted_shard_goes_on_with_the_batches_that_are_left(asked, tmp_path, monkeypatch):
    from luq_gguf.calibration import distributed_pass
    from luq_gguf.core.reporter import Reporter
    from luq_gguf.core.types import ShardSpec

    calls, forward = [], forward_pass.forward
    monkeypatch.setattr(forward_pass, "SAVE_SECONDS", -1.0)  # after every batch
    monkeypatch.setattr(forward_pass, "forward", lambda model, batch: (calls.append(batch.ids), forward(model, batch)))
    calibration = CalibrationSet(asked[2], None, 0.5, SAMPLES, 0)

    def stop(stage, done, total):
        if len(calls) == 2 and done:
            raise KeyboardInterrupt

    model, share = str(asked[0]), ShardSpec(0, 2)
    with pytest.raises(KeyboardInterrupt):
        distributed_pass.profile_shard(model, tmp_path / "broken", calibration, share, reporter=Reporter(progress=stop))
    assert len(calls) == 2
    distributed_pass.profile_shard(model, tmp_path / "broken", calibration, share)
    assert len(calls) == 3, "the second batch again, which was not saved"
    assert calls[1] == calls[2]
    distributed_pass.profile_shard(model, tmp_path / "whole", calibration, share)
    for name in shard_files.names(12):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--nproc_per_node", "2"),
    "accelerate": ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no"),
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_processes_of_a_launcher_make_the_profile_of_one(launcher, asked, alone, tmp_path):
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    out = tmp_path / "run"
    command = [sys.executable, *LAUNCHERS[launcher], "-m", "luq_gguf", "profile", *map(str, asked)]
    done = subprocess.run(
        [*command, "--out", out, "--json"],
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == asked[0].name, "rank 0 alone prints"
    assert json.loads((out / "run.json").read_text())["merged"]["shards"] == 2
    assert not shard_folder(out, 0).exists()
    check_same(alone, out)


def test_a_killed_rank_ends_the_other_and_the_same_command_goes_on(asked, alone, tmp_path):
    """Rank 1 is held until rank 0 has finished its share, then killed: rank 0 must not wait for ever."""
    out = tmp_path / "run"
    arguments = ("profile", *asked, "--out", out)
    first, second = start(arguments, arguments)
    wait_until(lambda: (shard_folder(out, 1) / "run.json").exists())
    second.send_signal(signal.SIGSTOP)
    wait_until(lambda: "shard" in json.loads((shard_folder(out, 0) / "run.json").read_text())["stages"])
    second.kill()
    printed, told = first.communicate(timeout=60)
    assert first.returncode == 1, told
    assert "Another process of this launch is gone." in told
    assert "Traceback" not in told
    assert printed == ""
    second.communicate()
    again = start(arguments, arguments)
    (_, of_first), (printed, of_second) = [process.communicate(timeout=300) for process in again]
    assert [process.returncode for process in again] == [0, 0], of_first + of_second
    assert "samples of shard" not in of_first, "rank 0's share was finished"
    assert printed == ""
    check_same(alone, out)
    idle = start(arguments, arguments)
    assert [process.communicate(timeout=120) and process.returncode for process in idle] == [0, 0]


def test_where_rank_0_is_killed_the_other_ends(asked, tmp_path):
    out = tmp_path / "run"
    arguments = ("profile", *asked, "--out", out)
    first, second = start(arguments, arguments)
    wait_until(lambda: (shard_folder(out, 1) / "run.json").exists())
    first.kill()
    _, told = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "Another process of this launch is gone." in told
    assert "Traceback" not in told
    first.communicate()


def test_an_error_of_one_rank_is_told_once_by_rank_0(asked, tmp_path):
    wrong = [*asked[:2], tmp_path / "missing.jsonl", *asked[3:]]
    first, second = start(
        ("profile", *asked, "--out", tmp_path / "run"), ("profile", *wrong, "--out", tmp_path / "run")
    )
    _, told = first.communicate(timeout=120)
    _, silent = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (2, 2), told
    assert told.count("Error:") == 1
    assert "Rank 1:" in told
    assert "missing.jsonl: no such file or folder" in told
    assert "Error:" not in silent
    assert "Traceback" not in told + silent


def test_where_rank_0_may_not_write_no_other_does(asked, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    arguments = ("profile", *asked, "--out", out)
    first, second = start(arguments, arguments)
    told, silent = (process.communicate(timeout=120)[1] for process in (first, second))
    assert (first.returncode, second.returncode) == (2, 2), told
    assert "contains thesis.tex" in told
    assert "Error:" not in silent
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_ctrl_c_ends_all(asked, tmp_path):
    out = tmp_path / "run"
    arguments = ("profile", *asked, "--out", out)
    both = start(arguments, arguments)
    wait_until(lambda: (shard_folder(out, 1) / "run.json").exists())
    for process in both:
        process.send_signal(signal.SIGINT)
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [130, 130], told
    assert "resumes where this one stopped" in told[0]
    assert "Interrupted" not in told[1]


def test_a_shard_under_a_launcher_is_refused(cli, asked, tmp_path):
    environment = os.environ | {"RANK": "0", "WORLD_SIZE": "2"}
    done = cli("profile", *asked, "--out", tmp_path / "run", "--shard", "0/2", env=environment)
    assert done.returncode == 2
    assert "already share the work" in done.stderr
    done = cli(
        "profile", *asked, "--out", tmp_path / "run", env={k: v for k, v in environment.items() if "MASTER" not in k}
    )
    assert done.returncode == 1
    assert "do not say where they meet" in done.stderr
