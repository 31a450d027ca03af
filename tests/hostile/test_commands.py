"""The hostile corpus through the commands: whole run folders in this process, a sample as a user calls them."""

import contextlib
import resource
import time

import hostile
import hostile_folders
import pytest

from luq_gguf.core.errors import LuqError
from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.diagnostics import verify
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.reporting import build
from luq_gguf.workflows import pipeline

one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
MEASURED = ("eval.json", "bench.json", "sweep.json", "alpha.json")  # verify reads none of them


def assert_is_a_sentence(done, codes=(1, 2)) -> None:
    told = done.stdout + done.stderr
    assert told.strip()
    assert done.returncode in codes, told
    assert "Traceback" not in told
    assert "Unexpected" not in told
    assert "\x1b[2J" not in told


@one_model
@pytest.mark.parametrize("name", hostile_folders.run_folders())
def test_every_bad_run_folder_is_read_or_refused(small, tmp_path, name):
    run = tmp_path / "run"
    small.copy(run)
    (tmp_path / "outside.gguf").write_bytes(b"not to be touched")
    hostile_folders.run_folders()[name](run)
    started = time.monotonic()
    if not name.startswith(MEASURED):
        report = verify.verify(run, threads=1)
        assert all(check.hint for check in report.checks if not check.ok)
        if "run.json-model" not in name:
            assert not report.ok
    with contextlib.suppress(LuqError):
        build.report(run)
    if name.startswith("plan"):
        with pytest.raises(LuqError):
            pipeline.quantize_plan(run, RunOptions(threads=1))
    if name.startswith(("profile.json", "run.json")):
        with contextlib.suppress(LuqError):
            pipeline.plan(run, PlanRequest(Budget(low_layers=3)))
    assert time.monotonic() - started < 120
    assert (tmp_path / "outside.gguf").read_bytes() == b"not to be touched"
    assert not (tmp_path.parent / "outside.gguf").exists()


@one_model
def test_bad_measurements_are_nothing_to_verify(small, tmp_path):
    run = small.copy(tmp_path / "run").folder
    for name in MEASURED:
        (run / name).write_text("[" * 100_000)
    assert verify.verify(run, threads=1).ok


SAMPLE = ("array-nested-deep", "array-too-many-elements", "key-with-escapes", "architecture-is-markup", "cut-at-60")


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_bad_files_as_a_user_meets_them(cli, tmp_path, name):
    path = tmp_path / "a.gguf"
    path.write_bytes(hostile.gguf_files()[name])
    assert_is_a_sentence(cli("inspect", path), (0, 2))
    assert_is_a_sentence(cli("verify", path, "--threads", 1))
    for done in (cli("eval", path, "--text", __file__, "--threads", 1), cli("bench", path, "--threads", 1)):
        assert_is_a_sentence(done)
        assert "Error: " in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["a.gguf"]
    assert path.read_bytes() == hostile.gguf_files()[name]


@pytest.mark.parametrize("name", ["layers-huge", "tensor-name-is-markup"])
def test_what_only_llama_cpp_refuses_is_an_error_here(cli, tmp_path, name):
    """Its parsers run in a child process."""
    path = tmp_path / "a.gguf"
    path.write_bytes(hostile.gguf_files()[name])
    done = cli("verify", path, "--threads", 1)
    assert_is_a_sentence(done, (1,))
    assert "loads" in done.stdout


@pytest.mark.parametrize("name", ["door-tokenizer-cut", "door-text-config-a-list", "door-heads-0"])
def test_what_is_found_at_the_door(cli, tmp_path, models, name):
    folder = hostile_folders.copy_checkpoint(models / "tiny-qwen2.5-vl", tmp_path / "model")
    hostile_folders.door_checkpoints()[name](folder)
    done = cli("convert", folder, "--out", tmp_path / "out", "--low-layers", 3)
    assert_is_a_sentence(done, (2,))
    assert "Error: " in done.stderr
    assert not (tmp_path / "out").exists(), "nothing half-made is left of what was refused"


@pytest.mark.parametrize("name", ["layers-10-9", "vocabulary-10-18", "index-outside", "config-deep"])
def test_what_is_refused_before_it(child, tmp_path, models, name):
    folder = hostile_folders.copy_checkpoint(models / "tiny-qwen2.5-vl", tmp_path / "model")
    hostile_folders.checkpoints()[name](folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert_is_a_sentence(child("profile", folder, "--out", tmp_path / "out"), (2,))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 2 * 1024**2)  # KiB; of all so far


@one_model
@pytest.mark.parametrize("name", ["deep", "zeros", "half-a-surrogate", "image-a-device"])
def test_bad_questions(cli, small, tmp_path, name):
    path = tmp_path / "a.jsonl"
    path.write_bytes(hostile.question_files()[name])
    done = cli("eval", small.copy(tmp_path / "run").model, "--data", path, "--threads", 1)
    assert_is_a_sentence(done, (2,))
    assert "Error: " in done.stderr
    assert "a.jsonl" in done.stderr
