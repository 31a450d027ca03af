"""A conversion that is killed, interrupted or out of room ends with the same bytes when it is run again."""

import contextlib
import os
import random
import signal
import subprocess

import disturbed
import pytest

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def reference(tiny_model, calibration_file, tmp_path_factory):
    """Files of an undisturbed run, and how long each stage takes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return disturbed.undisturbed(disturbed.convert(tiny_model, folder, calibration_file), folder)


@pytest.mark.parametrize(("number", "most"), [(signal.SIGKILL, 3), (signal.SIGINT, 2)], ids=["kill", "ctrl-c"])
def test_the_files_are_the_same_and_no_stage_is_done_twice(
    reference, tiny_model, calibration_file, tmp_path, number, most
):
    """More of the same, at some hundred moments: scripts/kill_study.py."""
    files, seconds = reference
    command = disturbed.convert(tiny_model, tmp_path / "run", calibration_file)
    stops = list(disturbed.stopped(command, tmp_path / "run", seconds, number, random.Random(number), most, 0.5))
    assert stops
    assert all(disturbed.is_expected(stop, number) for stop in stops), stops
    assert disturbed.files(tmp_path / "run") == files


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 260 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("making a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """To the last bytes: what is written there meanwhile finds no room either."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))


@pytest.mark.parametrize("stage", ["profile", "plan"], ids=lambda stage: f"after-{stage}")
def test_a_disk_that_fills_up_loses_nothing(reference, tiny_model, calibration_file, small_disk, stage):
    """Filled as soon as a stage is done, so that the next one finds no room: one that writes a file itself, and one
    whose file a tool of llama.cpp's writes."""
    files, _ = reference
    run = small_disk / "run"
    command = disturbed.convert(tiny_model, run, calibration_file)
    child = disturbed.start(command)
    while child.poll() is None and stage not in disturbed.records(run):
        pass
    fill(small_disk)
    _, told = child.communicate(timeout=120)
    assert child.returncode == 1, told
    assert "Error: " in told
    assert "No space left on device" in told or "is full" in told, told
    assert "Traceback" not in told
    known = disturbed.records(run)
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]
    (small_disk / "filler").unlink()
    child = disturbed.start(command)
    _, told = child.communicate(timeout=120)
    assert child.returncode == 0, told
    disturbed.assert_kept(known, disturbed.records(run))
    assert disturbed.files(run) == files


def test_a_folder_that_cannot_be_written_is_told(tiny_model, calibration_file, tmp_path):
    """Also to root, whom permissions do not stop: a mount that is read-only."""
    folder = tmp_path / "readonly"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    folder.chmod(0o500) if not mounted else None
    try:
        child = disturbed.start(disturbed.convert(tiny_model, folder / "run", calibration_file))
        _, told = child.communicate(timeout=120)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True) if mounted else folder.chmod(0o700)
    assert child.returncode == 2, told
    assert "cannot be written" in told
    assert "Traceback" not in told
