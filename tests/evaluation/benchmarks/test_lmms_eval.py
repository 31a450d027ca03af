"""Names of benchmarks, and what is read of lmms-eval's results and last words."""

import pytest

from luq_gguf.core.errors import BenchmarkError, EvaluationError
from luq_gguf.evaluation.benchmarks import lmms_eval
from luq_gguf.evaluation.benchmarks import run as benchmarks


def test_paper_means_all_nine_and_nothing_is_asked_twice():
    asked = benchmarks.make_request("pope, paper,realworldqa", None, 5)
    assert len(benchmarks.PAPER) == 9
    assert asked.names == ("pope", *(name for name in benchmarks.PAPER if name != "pope"), "realworldqa")
    assert [benchmarks.task_of(name) for name in ("textvqa", "realworldqa")] == ["textvqa_val", "realworldqa"]


def test_no_benchmarks_is_no_request_and_its_options_alone_are_refused(tmp_path):
    assert benchmarks.make_request(None, None, None) is None
    with pytest.raises(EvaluationError, match="--limit is for benchmarks"):
        benchmarks.make_request(None, None, 3)
    with pytest.raises(EvaluationError, match="--benchmark-tasks is for benchmarks"):
        benchmarks.make_request(None, tmp_path, None)
    with pytest.raises(EvaluationError, match="does not name a benchmark"):
        benchmarks.make_request(" , ", None, None)


def test_only_mathvista_of_the_nine_needs_a_judge():
    assert [name for name, task in benchmarks.PAPER.items() if benchmarks.needs_judge(task)] == ["mathvista"]
    assert benchmarks.needs_judge("mmbench_en_dev")


def test_a_login_is_asked_for_where_lmms_eval_asks_with_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    benchmarks._check_login(benchmarks.make_request("textvqa,something", None, None))
    with pytest.raises(EvaluationError, match="login to download pope"):
        benchmarks._check_login(benchmarks.make_request("pope", None, None))


def test_results_to_metrics():
    results = {
        "results": {
            "mme": {
                "alias": "mme",
                "mme_perception_score,none": 1500.5,
                "mme_perception_score_stderr,none": "N/A",
                "acc,strict": 0.5,
                "acc_stderr,strict": 0.25,
                "acc_stderr_clt,strict": 0.2,
                "submission,none": None,
            },
            "a_group": {"alias": "a_group"},
        },
        "n-samples": {"mme": {"original": 2374, "effective": 20}},
        "versions": {"mme": 0.0},
    }
    read = {task: benchmark.to_json() for task, benchmark in lmms_eval.read(results).items()}
    assert read == {
        "mme": {
            "metrics": {
                "mme_perception_score": {"value": 1500.5, "stderr": None},
                "acc (strict)": {"value": 0.5, "stderr": 0.25},
            },
            "n_samples": 20,
            "task": "mme",
            "task_version": 0.0,
        }
    }


def test_a_task_is_known_by_its_definition(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "one.yaml").write_text('task: "one"\ntag:\n  - some\n')
    assert lmms_eval.knows("one", tmp_path)
    assert lmms_eval.knows("some", tmp_path)
    assert not lmms_eval.knows("on", tmp_path)


def test_failed_requests_say_what_to_do():
    said = "Error code: 400 - request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"
    error = lmms_eval._unanswered("docvqa_val", said)
    assert isinstance(error, EvaluationError)
    assert error.message == "A question of docvqa_val has 5000 tokens, which is more than the context size of 4096."
    assert error.hint == "Add --ctx 7168 or more."
    assert isinstance(lmms_eval._unanswered("docvqa_val", "Connection error."), BenchmarkError)


def test_last_words_are_the_error_without_colours():
    said = (
        "Traceback\n  a\n\x1b[31mError during evaluation: no such data. Please set `--verbosity=DEBUG` to see\x1b[0m\n"
    )
    assert lmms_eval._last_words(said) == "no such data"
    assert lmms_eval._last_words("a\n\nb\n") == "a\nb"
