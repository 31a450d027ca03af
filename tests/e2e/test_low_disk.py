"""--low-disk writes the bytes of the ordinary way without a whole 16-bit file, and goes on after a kill."""

import json
import shutil
import signal
import sys

import pytest
from disturbed import records, start
from launch import wait_until


@pytest.fixture(scope="session")
def planned(cli, small, tmp_path_factory):
    """A run folder with a plan that takes little time, and what the ordinary way makes of it."""
    run = small.copy(tmp_path_factory.mktemp("low-disk") / "run")
    for path in (run.f16, run.model):
        path.unlink()
    assert cli("plan", run.folder, "--low", "Q2_K", "--low-layers", 5).returncode == 0
    done = cli("quantize", run.folder, "--json")
    assert done.returncode == 0, done.stderr
    model = run.folder / json.loads(done.stdout)["model"]
    content = model.read_bytes()
    model.unlink()
    return run.folder, model.name, content


def test_the_bytes_are_those_of_the_ordinary_way_after_a_kill_too(cli, planned, tmp_path):
    folder, name, content = planned
    shutil.copytree(folder, tmp_path / "run")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "luq_gguf", "quantize", str(run), "--low-disk"]
    child = start(command)
    wait_until(lambda: "slice-0" in records(run))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert "slice-1" not in records(run), "the first slice is the embeddings, the second all layers"
    kept = records(run)["slice-0"]
    child = start(command)
    wait_until(lambda: "slice-1" in records(run) or child.poll() is not None)
    assert records(run).get("slice-0", kept) == kept, "done again"
    _, told = child.communicate()
    assert child.returncode == 0, told
    assert (run / name).read_bytes() == content
    assert not [stage for stage in records(run) if stage.startswith("slice")]
    left = {path.name for path in run.rglob("*") if path.suffix in (".gguf", ".part")}
    assert not {one for one in left if "F16" in one and "mmproj" not in one}
    assert not (run / ".work" / "slices").exists()
    assert not [one for one in left if one.endswith(".part")]


@pytest.mark.parametrize(
    "other", [("--keep-f16",), ("--max-kld", "0.1"), ("--rank", "kld")], ids=lambda given: given[0]
)
def test_what_needs_the_16_bit_file_is_wrong_use(cli, tmp_path, other):
    budget = () if other[0] == "--max-kld" else ("--low-layers", 3)
    done = cli("convert", tmp_path, "--out", tmp_path / "run", "--low-disk", *other, *budget)
    assert done.returncode == 2
    assert "--low-disk does not write a whole 16-bit GGUF file" in done.stderr
    assert not (tmp_path / "run").exists()
