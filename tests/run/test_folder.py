import hashlib
import json
import os
import subprocess
import sys

import pytest

from luq_gguf.core import atomic
from luq_gguf.core.errors import InputError, RunFolderError
from luq_gguf.core.hashing import hash_of
from luq_gguf.run.folder import RunFolder


def stage(run, key, content="x"):
    return run.run_stage("s", key, ["out.txt"], lambda: run.file("out.txt").write_text(content) and None)


def test_a_stage_runs_once_for_the_same_inputs(tmp_path):
    with RunFolder(tmp_path / "run", create=True) as run:
        assert stage(run, "a")
        assert not stage(run, "a")
        assert stage(run, "b")


@pytest.mark.parametrize("change", [lambda p: p.unlink(), lambda p: p.write_text("other")], ids=["removed", "changed"])
def test_a_stage_runs_again_when_its_output_is_gone_or_changed(tmp_path, change):
    with RunFolder(tmp_path / "run", create=True) as run:
        stage(run, "a")
        change(run.file("out.txt"))
        assert stage(run, "a")


def test_a_copied_run_folder_is_still_done(tmp_path):
    import shutil

    with RunFolder(tmp_path / "run", create=True) as run:
        stage(run, "a")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=shutil.copy)
    with RunFolder(tmp_path / "copy") as run:
        assert not stage(run, "a")


def test_a_file_that_passes_through_is_hashed_when_it_is_kept(tmp_path):
    with RunFolder(tmp_path / "run", create=True) as run:
        out = run.file("out.txt")

        def make() -> None:
            out.write_text("large")

        assert run.run_stage("s", "a", ["out.txt"], make, hashed=False)
        assert run.outputs("s")["out.txt"]["sha256"] == ""
        assert not run.run_stage("s", "a", ["out.txt"], make, hashed=False)
        os.utime(out, ns=(0, 0))
        assert run.run_stage("s", "a", ["out.txt"], make, hashed=False), "nothing else tells whether it was changed"
        run.hash_outputs("s")
        assert run.outputs("s")["out.txt"]["sha256"] == hashlib.sha256(b"large").hexdigest()
        os.utime(out, ns=(0, 0))
        assert not run.run_stage("s", "a", ["out.txt"], make)


def test_a_failed_stage_is_not_recorded_and_leaves_no_part(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run", create=True) as run:

        def fail() -> None:
            run.file(f"out.txt{atomic.SUFFIX}").write_text("half")
            raise ZeroDivisionError

        run.run_stage("s", "a", ["out.txt"], fail)
    assert not list((tmp_path / "run").glob("*.part"))
    with RunFolder(tmp_path / "run", create=True) as run:
        assert stage(run, "a")


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    with (
        RunFolder(tmp_path / "run", create=True),
        pytest.raises(RunFolderError, match=r"in use by process \d+"),
        RunFolder(tmp_path / "run", create=True),
    ):
        pass


def test_the_lock_of_a_killed_process_goes_with_it(tmp_path):
    holding = (
        "import sys, pathlib; from luq_gguf.run.folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1]), create=True): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holding, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        (tmp_path / "run" / "run.json").write_text('{"stages": {}}')
        with pytest.raises(RunFolderError, match=f"in use by process {child.pid}\\."), RunFolder(tmp_path / "run"):
            pass
        child.kill()
        child.wait()
        with RunFolder(tmp_path / "run") as run:
            assert stage(run, "a")


def test_a_folder_with_other_things_is_refused_unless_it_may_be_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="contains thesis.tex"):
        RunFolder(tmp_path, create=True)
    with RunFolder(tmp_path, create=True, overwrite=True):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_other_peoples_unfinished_files_are_kept(tmp_path):
    """Of a browser or a downloader, whenever they came."""
    (tmp_path / "film.mkv.part").write_text("half a film")
    with RunFolder(tmp_path, create=True, overwrite=True) as run:
        (tmp_path / "other.gguf.part").write_text("half a model")
        run.update(model="m")
    with RunFolder(tmp_path):
        pass
    assert (tmp_path / "film.mkv.part").exists()
    assert (tmp_path / "other.gguf.part").exists()


def test_contents_changed_under_the_same_size_and_times(tmp_path):
    with RunFolder(tmp_path / "run", create=True) as run:
        assert stage(run, "a")
        assert not stage(run, "a")
        out = run.file("out.txt")
        times = (out.stat().st_atime_ns, out.stat().st_mtime_ns)
        out.write_text("y")
        os.utime(out, ns=times)
        assert run.changed("s") == ["out.txt"]
        assert stage(run, "a")


def test_a_file_or_a_stranger_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file", create=True)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(RunFolderError, match="was not written by luq-gguf"), RunFolder(tmp_path) as run:
        run.read()


def test_a_folder_made_for_a_refused_job_is_removed(tmp_path):
    for kept, folder in ((False, tmp_path / "new"), (True, tmp_path)):
        with pytest.raises(InputError), RunFolder(folder, create=True) as run:
            run.update(model="m")
            raise InputError("refused")
        assert folder.exists() == kept


def test_keys_follow_their_inputs():
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1})
    assert hash_of("a", "b") != hash_of("ab")
