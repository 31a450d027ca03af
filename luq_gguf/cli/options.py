"""Options that several commands share."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from luq_gguf.core.calibration_set import DEPLOYED, PROCESSOR
from luq_gguf.core.errors import BudgetError, CalibrationError
from luq_gguf.core.memory_use import ContextShape
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.types import Budget, RunOptions, ShardSpec
from luq_gguf.method.metrics.vqa import METRICS
from luq_gguf.method.orders import MEASURED, ORDERS

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}


class ShardParam(click.ParamType):  # type: ignore[type-arg]
    """Parses a shard such as 0/4: its number, counted from 0, and how many there are."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ShardSpec:
        if isinstance(value, ShardSpec):
            return value
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(value))
        if not match or int(match[1]) >= int(match[2]):
            self.fail(f"{value!r} is not a shard; write 0/4, 1/4, 2/4 and 3/4 for four shards.", param, ctx)
        return ShardSpec(int(match[1]), int(match[2]))


class UserPath(click.Path):  # type: ignore[type-arg]
    """A path that may begin with ~, which shells leave as it is behind `--out=`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]
    """Parses a number of bytes such as 3.4GiB, 900MiB, 3.6GB or 3650000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?|)B?\s*", str(value).upper())
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is not a size; write 3.4GiB, 900MiB or 3650000000.", param, ctx)
        return int(float(match[1]) * _UNITS[match[2]])


class Number(click.ParamType):  # type: ignore[type-arg]
    """Parses a finite number, which may be bounded below: click's own takes nan and inf."""

    name = "float"

    def __init__(self, least: float | None = None) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number.", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        if self.least is not None and number < self.least:
            self.fail(f"{value!r} is less than {self.least:g}.", param, ctx)
        return number


class Listed(click.ParamType):  # type: ignore[type-arg]
    """Parses one value, or several with commas between them, into a tuple."""

    def __init__(self, each: click.ParamType) -> None:  # type: ignore[type-arg]
        self.each, self.name = each, each.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self.each.convert(part.strip(), param, ctx) for part in str(value).split(","))


def _chain(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _remember_force(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["force"] = value


def _or_force(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    return value or bool(ctx.meta["force"])


def permissions(*shown: str) -> Callable[[F], F]:
    """Add --overwrite and --allow-fallback, and a hidden --force that means both. A command that runs a stage takes
    both, as `convert` does, and its help shows those of them (`shown`) that mean something to it."""
    texts = {
        "--overwrite": "Write into a folder that contains another model's run or other files.",
        "--allow-fallback": "Let matrices whose rows --low's blocks do not divide fall back to other types.",
    }
    both = [
        click.option(name, is_flag=True, callback=_or_force, hidden=name not in shown, help=text)
        for name, text in texts.items()
    ]
    return _chain(
        *both,
        click.option(
            "--force", is_flag=True, is_eager=True, expose_value=False, callback=_remember_force, hidden=True,
            help="--overwrite and --allow-fallback.",
        ),
    )  # fmt: skip


def cache_types(default: str, more: str = "") -> Callable[[F], F]:
    """Add the types of the KV cache, as llama.cpp's programs name them; `more` follows their help."""
    kinds = click.Choice(["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"])
    return _chain(
        click.option(
            "-ctk", "--cache-type-k", "type_k", type=kinds, help=f"Type of the K cache{more}.  [default: {default}]"
        ),
        click.option(
            "-ctv", "--cache-type-v", "type_v", type=kinds, help=f"Type of the V cache{more}.  [default: {default}]"
        ),
    )


out = click.option("--out", required=True, type=UserPath(path_type=Path), help="The run folder.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, to stdout.")
device = click.option("--device", default="auto", show_default=True, help="Device that the reference model runs on.")
threads = click.option("--threads", type=click.IntRange(1), help="Threads for llama-quantize.  [default: all cores]")
trust = click.option(
    "--trust-remote-code", is_flag=True, help="Allow running Python code from the checkpoint's repository."
)
subfolder = click.option(
    "--subfolder", metavar="FOLDER", help="The folder in MODEL that has the checkpoint, if it is not at the top."
)
files = _chain(
    click.option("--keep-f16", is_flag=True, help="Keep the 16-bit GGUF file."),
    click.option("--low-disk", is_flag=True, help="Convert and quantize in slices, without a whole 16-bit GGUF file."),
)
calibration = _chain(
    click.option("--calib", metavar="SET", help="A folder of images, a .jsonl file or a Hub dataset id."),
    click.option("--calib-text", metavar="TEXT", help="A text file or a Hub dataset id for the text-only samples."),
    click.option("--alpha", type=Number(), default=0.5, show_default=True, help="Share of multimodal samples, 0 to 1."),
    click.option("--samples", default=128, show_default=True, help="Number of calibration samples."),
    click.option("--seed", default=0, show_default=True, help="Seed for sampling, K-means and --rank random."),
    click.option(
        "--pixels", type=click.Choice([DEPLOYED, PROCESSOR]), default=PROCESSOR, show_default=True,
        help="Images that calibration sees: as llama.cpp shows them to the model (deployed), or as the model's own "
        "processor does, up to llama.cpp's token limit.",
    ),
)  # fmt: skip
types = _chain(
    click.option("--low", default="IQ1_M", show_default=True, help="Tensor type of the low layers."),
    click.option("--high", default="Q4_K_M", show_default=True, help="File type of everything else."),
)
questions = _chain(
    click.option("--data", "source", metavar="SET", help="A .jsonl file, a folder of images or a Hub dataset id."),
    click.option("--text", type=UserPath(exists=True, dir_okay=False, path_type=Path),
                 help="A text file, for perplexity and KL divergence on text."),
    click.option("--metric", type=click.Choice(["auto", *METRICS]), default="auto", show_default=True,
                 help="How answers are scored. auto, for each question: vqa with ten answers or more, choice with "
                 "lettered options in the prompt, otherwise exact."),
    click.option("--samples", type=click.IntRange(1), help="Number of questions, chosen at random.  [default: all]"),
    click.option("--chunks", default=32, show_default=True, help="Maximum number of 512-token chunks of --text."),
    click.option("--max-tokens", default=32, show_default=True, help="Maximum number of tokens of an answer."),
    click.option("--ctx", "n_ctx", default=4096, show_default=True, help="Context size in tokens."),
    click.option("--seed", default=0, show_default=True, help="Seed for --samples."),
)  # fmt: skip
benchmarks = _chain(
    click.option("--benchmarks", metavar="LIST",
                 help="paper (the nine benchmarks of the LUQ paper), or lmms-eval tasks such as mme,pope,textvqa."),
    click.option("--benchmark-tasks", type=UserPath(exists=True, file_okay=False, path_type=Path),
                 help="A folder of additional tasks for lmms-eval."),
    click.option("--limit", type=click.IntRange(1), help="Number of samples of each benchmark.  [default: all]"),
)  # fmt: skip
gpu_layers = click.option(
    "--gpu-layers", type=click.IntRange(0),
    help="Layers to run on a GPU, if LUQ_LLAMA_CPP is a llama.cpp built for one.",
)  # fmt: skip
profiled_model = click.option(
    "--model",
    help="The checkpoint, if it is not where the profile found it; or a GGUF file in F16, BF16 or Q8_0 to quantize in "
    "its place.",
)
imatrix = click.option(
    "--imatrix", metavar="FILE", type=UserPath(exists=True, dir_okay=False, path_type=Path),
    help="Take importance from this GGUF file of llama-imatrix instead of the calibration.",
)  # fmt: skip
budget = _chain(
    click.option("--low-layers", type=Listed(click.INT), metavar="N",
                 help="How many layers become low. With several numbers, as in 8,12, convert makes a file of each."),
    click.option("--target-size", type=Listed(Size()), metavar="SIZE",
                 help="Maximum text-model file size, e.g. 3.4GiB (without mmproj), or several: 2.6GiB,3.4GiB."),
    click.option("--target-bpw", type=Listed(Number()), metavar="X",
                 help="Maximum bits per weight of the text model, or several: 2.5,3.4."),
    click.option("--target-memory", type=Size(),
                 help="Maximum memory of llama-server, e.g. 8GiB: text model, mmproj, KV cache of --ctx, and buffers."),
    cache_types("f16", "; counted by --target-memory"),
    click.option("--target-tps", type=Number(), help="Minimum predicted decode tokens/s on this machine."),
    click.option("--predict-speed", is_flag=True,
                 help="Predict the speed of the file on this machine; tensor types are measured for that, once."),
    click.option("--max-kld", type=Number(),
                 help="Maximum mean KL divergence from the 16-bit file on --eval, in nats."),
    click.option("--min-accuracy", type=Number(), help="Minimum accuracy on --eval, 0 to 1."),
    click.option("--eval", "eval_source", metavar="SET",
                 help="Questions to measure files on, for --max-kld, --min-accuracy, --rank "
                 f"{' or '.join(MEASURED)}, and --plan best."),
    click.option("--ctx", "n_ctx", default=4096, show_default=True, type=click.IntRange(1),
                 help="Context size in tokens that files are measured with, and that --target-memory counts."),
    click.option("--rank", "rule", type=click.Choice(list(ORDERS)), default="entropy",
                 show_default=True, help="Which layers become low first."),
    click.option("--plan", "plan_kind", type=click.Choice(["luq", "best"]), default="luq", show_default=True,
                 help="luq: two types, by --rank. best: the choice of many types that measures best within a size."),
    click.option("--types", "kinds", metavar="LIST",
                 help="Tensor types for --plan best.  [default: 1 to 6 bits, if this CPU runs them at a useful speed]"),
    click.option("--per", type=click.Choice(["layer", "tensor"]),
                 help="For --plan best: choose a type for each layer, or for each part of it.  [default: layer]"),
    click.option("--swaps", type=click.IntRange(0),
                 help="For --plan best: maximum number of swaps to measure.  [default: 16]"),
    click.option("--plan-minutes", type=Number(0),
                 help="For --plan best: stop searching after this many minutes."),
)  # fmt: skip
rules = _chain(
    click.option("--keep", metavar="LAYERS", help="Layers that never become low, such as 0,1,-1; -1 is the last one."),
    click.option("--low-only", metavar="LAYERS", help="The only layers that may become low, such as 4-20."),
    click.option("--output-type", metavar="TYPE", help="Tensor type of the head (output.weight), such as Q8_0."),
    click.option("--embedding-type", metavar="TYPE", help="Tensor type of the embeddings (token_embd.weight)."),
)
hub = _chain(
    click.option("--create", is_flag=True, help="Create the repository as a public one if it does not exist."),
    click.option("--private", is_flag=True, help="Create the repository as a private one if it does not exist."),
    click.option(
        "--revision",
        metavar="BRANCH",
        help="Commit to this branch, and create it if it does not exist.  [default: main]",
    ),
    click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing to main."),
    click.option(
        "--overwrite-card",
        is_flag=True,
        help="Replace what was edited on the Hub in the part of its README.md that luq-gguf writes.",
    ),
    click.option(
        "--base-model", metavar="OWNER/NAME", help="Base model on the Hub, if the checkpoint is a local folder."
    ),
)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Parse "0,4,8" or "0-12" or a mix of both. Raises BudgetError."""
    values: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise BudgetError(f"{option} {text}: {part!r} is not a number.", "Write 0,4,8 or 0-12.")
        values += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(values)


def layers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Parse "0,1,-1" or "0-3,-1": layers counted from 0, or back from -1, the last one. Raises BudgetError."""
    if text is None:
        return None
    values: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and not 0 <= int(match[1]) <= int(match[2])):
            raise BudgetError(f"{option} {text}: {part!r} is not a layer.", "Write 0,1,-1 or 0-3,27.")
        values += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(values)


def shares(text: str, option: str) -> tuple[float, ...]:
    """Parse "0,0.5,1": numbers from 0 to 1. Raises CalibrationError."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= share <= 1 for share in values):
        raise CalibrationError(f"{option} {text} is not a list of shares.", "Write 0,0.25,0.5,0.75,1.")
    return values


def make_run_options(values: dict[str, Any]) -> RunOptions:
    """Take the options that RunOptions has out of a command's values."""
    given = [field.name for field in fields(RunOptions) if field.name in values]
    return RunOptions(**{name: values.pop(name) for name in given})


def make_plan_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `budget`, `types`, `rules` and `imatrix` out of a command's values, as arguments of the
    library; the budget is a list where one has several values. Raises UsageError."""
    names = ("low_layers", "target_size", "target_bpw", "max_kld", "min_accuracy", "target_tps", "target_memory")
    given = (values.pop(name) for name in names)
    budgets = [Budget(*each) for each in itertools.product(*(v if isinstance(v, tuple) else (v,) for v in given))]
    search = {n: values.pop(n) for n in ("kinds", "per", "swaps", "plan_minutes")}
    search_options = {
        f"--{name.replace('kinds', 'types').replace('_', '-')}" for name, v in search.items() if v is not None
    }
    kind = values.pop("plan_kind")
    if kind != "best" and search_options:
        raise click.UsageError(f"{', '.join(sorted(search_options))} can only be used with --plan best.")
    from luq_gguf.evaluation.questions import QuestionSet
    from luq_gguf.planning.mixed_precision import BestRequest

    best = None
    if kind == "best":
        kinds = tuple(part.strip() for part in search["kinds"].split(",") if part.strip()) if search["kinds"] else None
        swaps = 16 if search["swaps"] is None else search["swaps"]
        best = BestRequest(kinds, search["per"] == "tensor", swaps, search["plan_minutes"])
    n_ctx = values.pop("n_ctx")
    questions = QuestionSet(values.pop("eval_source"), n_ctx=n_ctx)
    cache = {name: kind for name in ("type_k", "type_v") if (kind := values.pop(name)) is not None}
    if cache and budgets[0].memory_bytes is None:
        raise click.UsageError("-ctk and -ctv can only be used with --target-memory.")
    types = {name: values.pop(name) for name in ("low", "high", "predict_speed")}
    budget = budgets[0] if len(budgets) == 1 else budgets
    plan: dict[str, Any] = {"budget": budget, "rank": values.pop("rule"), "best": best, "questions": questions}
    asked = {"rules": make_rules(values), "imatrix": values.pop("imatrix")}
    return plan | types | asked | {"context": ContextShape(n_ctx, **cache)}


def make_rules(values: dict[str, Any]) -> PlanRules:
    """Take the options of `rules` out of a command's values. Raises BudgetError."""
    keep, low_only = (layers(values.pop(name), f"--{name.replace('_', '-')}") for name in ("keep", "low_only"))
    return PlanRules(keep or (), low_only, values.pop("output_type"), values.pop("embedding_type"))


def make_calibration(values: dict[str, Any]) -> Any:
    """Take the options of `calibration` out of a command's values."""
    from luq_gguf.core.calibration_set import CalibrationSet

    names = ("calib", "calib_text", "alpha", "samples", "seed", "pixels")
    return CalibrationSet(*(values.pop(name) for name in names))


def make_questions(values: dict[str, Any]) -> Any:
    """Take the options of `questions` out of a command's values."""
    from luq_gguf.evaluation.questions import QuestionSet

    names = ("source", "text", "metric", "samples", "chunks", "max_tokens", "n_ctx", "seed")
    return QuestionSet(**{name: values.pop(name) for name in names})


def make_benchmarks(values: dict[str, Any]) -> Any:
    """Take the options of `benchmarks` out of a command's values; None where no benchmark was asked for."""
    from luq_gguf.evaluation.benchmarks.run import make_request

    return make_request(*(values.pop(name) for name in ("benchmarks", "benchmark_tasks", "limit")))


def make_target(repo: str | None, values: dict[str, Any]) -> tuple[Any, str | None]:
    """Take the options of `hub` out of a command's values: the target, None without `repo`; and the base model.

    Raises UsageError where they were given without a repository to publish to.
    """
    names = ("create", "private", "revision", "create_pr", "overwrite_card", "base_model")
    create, private, revision, create_pr, overwrite_card, base_model = (values.pop(name) for name in names)
    if repo is None:
        if create or private or revision or create_pr or overwrite_card or base_model:
            raise click.UsageError(
                "--create, --private, --revision, --create-pr, --overwrite-card and --base-model need --upload."
            )
        return None, None
    from luq_gguf.publishing.access import Target

    return Target(repo, revision, create or private, private, create_pr, overwrite_card), base_model
