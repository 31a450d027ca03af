"""What does not fit in the context is refused before anything is measured or made for it, with its line."""

import json

import pytest
from PIL import Image

from luq_gguf.core.errors import BudgetError, EvaluationError
from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.evaluation.context import check_context
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.hf import datasets
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_session

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture
def questions(tmp_path):
    """Two short questions, a long one between them, and a large picture."""
    for name, side in (("small", 112), ("photo", 560)):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{name}.png")
    rows = [
        {"prompt": "what color is it?", "image": "small.png", "answers": ["red"]},
        {"prompt": "what " * 300, "answers": ["red"]},
        {"prompt": "what color is it?", "answers": ["red"]},
        {"prompt": "what color is it?", "image": "photo.png", "answers": ["red"]},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n" + "\n".join(map(json.dumps, rows)) + "\n")  # the first line is empty
    return path


@pytest.fixture(scope="module")
def copied(small, tmp_path_factory):
    """A command locks the folder of the file that it measures, which other workers' tests read."""
    return small.copy(tmp_path_factory.mktemp("measured") / "run")


def test_tokens_are_counted_as_they_are_read_by_a_header_alone(small, questions):
    from luq_gguf.llamacpp.runtime.client import LlamaClient

    samples = [sample for sample in datasets.read_jsonl(questions) if sample.image or len(sample.prompt) < 99]
    with LlamaClient(small.folder / ".work" / "skeleton.gguf", small.mmproj, weights=False) as header:
        counted = [header.count(sample.prompt, sample.image) for sample in samples]
    with LlamaClient(small.model, small.mmproj, n_ctx=1024) as whole:
        assert counted == [whole.ask(s.prompt, s.image, max_tokens=1).n_prompt for s in samples]
    assert counted[0] > counted[1]


def test_the_lines_and_the_context_that_they_need_are_named(small, questions):
    samples = dict(enumerate(datasets.read_jsonl(questions)))
    with pytest.raises(EvaluationError, match=r"q\.jsonl, line 3: the prompt has 3\d\d tokens, .* 1 more") as caught:
        check_context(small.model, small.mmproj, "q.jsonl", samples, n_ctx=256, max_tokens=32)
    needed = int(caught.value.hint.split("--ctx ")[1].split(",")[0])
    check_context(small.model, small.mmproj, "q.jsonl", samples, n_ctx=needed, max_tokens=32)
    with pytest.raises(EvaluationError, match="1 more|line 5"):
        check_context(small.model, small.mmproj, "q.jsonl", samples, n_ctx=needed - 1, max_tokens=32)


def test_eval_refuses_before_the_first_question_is_asked(cli, copied, questions):
    done = cli("eval", copied.model, "--data", questions, "--ctx", 256, "--max-tokens", 4)
    assert done.returncode == 2
    assert "q.jsonl, line 3" in done.stderr
    assert "--ctx" in done.stderr
    assert "1/4" not in done.stderr


def test_a_context_below_a_chunk_of_text_is_refused(cli, copied, tmp_path):
    (tmp_path / "book.txt").write_text("is there a circle? no\n" * 200)
    done = cli("eval", copied.model, "--text", tmp_path / "book.txt", "--ctx", 256)
    assert done.returncode == 2
    assert "--ctx 512" in done.stderr


@pytest.mark.parametrize("n_ctx", [256, 2048])
def test_a_plan_that_measures_is_refused_before_anything_is_made_for_it(small, questions, tmp_path, n_ctx):
    run = small.copy(tmp_path / "run").folder
    wanted = PlanRequest(Budget(max_kld=0.1), questions=QuestionSet(str(questions), n_ctx=n_ctx), low="Q2_K")
    with RunFolder(run) as held:
        session = open_session(held, str(small.arguments[1]), RunOptions(), low="Q2_K")
        if n_ctx == 2048:
            assert planning_stage.prepare(session, wanted).request == wanted
        else:
            with pytest.raises(EvaluationError, match=r"q\.jsonl, line 3"):
                planning_stage.prepare(session, wanted)
    assert not (run / ".work" / "bank").exists()


def test_speeds_of_types_are_measured_on_request_alone(small, tmp_path, monkeypatch):
    from luq_gguf.benchmarking import predict, type_benchmark

    monkeypatch.setattr(type_benchmark, "_cache_path", lambda geometry, threads: tmp_path / f"{threads}.json")
    measured = []

    def refuse(geometry, threads, types, content, reporter):
        measured.append(sorted(types))
        raise BudgetError("not here.", "")

    monkeypatch.setattr(type_benchmark, "_measure", refuse)
    with RunFolder(small.copy(tmp_path / "run").folder) as held:
        session = open_session(held, str(small.arguments[1]), RunOptions(threads=1), low="Q2_K")
        assert predict.predictor(session, required=False) is None
        assert not measured
        assert predict.predictor(session, required=False, wanted=True) is None
        with pytest.raises(BudgetError):
            predict.predictor(session, required=True)
        assert len(measured) == 2
        rate = {"decode_wps": 1e9, "prefill_wps": 1e10}
        known = {f"{what}_{part}": 1e-3 for what in ("decode", "prefill") for part in ("constant", "head")}
        kinds = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q8_0", "F16")
        (tmp_path / "1.json").write_text(json.dumps(known | {"rates": dict.fromkeys(kinds, rate)}))
        kept = predict.predictor(session, required=False)
        assert kept is not None
        assert kept.decode_tps(()) > 0
        assert len(measured) == 2


def test_lines_of_all_formats_are_asked_with_all_pictures_and_turns(cli, copied, questions):
    said = [("user", "<image>what color?"), ("assistant", "red"), ("user", "<image>and this?"), ("assistant", "red")]
    rows = [
        {"images": ["small.png", "photo.png"], "prompt": "what color?", "answers": ["red"]},
        {"messages": [{"role": r, "content": t} for r, t in said], "images": ["small.png", "photo.png"]},
        {"conversations": [{"from": r, "value": t} for r, t in said], "images": ["small.png", "photo.png"]},
        {"messages": [{"role": "user", "content": "what color?"}, {"role": "assistant", "content": "red"}]},
    ]
    questions.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--data", questions, "--max-tokens", 2, "--threads", 1, "--json")
    too_long = cli("eval", copied.model, *arguments, "--ctx", 256)
    assert too_long.returncode == 2
    assert "q.jsonl, line 1: the prompt has" in too_long.stderr
    assert "with its images" in too_long.stderr
    done = cli("eval", copied.model, *arguments)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["n_samples"], told["metric"]) == (3, "exact")  # the second and third line are the same
    rows[3]["messages"][0]["content"] = [{"type": "video", "video": "a.mp4"}]
    questions.write_text("\n".join(map(json.dumps, rows)))
    refused = cli("eval", copied.model, *arguments)
    assert refused.returncode == 2
    assert "q.jsonl, line 4 is not a sample: its turn 1 contains a video" in " ".join(refused.stderr.split())
