"""Training: what is learnt, and that a run that is stopped goes on as if it had not been."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from instrument import checkpoints, prepare
from instrument.learner import Learner, Recipe
from instrument.objective import right_answers, strength
from instrument.prompts import LENGTH
from instrument.train import STATE, Plan, train
from luq_gguf.core.errors import LuqError

RECIPE = Recipe(steps=4, batch=4, lr=1e-3, warmup=2, spelling=0.5, drop=0.3)


@pytest.fixture
def plan(small_pool, fresh, tmp_path) -> Plan:
    return Plan(fresh, small_pool, tmp_path / "out", device="cpu", save_every=2, report_every=1, tests=2)


@pytest.fixture(scope="session")
def undisturbed(once, small_pool, fresh):
    folder = once("undisturbed", lambda out: train(Plan(fresh, small_pool, out, device="cpu", tests=2), RECIPE))
    return load_file(folder / "model.safetensors")


def test_the_learning_rate_rises_and_falls_by_half_a_cosine():
    recipe = Recipe(steps=100, lr=2.0, warmup=10)
    assert recipe.learning_rate(0, 0.0) == pytest.approx(2.0 / 10)
    assert recipe.learning_rate(9, 0.0) == pytest.approx(2.0)
    assert recipe.learning_rate(50, 0.5) == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert recipe.learning_rate(100, 1.0) == pytest.approx(0.02)
    assert recipe.share_done(25, 1e9) == 0.25
    assert replace(recipe, steps=None, seconds=200.0).share_done(25, 50.0) == 0.25


def test_only_the_answer_counts_in_full():
    found = strength(torch.tensor([[7, 3], [2, 1]]))
    assert found[0].tolist() == pytest.approx([0.1] * 4 + [1.0] * 3 + [0.0] * (LENGTH - 7))
    assert found[1].tolist() == pytest.approx([0.1, 1.0] + [0.0] * (LENGTH - 2))


def test_an_answer_is_right_only_as_a_whole():
    ids, sizes = torch.arange(LENGTH)[None], torch.tensor([[7, 3]])
    for wrong, right in ((None, True), (3, True), (4, False), (6, False), (7, True)):
        said = ids.clone()
        if wrong is not None:
            said[0, wrong] += 1
        logits = torch.nn.functional.one_hot(said, LENGTH + 1).float()
        assert right_answers(logits, ids, sizes).tolist() == [right]


def test_random_weights_are_scaled_by_what_they_read():
    shapes = {
        "a.norm.weight": (300,),
        "a.o_proj.weight": (300, 400),
        "a.q_proj.bias": (300,),
        "a.q_proj.weight": (300, 400),
        "embed_tokens.weight": (300, 400),
        "patch.weight": (300, 3, 14, 14),
    }
    weights = prepare.random_weights(shapes, layers=8, seed=0)
    assert torch.equal(weights["a.norm.weight"], torch.ones(300))
    assert torch.equal(weights["a.q_proj.bias"], torch.zeros(300))
    expected = {
        "a.o_proj.weight": 400**-0.5 / 4,
        "a.q_proj.weight": 400**-0.5,
        "embed_tokens.weight": 0.25,
        "patch.weight": (3 * 14 * 14) ** -0.5,
    }
    for name, deviation in expected.items():
        n = math.prod(shapes[name])
        assert float(weights[name].std()) == pytest.approx(deviation, rel=5 / math.sqrt(2 * n))
    again, other = (prepare.random_weights(shapes, 8, seed) for seed in (0, 1))
    assert all(torch.equal(weights[name], again[name]) for name in shapes)
    assert not torch.equal(weights["patch.weight"], other["patch.weight"])


def disturb(patch, after, how):
    """Let training be interrupted once, after so many steps; the list is of the steps that are done."""
    learn, done = Learner.learn, []

    def disturbed(self, batch, share):
        losses = learn(self, batch, share)
        done.append(self.step)
        if len(done) == after:
            if how == "crash":
                raise MemoryError
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    patch.setattr(Learner, "learn", disturbed)
    return done


@pytest.mark.parametrize("how", ["crash", "signal"])
def test_an_interrupted_run_gives_the_weights_of_an_undisturbed_one(plan, undisturbed, monkeypatch, capsys, how):
    done = disturb(monkeypatch, 3, how)
    with pytest.raises(MemoryError if how == "crash" else KeyboardInterrupt):
        train(plan, RECIPE)
    assert (plan.out / STATE).exists()
    assert not (plan.out / "model.safetensors").exists()
    train(plan, RECIPE)
    assert done == ([1, 2, 3, 3, 4] if how == "crash" else [1, 2, 3, 4])
    assert f"goes on at step {2 if how == 'crash' else 3}" in capsys.readouterr().out
    found = load_file(plan.out / "model.safetensors")
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(weight, undisturbed[name]) for name, weight in found.items())
    assert sorted(path.name for path in plan.out.iterdir() if "part" in path.name or path.name == STATE) == []


def test_what_is_left_is_a_checkpoint_with_its_figures(plan, fresh, undisturbed):
    from transformers import AutoModelForImageTextToText

    scores = train(plan, replace(RECIPE, steps=1))
    config = json.loads((plan.out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    names = {path.name for path in fresh.iterdir()} | {"training.json"}
    assert {path.name for path in plan.out.iterdir()} == names
    record = json.loads((plan.out / "training.json").read_text())
    assert record["scores"] == scores
    assert (record["steps"], record["batch"], record["questions_a_picture"]) == (1, 4, 3)
    assert record["recipe"]["seed"] == 0
    model = AutoModelForImageTextToText.from_pretrained(plan.out)
    assert model.dtype == torch.bfloat16
    with pytest.raises(LuqError, match="finished"):
        train(plan, replace(RECIPE, steps=1))


def test_the_state_of_another_run_is_not_gone_on_with(plan, monkeypatch):
    disturb(monkeypatch, 1, "signal")
    with pytest.raises(KeyboardInterrupt):
        train(plan, RECIPE)
    with pytest.raises(LuqError, match="another run: lr 0.001, not 0.01") as caught:
        train(plan, replace(RECIPE, lr=0.01))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": None}, "bounded"),
        ({"seconds": 3.0}, "bounded"),
        ({"steps": 0}, "bounded"),
        ({"batch": 6}, "fours"),
        ({"warmup": 0}, "rise"),
    ],
)
def test_runs_that_cannot_be_are_refused(plan, wrong, told):
    with pytest.raises(LuqError, match=told) as caught:
        train(plan, replace(RECIPE, **wrong))
    assert caught.value.hint


def test_a_run_does_not_overwrite_where_it_begins(plan, models):
    with pytest.raises(LuqError, match="where the run begins"):
        train(replace(plan, out=plan.checkpoint), RECIPE)
    with pytest.raises(LuqError, match="no questions in the tokens"):
        train(replace(plan, checkpoint=models / "tiny-qwen2.5-vl"), RECIPE)


def test_a_fresh_model_learns(plan):
    train(replace(plan, report_every=4, tests=0), Recipe(steps=4, batch=16, lr=1e-8, warmup=1, spelling=0))
    started = json.loads((plan.out / "training.json").read_text())["loss"]
    assert abs(started - math.log(768)) < 1.5  # it guesses among the tokens
    learnt = replace(plan, out=plan.out / "learnt", report_every=4, tests=0)
    train(learnt, Recipe(steps=24, batch=16, lr=3e-3, warmup=1, spelling=0))
    assert json.loads((learnt.out / "training.json").read_text())["loss"] < 0.6 * started


def test_a_model_is_taken_over_whole_by_one_like_it(models):
    for name in ("tiny-qwen2.5-vl", "tiny-llava-1.5"):
        known = checkpoints.read_weights(models / name)
        weights = {key: torch.full_like(weight, 7.0) for key, weight in known.items()}
        assert checkpoints.take_over(weights, models / name, models / name) == len(known)
        rows = torch.tensor(sorted(set(checkpoints.vocabulary_of(models / name).values())))
        for key, weight in weights.items():
            by_token = key.endswith(("embed_tokens.weight", "lm_head.weight"))  # some rows have no token
            of = rows if by_token else slice(None)
            assert torch.equal(weight[of], known[key][of])


def test_a_decoder_is_taken_over_by_the_other_architecture(models):
    qwen, llava = models / "tiny-qwen2.5-vl", models / "tiny-llava-1.5"
    known, weights = checkpoints.read_weights(qwen), checkpoints.read_weights(llava)
    before = {name: weight.clone() for name, weight in weights.items()}
    taken = checkpoints.take_over(weights, llava, qwen)
    decoder = [name for name in weights if name.startswith("language_model.")]
    assert taken == len(decoder)
    for name, weight in weights.items():
        if name not in decoder:
            assert torch.equal(weight, before[name])
        elif not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            assert torch.equal(weight, known[name.removeprefix("language_model.")])
    mine, theirs = (checkpoints.vocabulary_of(folder) for folder in (llava, qwen))
    rows, name = weights["language_model.model.embed_tokens.weight"], "model.embed_tokens.weight"
    assert torch.equal(rows[mine["▁what"]], known[name][theirs["▁what"]])
    assert torch.equal(rows[mine["<image>"]], before[f"language_model.{name}"][mine["<image>"]])
