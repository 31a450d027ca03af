"""Fixtures of the tests of `upload`: a finished run folder, and a Hub that it goes to."""

import shutil

import pytest
from hub_server import User, serve
from uploader import TOKEN, Uploader


@pytest.fixture
def hub():
    with serve() as running:
        running.users[TOKEN] = User("mira", orgs=[{"name": "lab", "roleInOrg": "read"}])
        yield running


@pytest.fixture
def upload(hub, tmp_path):
    return Uploader(hub, tmp_path / "hf")


@pytest.fixture(scope="session")
def finished(cli, converted, calibration_file, tmp_path_factory):
    """A run folder with what eval and bench left in it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(converted.folder, folder)
    model, f16 = folder / converted.model.name, folder / converted.f16.name
    how = ("--data", calibration_file, "--samples", 8, "--max-tokens", 4, "--threads", 1)
    done = cli("eval", model, "--reference", f16, *how)
    assert done.returncode == 0, done.stderr
    done = cli("bench", "--run", folder, "--repetitions", 2, "--prompt", 16, "--generate", 4, "--threads", 1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"
