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
def finished(cli, once, converted, tiny_model, calibration_file):
    """A run folder with what eval and bench left in it."""

    def make(folder):
        run = converted.copy(folder / "run")
        how = ("--data", calibration_file, "--samples", 8, "--max-tokens", 4, "--threads", 1)
        done = cli("eval", run.model, "--reference", run.f16, *how)
        assert done.returncode == 0, done.stderr
        few = ("--repetitions", 2, "--prompt", 16, "--generate", 4, "--threads", 1)
        done = cli("bench", "--run", run.folder, *few)
        assert done.returncode == 0, done.stderr

    return once(f"finished-{tiny_model.name}", make) / "run"


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"
