"""What a run folder's file system cannot do is told in the preflight. Where such a file system would have to be
mounted, the system call that fails on it is made to fail."""

import errno
import fcntl
import mmap
import os
import resource

import pytest

from luq_gguf.core.errors import RunFolderError
from luq_gguf.run import file_system
from luq_gguf.run.folder import RunFolder


def fail(code):
    def call(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EACCES])
def test_with_an_injected_failing_flock_nobody_is_said_to_use_the_folder(code, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail(code))
    with pytest.raises(RunFolderError, match="cannot lock files") as refused, RunFolder(tmp_path / "run", create=True):
        pass
    assert str(tmp_path / "run") in refused.value.message
    assert os.strerror(code) in refused.value.message
    assert not (tmp_path / "run").exists()


def test_with_an_injected_failing_mmap_the_folder_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(mmap, "mmap", fail(errno.ENODEV))
    with pytest.raises(RunFolderError, match="cannot map files into memory") as refused:
        RunFolder(tmp_path / "run", create=True).__enter__()
    assert str(tmp_path / "run") in refused.value.message
    assert os.strerror(errno.ENODEV) in refused.value.message
    assert not (tmp_path / "run").exists()


def test_a_limit_on_file_size_is_told_before_anything_is_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        file_system.check_size(tmp_path, 1 << 20)
        with pytest.raises(RunFolderError, match=r"files of at most 1\.00 MiB, but .* one of 3\.00 MiB in ") as refused:
            file_system.check_size(tmp_path, 3 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit -f" in refused.value.hint
    assert not list(tmp_path.iterdir())


def test_with_an_injected_limit_of_the_file_system_the_size_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    largest = resource.prlimit(0, resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, largest[1]))
    try:
        with pytest.raises(RunFolderError, match=r"does not take a file of 2\.00 MiB"):
            file_system.check_size(tmp_path, 2 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)


@pytest.mark.parametrize("finished", [True, False])
def test_that_stages_are_kept_is_said_only_where_some_are(finished, tmp_path):
    with pytest.raises(OSError, match="No such device") as raised, RunFolder(tmp_path / "run", create=True) as run:
        run.run_stage("door", "a", [], lambda: None)
        if finished:
            run.run_stage("profile", "a", [], lambda: None)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    assert any(str(tmp_path / "run") in note for note in getattr(raised.value, "__notes__", ())) == finished
