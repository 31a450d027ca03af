"""Several sizes of one model in one run folder: made together, added later, interrupted, measured, published."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from hub_server import User, serve
from uploader import REPO, TOKEN, Uploader

from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import model_files
from luq_gguf.run.folder import RunFolder

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
LUQ2, LUQ4, LUQ6 = (f"LUQ{number}-Q2K-Q4KM" for number in (2, 4, 6))


def file_of(folder, part):
    return next(folder.glob(f"tiny-qwen2.5-vl-{part}*.gguf"))


def arguments(small, folder, *more):
    """Of the shared conversion, with other sizes in the place of its six low layers."""
    words = list(small.arguments)
    at = words.index("--low-layers")
    return [folder if word == small.folder else word for word in words[:at] + words[at + 2 :]] + list(more)


@pytest.fixture(scope="session")
def ladder(once, cli, small):
    """The small conversion with two sizes and one of llama-quantize's own files added, and all measured."""

    def make(folder):
        shutil.copytree(small.folder, folder / "run")
        done = cli(*arguments(small, folder / "run", "--low-layers", "2,4", "--also", "q3_k_m"))
        assert done.returncode == 0, done.stderr
        (folder / "result.json").write_text(done.stdout)
        questions = small.arguments[small.arguments.index("--calib") + 1]
        done = cli("eval", folder / "run", "--data", questions, "--samples", 4, "--max-tokens", 2, "--json")
        assert done.returncode == 0, done.stderr
        (folder / "evals.json").write_text(done.stdout)

    return once("ladder", make)


def test_sizes_added_later_leave_what_is_there_and_one_verify_checks_all(ladder, small, cli):
    run, result = ladder / "run", json.loads((ladder / "result.json").read_text())
    made = [file["model"].partition("tiny-qwen2.5-vl-")[2] for file in result["files"]]
    assert [name.startswith(part) for name, part in zip(made, ("Q3_K_M.", LUQ2, LUQ4), strict=True)] == [True] * 3
    assert result["model"] == result["files"][-1]["model"]
    assert file_of(run, LUQ6).stat().st_mtime_ns == small.model.stat().st_mtime_ns
    listed = model_files.names(RunFolder(run))
    assert len(listed) == 4
    done = cli("verify", run, "--json")
    checks = {check["name"] for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0
    for name in listed:
        assert {f"{name}: types", f"{name}: image"} <= checks


def test_each_file_is_that_of_a_single_conversion(ladder, small, cli, tmp_path):
    """A ladder from nothing, against the shared conversion of one size and the file that bench compares with."""
    done = cli(*arguments(small, tmp_path / "run", "--low-layers", "6,4", "--also", "Q4_K_M"))
    assert done.returncode == 0, done.stderr
    for part in (LUQ6, LUQ4, "Q4_K_M"):
        assert file_of(tmp_path / "run", part).read_bytes() == file_of(ladder / "run", part).read_bytes()


def test_going_back_to_a_size_quantizes_nothing(ladder, small, cli, tmp_path, monkeypatch):
    shutil.copytree(ladder / "run", tmp_path / "run")
    monkeypatch.setattr(quantization_stage, "quantize_plan", lambda *_: pytest.fail("it is there already"))
    done = cli(*arguments(small, tmp_path / "run", "--low-layers", "6,2"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == str(file_of(tmp_path / "run", LUQ2))
    assert (
        json.loads((tmp_path / "run" / "plan.json").read_text())["low_layers"]
        == json.loads((tmp_path / "run" / "files" / "tiny-qwen2.5-vl-LUQ2-Q2K-Q4KM" / "plan.json").read_text())[
            "low_layers"
        ]
    )


def test_killed_behind_its_first_file_it_goes_on_from_there(ladder, small, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "luq_gguf", *map(str, arguments(small, run, "--low-layers", "6,4"))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while not list(run.glob(f"*{LUQ6}*.gguf")) and child.poll() is None:
            time.sleep(0.02)
        child.kill()
    first = file_of(run, LUQ6)
    written = first.stat().st_mtime_ns
    assert not list(run.glob(f"*{LUQ4}*.gguf"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages = json.loads((run / "run.json").read_text())["stages"]
    for part in (LUQ6, LUQ4):
        assert file_of(run, part).read_bytes() == file_of(ladder / "run", part).read_bytes()
    assert first.stat().st_mtime_ns in (written, stages[f"file {first.name}"]["outputs"][first.name]["mtime_ns"])


def test_files_of_another_calibration_are_no_longer_listed(ladder, small, cli, tmp_path):
    shutil.copytree(ladder / "run", tmp_path / "run")
    words = arguments(small, tmp_path / "run", "--low-layers", "4")
    words[words.index("--samples") + 1] = "16"
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert "is no longer listed with the files of this folder" in " ".join(done.stderr.split())
    assert model_files.names(RunFolder(tmp_path / "run")) == [file_of(tmp_path / "run", LUQ4).name]
    assert file_of(tmp_path / "run", LUQ2).exists()


def test_all_are_measured_on_the_same_questions(ladder):
    results = json.loads((ladder / "evals.json").read_text())["files"]
    assert len(results) == len({result["file"] for result in results}) == 5
    assert {result["reference"] for result in results} == {"tiny-qwen2.5-vl-F16.gguf"}
    assert len({json.dumps(result["conditions"], sort_keys=True) for result in results}) == 1


def test_one_commit_and_one_table_have_all_files(ladder, tmp_path):
    shutil.copytree(ladder / "run", tmp_path / "run")
    with serve() as hub:
        hub.users[TOKEN] = User("mira", orgs=[])
        upload = Uploader(hub, tmp_path / "hf")
        done = upload(tmp_path / "run", "--create")
        assert done.returncode == 0, done.stderr
        repository = hub.repositories[REPO]
        files = repository.files
        again = upload(tmp_path / "run", "--json")
        assert json.loads(again.stdout)["n_bytes_sent"] == 0
    models = [name for name in files if name.endswith(".gguf") and "/" not in name and "mmproj" not in name]
    assert sorted(models) == sorted(model_files.names(RunFolder(ladder / "run")))
    for folder in ("LUQ2-Q2K-Q4KM", "LUQ4-Q2K-Q4KM", "LUQ6-Q2K-Q4KM", "Q3KM"):
        own = {name.rpartition("/")[2] for name in files if name.startswith(f"tiny-qwen2.5-vl-{folder}/")}
        assert {"plan.json", "tensor-types.txt", "recipe.json", "imatrix.gguf"} <= own
    lines = files["README.md"].decode().splitlines()
    rows = [line for line in lines if line.removeprefix("| ").split(" ")[0].replace("\\", "") in models]
    assert [row.split(" ")[1] for row in rows] == sorted(models, key=lambda name: len(files[name]))
    assert "; the smallest" in rows[0]
    assert all(re.search(r"\d\.\d\de-0\d", row) for row in rows), "each has its divergence"
    assert "accuracy, change from 16 bit" in "".join(lines)
