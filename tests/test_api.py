"""The product as a library: what an import loads and leaves behind, what functions refuse, and where they can be called
from."""

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import luq_gguf
from luq_gguf import Budget, CalibrationSet, LuqError, QuestionSet, Reporter, RunOptions
from luq_gguf.llamacpp import tools

PROMISED = {
    "convert", "profile", "plan", "quantize", "evaluate", "sweep", "bench", "upload", "verify", "progress", "choose",
    "Budget", "CalibrationSet", "LuqError", "QuestionSet", "Reporter", "RunOptions",
}  # fmt: skip
KEPT = RunOptions(keep_f16=True)

IMPORT = """
import logging, os, signal, sys, threading, warnings

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    hooks = sys.unraisablehook, sys.excepthook, sys.displayhook, threading.excepthook
    loggers = {name: (logger.level, list(logger.handlers)) for name, logger in logging.root.manager.loggerDict.items()
               if isinstance(logger, logging.Logger)}
    return (dict(os.environ), os.getcwd(), handlers, hooks, list(warnings.filters), logging.root.level,
            list(logging.root.handlers), loggers, threading.active_count(), list(sys.path))

loaded, before = set(sys.modules), state()
import luq_gguf
dir(luq_gguf)
others = {name.partition(".")[0] for name in set(sys.modules) - loaded} - set(sys.stdlib_module_names)
assert others == {"luq_gguf"}, others
assert state() == before
assert set(luq_gguf.__all__) <= set(dir(luq_gguf))
"""

HEAVY = "import sys, luq_gguf.api; print({'torch', 'transformers', 'matplotlib', 'llama_cpp'} & set(sys.modules))"

EVERYTHING = """
import importlib, pkgutil, sys
from pathlib import Path
import luq_gguf

for module in pkgutil.walk_packages(luq_gguf.__path__, "luq_gguf."):
    importlib.import_module(module.name)
none, budget, run = Path(sys.argv[1]) / "none", luq_gguf.Budget(low_layers=1), Path(sys.argv[1]) / "run"
calls = {
    "convert": lambda: luq_gguf.convert(none, run, budget),
    "profile": lambda: luq_gguf.profile(none, run),
    "plan": lambda: luq_gguf.plan(none, budget),
    "quantize": lambda: luq_gguf.quantize(none),
    "evaluate": lambda: luq_gguf.evaluate(none),
    "evaluate_run": lambda: luq_gguf.evaluate_run(none),
    "sweep": lambda: luq_gguf.sweep(none, "questions.jsonl"),
    "bench": lambda: luq_gguf.bench(none),
    "bench_types": lambda: luq_gguf.bench_types(shape="none"),
    "fit": lambda: luq_gguf.fit("none.png", none, run),
    "choose": lambda: luq_gguf.choose(none),
    "upload": lambda: luq_gguf.upload(none, "me/model"),
    "verify": lambda: luq_gguf.verify(none),
}
for name, call in calls.items():
    try:
        call()
    except luq_gguf.LuqError as error:
        print(name, type(error).__name__, error.message, error.hint, sep="|")
with luq_gguf.progress() as reporter:
    assert isinstance(reporter, luq_gguf.Reporter)
functions = {name for name in luq_gguf.__all__ if type(getattr(luq_gguf, name)) is type(lambda: None)}
assert functions == {*calls, "progress"}, functions ^ {*calls}
"""


def python(program: str, *arguments: object, **where) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **where)


def test_an_import_loads_nothing_outside_of_the_standard_library_and_changes_nothing():
    done = python(IMPORT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_commands_that_compute_nothing_do_not_wait_for_the_packages_that_do():
    assert python(HEAVY).stdout.strip() == "set()"


def test_each_function_is_called_when_every_module_has_been_imported(tmp_path):
    """A module of a function's name would hide it. What is not there is refused in one sentence and one hint."""
    done = python(EVERYTHING, tmp_path, env=tools.bindings_environment())
    assert done.returncode == 0, done.stderr
    refusals = [line.split("|") for line in done.stdout.splitlines()]
    assert len(refusals) == 13, done.stdout
    assert all(kind.endswith("Error") and message and hint for _, kind, message, hint in refusals), done.stdout
    assert list(tmp_path.iterdir()) == []


def test_all_names_are_there_and_their_types_too():
    assert set(luq_gguf.__all__) >= PROMISED
    for name in luq_gguf.__all__:
        value = getattr(luq_gguf, name)
        if inspect.isfunction(value):
            assert "return" in typing.get_type_hints(value), name
            assert value.__doc__, name
    assert (Path(luq_gguf.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = luq_gguf.quantise


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: luq_gguf.convert("M", out, Budget()), "No budget was given"),
        (lambda out: luq_gguf.convert("M", out, Budget(low_layers=1, bpw=3)), "More than one budget"),
        (lambda out: luq_gguf.convert("M", out, Budget(low_layers=1), rank="luck"), "no order of layers named luck"),
        (lambda out: luq_gguf.convert("M", out, Budget(low_layers=1),
                                      options=RunOptions(low_disk=True, keep_f16=True)), "--low-disk does not write"),
        (lambda out: luq_gguf.plan(out, Budget(low_layers=1), best=luq_gguf.BestRequest()), "--plan best needs a size"),
        (lambda out: luq_gguf.sweep(out, "q.jsonl", rankings=["luck"]), "no order of layers named luck"),
        (lambda out: luq_gguf.evaluate("M.gguf", QuestionSet("q.jsonl", metric="luck")), "no metric named luck"),
        (lambda out: luq_gguf.bench(), "nothing to measure"),
        (lambda out: luq_gguf.bench("M.gguf", run=out), "nothing to measure, or too much"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_as_on_the_command_line(tmp_path, call, words):
    with pytest.raises(LuqError, match=words) as refused:
        call(tmp_path / "out")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_text_and_paths_name_the_same_calibration(calibration_file):
    assert CalibrationSet(calibration_file).sources == CalibrationSet(str(calibration_file)).sources


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C: workers of pytest-xdist ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(small, tmp_path):
    return small.copy(tmp_path / "run")


one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@one_model
def test_a_call_can_be_repeated_in_a_thread_and_in_a_spawned_process(run, capfd):
    """What is done is not done again, so each call returns the same value, which can be pickled."""
    first = luq_gguf.quantize(run.folder, options=KEPT)
    with ThreadPoolExecutor(1) as thread:
        second = thread.submit(luq_gguf.quantize, str(run.folder), options=KEPT).result()
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        third = processes.apply(luq_gguf.quantize, (run.folder,), {"options": KEPT, "reporter": Reporter()})
    assert first == second == third
    assert first.to_json()["sha256"] == run.result["sha256"]
    assert first.profile.to_json()["layers"]
    assert first.plan.to_json()["low_layers"] == run.result["low_layers"]
    assert capfd.readouterr() == ("", ""), "the library never prints"


@one_model
def test_ctrl_c_leaves_a_session_in_which_the_same_call_goes_on(run, interruptible):
    """The real signal, in the middle of llama-quantize: its process has ended, and the folder is free."""
    run.model.unlink()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook
    threads, stages = threading.active_count(), []

    def interrupt(stage, done, total):
        stages.append(stage)
        if stage == "quantize: tensors":
            os.kill(os.getpid(), signal.SIGINT)

    children = psutil.Process().children(recursive=True)
    with pytest.raises(KeyboardInterrupt):
        luq_gguf.quantize(run.folder, options=KEPT, reporter=Reporter(interrupt))
    assert "quantize: tensors" in stages
    assert psutil.Process().children(recursive=True) == children
    assert threading.active_count() == threads
    assert not list(run.folder.rglob("*.part"))
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook)
    assert luq_gguf.quantize(run.folder, options=KEPT).model.sha256 == run.result["sha256"]
