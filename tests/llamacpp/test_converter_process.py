"""The process that the converter runs in: many runs of one server, each as in a process of its own."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from luq_gguf.core.errors import CheckpointError
from luq_gguf.llamacpp import converter_process
from luq_gguf.llamacpp.child import Failure

FAILURE = Failure(CheckpointError, "The script")


@pytest.fixture
def script(tmp_path):
    """Writes a script that stands in the converter's place; what it prints is returned by running it."""

    def write(text, *arguments, **how):
        path, lines = tmp_path / f"script{len(list(tmp_path.glob('*.py')))}.py", []
        path.write_text(text)
        converter_process.run(path, arguments, FAILURE, on_line=lines.append, **how)
        return lines

    return write


def test_a_script_runs_as_if_python_had_been_given_it(script, tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THIS_RUN", "h\u00e9llo")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("word = 'beside'")
    said = script(
        "import json, os, sys, beside\n"
        "print(json.dumps([__name__, sys.argv[1:], os.getcwd(), os.environ['OF_THIS_RUN'], beside.word]))\n"
        "print([folder for folder in sys.path if folder.endswith('llamacpp')])\n"
        "print('without an end', end='')",
        "--one",
        "two words",
    )
    assert json.loads(said[0]) == ["__main__", ["--one", "two words"], str(tmp_path), "h\u00e9llo", "beside"]
    assert said[1:] == ["[]", "without an end"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ValueError('a reason')", r"ended with exit code 1:\nValueError: a reason$"),
        ("import sys; sys.exit('a sentence')", r"ended with exit code 1:\na sentence$"),
        ("import sys; print('why', file=sys.stderr); sys.exit(3)", r"ended with exit code 3:\nwhy$"),
        ("import os; os.kill(os.getpid(), 11)", r"crashed \(segmentation fault\)"),
        ("import os; os.kill(os.getpid(), 9)", r"was killed"),
    ],
)
def test_how_a_script_failed_is_told_in_its_own_words(script, text, words):
    with pytest.raises(CheckpointError, match=f"The script {words}"):
        script(text)
    assert script("print('the next one')") == ["the next one"]


def test_runs_share_a_server_and_leave_nothing_of_theirs_behind(script):
    first = script("import os, json\njson.mine = 1\nprint(os.getppid())")
    second = script("import os, json\nprint(os.getppid(), hasattr(json, 'mine'))")
    assert second == [f"{first[0]} False"]


def test_a_run_that_is_interrupted_has_ended_when_the_error_comes(tmp_path):
    path = tmp_path / "long.py"
    path.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    pids = []

    def on_line(line):
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converter_process.run(path, (), FAILURE, on_line=on_line)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_runs_of_several_threads_do_not_wait_for_each_other(tmp_path):
    path = tmp_path / "together.py"
    path.write_text(
        "import sys, time\nfrom pathlib import Path\nhere = Path(sys.argv[1])\n(here / sys.argv[2]).touch()\n"
        "while len(list(here.iterdir())) < 3:\n    time.sleep(0.01)\nprint(sys.argv[2])"
    )
    (tmp_path / "here").mkdir()
    said = {n: [] for n in "abc"}
    with ThreadPoolExecutor() as pool:
        for n, lines in said.items():
            pool.submit(converter_process.run, path, [str(tmp_path / "here"), n], FAILURE, on_line=lines.append)
    assert said == {n: [n] for n in "abc"}


def test_a_server_that_is_killed_takes_its_runs_with_it_and_is_replaced(script):
    server = script("import os\nprint(os.getppid())")
    with pytest.raises(CheckpointError, match="The script was killed"):
        script("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(600)")
    assert script("import os\nprint(os.getppid())") != server
