"""`luq-gguf eval --benchmarks`: lmms-eval's real runner asks the real llama-server, on a local task over easy-VQA."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luq_gguf.core.errors import EvaluationError, RunnerError
from luq_gguf.llamacpp import child, server
from luq_gguf.workflows import easy_vqa

COUNT = 40
TASKS = Path(__file__).parents[2] / "support" / "lmms_tasks"
one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A .jsonl with the pictures' whole paths, for lmms-eval does not look beside it.

    The model knows all answers; every fourth is made wrong, so that an equal accuracy says something.
    """
    written = easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", COUNT)
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    for row in rows[::4]:
        row["answers"] = ["something else"]
    path = written.with_name("questions.jsonl")
    path.write_text("".join(json.dumps(row | {"image": str(written.parent / row["image"])}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tasks(questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "tasks"
    shutil.copytree(TASKS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    definition = folder / "easy_vqa" / "easy_vqa.yaml"
    definition.write_text(definition.read_text().replace("QUESTIONS", str(questions)))
    return folder


@pytest.fixture(scope="module")
def run(converted, tmp_path_factory):
    return converted.copy(tmp_path_factory.mktemp("benchmarks") / "run").folder


@pytest.fixture(scope="module")
def evaluate(cli, run, converted, questions, tasks):
    """The same questions by our own road and by lmms-eval's, in one command."""

    def call(*more):
        arguments = ["--data", questions, "--max-tokens", 4, "--benchmarks", "easy_vqa", "--benchmark-tasks", tasks]
        return cli("eval", run / converted.model.name, *arguments, "--threads", 1, *more)

    return call


@pytest.fixture(scope="module")
def evaluated(evaluate):
    done = evaluate("--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_lmms_eval_finds_the_accuracy_that_our_own_questions_find(evaluated, run):
    found = evaluated["benchmarks"]["easy_vqa"]
    assert (found["n_samples"], found["task"], found["task_version"]) == (COUNT, "easy_vqa", 1.0)
    exact = evaluated["conditions"]["benchmarks"]["prompt_as_template"]
    assert exact == ("qwen" in evaluated["file"])
    # llama-server leaves out the line break that LLaVA's template writes behind an image: a few answers may change
    bound = 0 if exact else 3 / COUNT
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(evaluated["accuracy"]["value"], abs=bound + 1e-9)
    assert 0.6 < found["metrics"]["accuracy"]["value"] <= 0.75
    assert 0 < found["metrics"]["accuracy"]["stderr"] < 0.1
    conditions = evaluated["conditions"]["benchmarks"]
    assert conditions["samples_each"] == "all"
    assert conditions["lmms_eval"]
    assert conditions["llama_cpp"] != "unknown"
    saved = json.loads((run / "eval.json").read_text())
    assert {key: value for key, value in saved.items() if key != "others"} == evaluated


@one_model
def test_the_same_again_runs_nothing(evaluate, evaluated, run):
    before = {path: path.stat().st_mtime_ns for path in (run / ".work" / "eval").rglob("*") if path.is_file()}
    assert any(path.name == "llama-server.log" for path in before)
    done = evaluate()
    assert done.returncode == 0, done.stderr
    assert f"easy_vqa: accuracy ({COUNT})" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in (run / ".work" / "eval").rglob("*") if path.is_file()}
    assert before == after


@one_model
def test_benchmarks_alone_with_a_limit(cli, converted, run, tasks, evaluated):
    arguments = ("--benchmarks", "easy_vqa", "--benchmark-tasks", tasks, "--limit", 3, "--threads", 1)
    done = cli("eval", run / converted.model.name, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["benchmarks"]["easy_vqa"]["n_samples"] == found["conditions"]["benchmarks"]["samples_each"] == 3
    assert (found["n_samples"], found["accuracy"], found["kld"], found["perplexity"]) == (0, None, None, None)
    saved = json.loads((run / "eval.json").read_text())
    assert saved["others"] == [evaluated]


@one_model
def test_a_question_longer_than_the_context_ends_the_run(cli, converted, run, tasks, evaluated):
    # llama-server makes contexts multiples of 256; the longest question is made longer than that
    text = tasks / "easy_vqa" / "utils.py"
    kept = text.read_text()
    text.write_text(kept + "\n\ndef long(doc):\n    return 'a circle ' * 400\n")
    definition = tasks / "easy_vqa" / "easy_vqa.yaml"
    whole = definition.read_text()
    definition.write_text(whole.replace("doc_to_text: prompt", "doc_to_text: !function utils.long"))
    arguments = ("--benchmarks", "easy_vqa", "--benchmark-tasks", tasks, "--limit", 2, "--threads", 1, "--ctx", 256)
    done = cli("eval", run / converted.model.name, *arguments)
    definition.write_text(whole)
    text.write_text(kept)
    assert done.returncode == 2, done.stderr
    assert "more than the context size of 256" in done.stderr
    assert "--ctx 1024" in done.stderr or "--ctx 2048" in done.stderr


@one_model
def test_an_unknown_task_is_refused(cli, converted, run, tasks):
    done = cli("eval", run / converted.model.name, "--benchmarks", "easy_vqa2", "--benchmark-tasks", tasks)
    assert done.returncode == 2
    assert "lmms-eval does not have a task named easy_vqa2" in done.stderr


@one_model
def test_a_missing_lmms_eval_is_refused(converted, run):
    code = "import sys; sys.modules['lmms_eval'] = None; from importlib import metadata as m; real = m.version\n"
    code += "def version(name):\n  if name == 'lmms-eval': raise m.PackageNotFoundError\n  return real(name)\n"
    code += "m.version = version; from luq_gguf.cli import main; main()"
    command = [sys.executable, "-c", code, "eval", str(run / converted.model.name), "--benchmarks", "pope"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'luq-gguf[lmms]'" in done.stderr


@one_model
def test_what_needs_a_judge_is_refused_without_its_key(cli, converted, run):
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "API_TYPE")}
    done = cli("eval", run / converted.model.name, "--benchmarks", "paper", env=environment)
    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in done.stderr
    assert "leave mathvista out" in " ".join(done.stderr.split())


@one_model
def test_a_reference_without_data_is_refused(cli, converted, run, tasks):
    arguments = ("--reference", run / converted.f16.name, "--benchmarks", "easy_vqa", "--benchmark-tasks", tasks)
    done = cli("eval", run / converted.model.name, *arguments)
    assert done.returncode == 2
    assert "not on benchmarks" in done.stderr


def test_a_server_that_cannot_load_its_file_says_so(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(RunnerError, match="llama-server ended with exit code 1 on broken.gguf:\n"):
        server.serve(broken, None, tmp_path / "log").__enter__()


@one_model
def test_a_server_that_ends_meanwhile_is_what_is_told(converted, tmp_path, monkeypatch):
    started = []
    start = child.start
    monkeypatch.setattr(child, "start", lambda *a, **k: started.append(start(*a, **k)) or started[-1])
    with (
        pytest.raises(RunnerError, match="llama-server was killed"),
        server.serve(converted.model, converted.mmproj, tmp_path / "log", threads=1),
    ):
        started[-1].kill()
        started[-1].wait()
        raise EvaluationError("no answer", "")
