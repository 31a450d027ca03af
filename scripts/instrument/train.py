"""Trains a checkpoint on a pool of pictures, on a GPU or on the CPU.

A run can be stopped at any time, and the same command goes on: its state is saved every so many steps, and when it is
told to stop. What a step sees depends on the seed and on its number alone, so that with a bound in steps an interrupted
run gives the same weights as an undisturbed one on the same machine. With a bound in seconds, the learning rate follows
the clock.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instrument import checkpoints, pool, scores
from instrument.batches import PIECES, QUESTIONS, Batches
from instrument.learner import Learner, Recipe
from instrument.network import Network
from instrument.prompts import Prompts
from luq_gguf.core.atomic import remove, whole
from luq_gguf.core.errors import LuqError
from luq_gguf.core.units import format_seconds

STATE = "state.pt"


@contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Give a function that returns whether SIGINT or SIGTERM has come: a step is not to be cut in two. A second signal
    interrupts at once."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Plan:
    """Where a run reads and writes, and how often it says and saves something; nothing here changes the weights."""

    checkpoint: Path
    pool: Path
    out: Path
    begin: Path | None = None
    chunks: int | None = None  # of the pool, counted from the first; all that are there
    device: str = "auto"
    compile: bool = False
    report_every: int = 20
    save_every: int = 100
    test_every: int = 0
    tests: int = 250


def train(plan: Plan, recipe: Recipe) -> dict[str, float]:
    """Train, or go on where a run with the same recipe stopped, and return the accuracies of the splits.

    Raises LuqError where the pool or the checkpoints do not fit, where `out` holds another run's state, and
    KeyboardInterrupt, once the state is saved, where SIGINT or SIGTERM came.
    """
    _check(plan, recipe)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs; nothing changes on CPUs
    device = _device(plan.device)
    prompts = Prompts.of(plan.checkpoint)
    network = Network.of(plan.checkpoint, prompts, device)
    weights = checkpoints.read_weights(plan.checkpoint)
    if plan.begin:
        taken = checkpoints.take_over(weights, plan.checkpoint, plan.begin)
        print(f"{taken} of {len(weights)} tensors begin as in {plan.begin}", flush=True)
    state = _saved_state(plan.out / STATE, device)
    n_chunks = _wait_for_chunks(plan, prompts, state)
    identity = asdict(recipe) | {
        "begun_from": checkpoints.digest(weights),
        "tokens": prompts.digest,
        "chunks": n_chunks,
        "pool": pool.recipe(plan.pool),
    }
    plan.out.mkdir(parents=True, exist_ok=True)
    learner = Learner(network, weights, recipe, plan.compile)
    if state:
        _check_same(state["identity"], identity, plan.out)
        learner.go_on_from(state)
        print(f"goes on at step {learner.step}", flush=True)
    chunks = [pool.load(plan.pool, number, prompts.digest) for number in range(n_chunks)]
    tests = scores.question_sets(prompts, plan.tests)
    _run(learner, Batches(chunks, recipe.batch, recipe.seed), plan, tests, identity)
    saved = {name: w.to(device).float() for name, w in checkpoints.rounded(learner.weights).items()}
    measured = scores.accuracy(network, saved, tests)
    record = {
        "steps": learner.step,
        "batch": recipe.batch,
        "questions_a_picture": QUESTIONS,
        "seconds": round(learner.seconds, 1),
        "scores": measured,
        "tests_a_split": plan.tests,
        "loss": learner.loss,
        "skipped_steps": learner.skipped,
        "device": device.type,
        "torch": str(torch.__version__),
        "recipe": identity,
    }
    checkpoints.write_checkpoint(plan.out, plan.checkpoint, learner.weights, record)
    remove(plan.out / STATE)
    return measured


def _check(plan: Plan, recipe: Recipe) -> None:
    if (recipe.steps is None) == (recipe.seconds is None) or (recipe.steps or recipe.seconds or 0) <= 0:
        raise LuqError("A run is bounded by steps or by seconds, more than none.", "Give one of --steps and --seconds.")
    if recipe.batch < PIECES or recipe.batch % PIECES:
        raise LuqError(f"A batch of {recipe.batch} cannot be taken in fours.", "Give a multiple of 4 as --batch.")
    if recipe.warmup < 1:
        raise LuqError("The learning rate needs a step to rise in.", "Give at least 1 as --warmup.")
    if plan.out.resolve() in {folder.resolve() for folder in (plan.checkpoint, plan.begin) if folder}:
        raise LuqError(f"{plan.out} is where the run begins.", "Write to another folder.")
    if (plan.out / checkpoints.RECORD).exists():
        raise LuqError(f"The run in {plan.out} is finished.", "Go on from it with it as --begin, into another folder.")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise LuqError("torch finds no GPU here.", "Train with --device cpu, or install a build of torch for the GPU.")
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _saved_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def _wait_for_chunks(plan: Plan, prompts: Prompts, state: Mapping[str, Any] | None) -> int:
    """How many chunks to train on. The first that were asked for may still be being drawn, and a run that goes on has
    those that it began with, although there may be more by now."""
    there = pool.complete(plan.pool, prompts.digest)
    if not there and plan.chunks is None:
        raise LuqError(
            f"{plan.pool} has no questions in the tokens of {plan.checkpoint}.", "Add them with the command pool."
        )
    wanted = plan.chunks or (state["identity"]["chunks"] if state else there)
    while there < wanted:
        print(f"waiting for chunks: {there} of {wanted}", flush=True)
        time.sleep(10)
        there = pool.complete(plan.pool, prompts.digest)
    return wanted


def _check_same(begun: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    other = [f"{name} {begun.get(name)}, not {value}" for name, value in wanted.items() if begun.get(name) != value]
    if other:
        raise LuqError(
            f"{out} holds the state of another run: {'; '.join(other)}.",
            f"Repeat its command, write to another folder, or remove {out / STATE}.",
        )


def _run(
    learner: Learner,
    from_pool: Batches,
    plan: Plan,
    tests: Mapping[str, scores.QuestionSet],
    identity: Mapping[str, Any],
) -> None:
    """Do what is left of the steps, and say and save what there is to."""
    recipe, network = learner.recipe, learner.network
    if network.device.type == "cuda":
        learner.warm_up(from_pool.of(learner.step))
    began = time.monotonic() - learner.seconds
    seen: list[Tensor] = []

    def save() -> None:
        with whole(plan.out / STATE) as part:
            torch.save(learner.state() | {"identity": dict(identity)}, part)

    with _told_to_stop() as stop:
        for batch in from_pool.following(learner.step):
            share = recipe.share_done(learner.step, time.monotonic() - began)
            if share >= 1:
                return
            seen.append(torch.stack(learner.learn(batch, share)))
            learner.seconds = time.monotonic() - began
            share = recipe.share_done(learner.step, learner.seconds)
            if learner.step % plan.report_every == 0 or share >= 1:
                _report(learner, seen, share)
                seen.clear()
            if stop() or learner.step % plan.save_every == 0:
                save()
            if stop():
                print(f"stopped at step {learner.step}; the same command goes on", flush=True)
                raise KeyboardInterrupt
            if plan.test_every and learner.step % plan.test_every == 0 and share < 1:
                print(f"step {learner.step}: {scores.accuracy(network, learner.weights, tests)}", flush=True)


def _report(learner: Learner, seen: list[Tensor], share: float) -> None:
    text, spelling, right = torch.stack(seen).mean(0).tolist()
    rate = f"{learner.step * learner.recipe.batch / learner.seconds:.0f} pictures/s"
    left = format_seconds(learner.seconds * max(0.0, 1 - share) / share)
    told = f"step {learner.step}  loss {text:.4f}  spelling {spelling:.3f}  right {right:.4f}  {rate}  {left} left"
    print(told + (f"  {learner.skipped} skipped" if learner.skipped else ""), flush=True)
    learner.loss = round(text, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="what to train: of the command prepare, or a trained one")
    parser.add_argument("pool", type=Path, help="the pool with pictures and questions in its tokens")
    parser.add_argument("out", type=Path, help="the folder of the new checkpoint; the state of the run is kept in it")
    bound = parser.add_mutually_exclusive_group(required=True)
    bound.add_argument("--steps", type=int, help="train for so many steps")
    bound.add_argument("--seconds", type=float, help="train for so many seconds")
    parser.add_argument(
        "--begin", type=Path, help="begin with the weights of this checkpoint wherever names and shapes are the same"
    )
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="pictures of a step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="the largest learning rate (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=int, default=Recipe.warmup, help="steps until it is reached (default: %(default)s)"
    )
    parser.add_argument(
        "--spelling",
        type=float,
        default=Recipe.spelling,
        help="first share of the run in which the tower also learns to spell; 0 if it can read (default: %(default)s)",
    )
    parser.add_argument(
        "--drop",
        type=float,
        default=Recipe.drop,
        help="probability that a step leaves a decoder layer out, in the middle of the run (default: 0)",
    )
    parser.add_argument(
        "--seed", type=int, default=Recipe.seed, help="of everything random in the run (default: %(default)s)"
    )
    parser.add_argument(
        "--chunks", type=int, help="train on the pool's first N chunks, and wait for them (default: all that are there)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to train (default: a GPU if there is one)",
    )
    parser.add_argument("--compile", action="store_true", help="compile the forward pass: for long runs on a GPU")
    parser.add_argument(
        "--report-every",
        type=int,
        default=Plan.report_every,
        help="steps between lines of progress (default: %(default)s)",
    )
    parser.add_argument(
        "--save-every", type=int, default=Plan.save_every, help="steps between saved states (default: %(default)s)"
    )
    parser.add_argument(
        "--test-every", type=int, default=Plan.test_every, help="steps between tests (default: only at the end)"
    )
    parser.add_argument(
        "--tests", type=int, default=Plan.tests, help="test questions of each split (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    given = vars(args)
    recipe = Recipe(**{name: given[name] for name in Recipe.__dataclass_fields__})
    plan = Plan(**{name: given[name] for name in Plan.__dataclass_fields__})
    print(f"done: {train(plan, recipe)}")
