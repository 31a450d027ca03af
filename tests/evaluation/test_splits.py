"""What is measured on each split of a set: by itself, and by `luq-gguf eval`, `report` and `upload` of real files."""

import json

import numpy as np
import pytest
from msgspec import UNSET

from luq_gguf.core.types import EvalData, Sample
from luq_gguf.evaluation import splits
from luq_gguf.method.metrics import intervals
from luq_gguf.workflows import easy_vqa

NAMES = ("shape", "yes or no")


def data_of(*names):
    samples = tuple(Sample(f"{number}?", answers=("a",), split=name) for number, name in enumerate(names))
    return EvalData("set.jsonl", samples, (), "0f", "0e")


def test_figures_are_those_of_the_splits_own_questions():
    data = data_of(*("read", "count") * 10)
    scores, before = np.tile([1.0, 0.0], 10), np.ones(20)
    found = splits.by_split(data, ("exact",) * 20, scores, before, {0: np.array([1.0, 3.0]), 1: np.array([5.0])})
    assert list(found) == ["read", "count"]
    read, count = found.values()
    assert (read.n_samples, count.n_samples) == (10, 10)
    assert (read.accuracy.value, count.accuracy.value) == (1, 0)
    assert read.reference_accuracy == count.reference_accuracy == intervals.accuracy(np.ones(10))
    assert (read.accuracy_change.value, count.accuracy_change.value) == (0, -1)
    assert count.accuracy_change.p_value == 2 / 2**10
    assert (read.scores, count.scores) == (" ".join("1" * 10), " ".join("0" * 10))
    assert (read.kld.value, count.kld.value) == (2, 5)


def test_questions_that_are_not_scored_count_for_their_split_alone():
    data = data_of("read", "read", "count", "talk")
    found = splits.by_split(data, ("exact", None, "vqa", None), np.array([1.0, 0.3]))
    assert [figures.n_samples for figures in found.values()] == [2, 1, 1]
    assert [figures.scores for figures in found.values()] == ["1", "0.3", UNSET]
    assert found["talk"].accuracy is None
    assert all(figures.accuracy_change is UNSET and figures.kld is UNSET for figures in found.values())
    unscored = splits.by_split(data, None, None)
    assert all(figures.accuracy is None for figures in unscored.values())


def test_a_set_without_splits_has_none():
    data = data_of(None, None)
    assert data.splits == ()
    assert splits.by_split(data, ("exact",) * 2, np.ones(2)) is UNSET
    assert splits.sha256(data) is UNSET


def test_the_hash_is_of_which_question_is_of_which_split():
    assert splits.sha256(data_of("a", "b")) == splits.sha256(data_of("a", "b"))
    assert len({splits.sha256(data_of(*names)) for names in ("ab", "ba", "aa", "ac")}) == 4


one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 24)


@pytest.fixture(scope="module")
def split_questions(questions):
    """The same questions, those of yes and no apart from the others."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    named = [row | {"split": NAMES[row["answers"][0] in ("yes", "no")]} for row in rows]
    path = questions.with_name("split.jsonl")
    path.write_text("\n".join(map(json.dumps, named)) + "\n")
    assert set(NAMES) == {row["split"] for row in named}
    return path


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return small.copy(tmp_path_factory.mktemp("splits") / "run").folder


@pytest.fixture(scope="module")
def evaluate(cli, run, small):
    def call(data, *more, file=small.model.name):
        done = cli("eval", run / file, "--reference", run / small.f16.name, "--data", data, "--max-tokens", 4, *more)
        assert done.returncode == 0, done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def measured(evaluate, questions, split_questions):
    """The same file before and after the set got its splits."""
    return [json.loads(evaluate(data, "--json").stdout) for data in (questions, split_questions)]


@one_model
def test_splits_change_nothing_that_was_measured_and_ask_nothing_again(measured, run):
    plain, split = measured
    assert set(split) - set(plain) == {"splits", "splits_sha256"}
    told = {key: value for key, value in split.items() if key not in ("splits", "splits_sha256", "conditions")}
    assert told == {key: value for key, value in plain.items() if key != "conditions"}
    assert split["conditions"] == plain["conditions"] | {"data": "split.jsonl"}
    folders = [folder for folder in (run / ".work" / "eval").glob("file-reference-*") if folder.is_dir()]
    assert len(folders) == 1, "one measurement serves both"


@one_model
def test_every_split_has_its_figures_and_their_weighted_mean_is_that_of_all(measured):
    split = measured[1]
    figures = split["splits"]
    assert set(figures) == set(NAMES)
    assert sum(part["n_samples"] for part in figures.values()) == split["n_samples"] == 24
    for key in ("accuracy", "reference_accuracy", "accuracy_change"):
        weighted = sum(part[key]["value"] * part["n_samples"] for part in figures.values()) / 24
        assert split[key]["value"] == pytest.approx(weighted)
    scores = list(map(float, split["scores"].split()))
    assert np.mean(scores) == pytest.approx(split["accuracy"]["value"])
    assert sorted(scores) == sorted(float(s) for part in figures.values() for s in part["scores"].split())
    assert split["accuracy_change"]["n_questions"] == 24
    assert all(part["kld"]["value"] > 0 for part in figures.values())


@one_model
def test_the_table_has_a_row_for_every_split_and_says_what_the_mean_is(evaluate, questions, split_questions, measured):
    shown = evaluate(split_questions).stdout
    sizes = {name: part["n_samples"] for name, part in measured[1]["splits"].items()}
    assert "accuracy (exact), mean of all 24 questions" in shown
    for name, n in sizes.items():
        assert f"- {name}, {n} questions" in shown
        assert f"- change, {name}" in shown
    plain = evaluate(questions).stdout
    assert "accuracy (exact) " in plain
    assert "mean of all" not in plain
    assert "shape" not in plain


@one_model
def test_the_report_pairs_files_and_shows_their_splits(cli, evaluate, run, small, split_questions, measured):
    evaluate(split_questions)
    evaluate(split_questions, file=small.f16.name)
    done = cli("report", run)
    assert done.returncode == 0, done.stderr
    page = (run / "report.html").read_text()
    assert "Accuracy by split" in page
    assert "The mean is over all questions, and not over splits." in page
    assert f"<td>{small.f16.name} minus {small.model.name}</td>" in page
    assert "mean of all 24 questions" in page
    change = measured[1]["accuracy_change"]["value"]
    assert f"{100 * change + 0:+.1f} points (" in page
    assert "), 24 questions" in page


@one_model
def test_the_card_has_a_table_of_splits(evaluate, run, small, split_questions, measured):
    from luq_gguf.publishing import artifacts, card, card_content
    from luq_gguf.publishing.card import BaseCard
    from luq_gguf.run.folder import RunFolder

    evaluate(split_questions)
    with RunFolder(run) as opened:
        collected = artifacts.collect(opened)
        shards = {small.model.name: (small.model.name,)}
        content = card_content.make_card_content(collected, "a/b", shards, BaseCard({}, ()), None, {})
        text = card.render(content, BaseCard({}, ()), None, card_content.results(collected), "mira")
    section = text[text.index("## Accuracy by split") : text.index("## Run it")]
    heads = [f"{name}, {part['n_samples']} questions" for name, part in measured[1]["splits"].items()]
    assert f"| file | mean of all 24 questions | {' | '.join(heads)} |" in section
    assert "accuracy, change from 16 bit" in text
    rows = [line for line in section.splitlines() if line.startswith("| ") and "questions" in line]
    assert any(line.startswith("| - change from ") and " points (" in line for line in rows)
    assert len({line.count("|") for line in section.splitlines() if line.startswith("|")}) == 1


@one_model
def test_a_line_without_a_split_is_refused_before_anything_is_asked(cli, run, small, split_questions):
    data = split_questions.with_name("some.jsonl")
    lines = split_questions.read_text().splitlines()
    without = {key: value for key, value in json.loads(lines[4]).items() if key != "split"}
    data.write_text("\n".join([*lines[:4], json.dumps(without), *lines[5:]]))
    done = cli("eval", run / small.model.name, "--data", data, "--max-tokens", 4)
    assert done.returncode == 2
    assert 'some.jsonl, line 5 has no "split", and other lines have one.' in done.stderr
