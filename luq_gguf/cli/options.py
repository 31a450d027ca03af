"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from luq_gguf.errors import BudgetError, CalibrationError
from luq_gguf.ranking import RANKINGS
from luq_gguf.values import Budget, Share

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}


class ShareOf(click.ParamType):  # type: ignore[type-arg]
    """A part such as 0/4: which, counted from 0, of how many."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        if isinstance(value, Share):
            return value
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(value))
        if not match or int(match[1]) >= int(match[2]):
            self.fail(f"{value!r} is no part; write 0/4, 1/4, 2/4 and 3/4 for four parts.", param, ctx)
        return Share(int(match[1]), int(match[2]))


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes such as 3.4GiB, 900MiB, 3.6GB or 3650000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?|)B?\s*", str(value).upper())
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is no size; write 3.4GiB, 900MiB or 3650000000.", param, ctx)
        return int(float(match[1]) * _UNITS[match[2]])


def _chain(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


out = click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, nothing else.")
device = click.option("--device", default="auto", show_default=True, help="Where the reference model runs.")
threads = click.option("--threads", type=click.IntRange(1), help="Threads for llama-quantize.  [default: all cores]")
trust = click.option("--trust-remote-code", is_flag=True, help="Run Python code from the checkpoint's repository.")
force = click.option("--force", is_flag=True, help="Use a folder that holds something else; accept fallback types.")
files = _chain(
    click.option("--keep-f16", is_flag=True, help="Keep the 16-bit GGUF."),
    click.option("--low-disk", is_flag=True, help="Convert and quantize in slices: never a whole 16-bit GGUF."),
)
calibration = _chain(
    click.option("--calib", metavar="SET", help="Folder of images, a .jsonl, or a Hub dataset id."),
    click.option("--calib-text", metavar="TEXT", help="A text file or a Hub dataset id for the text-only share."),
    click.option("--alpha", default=0.5, show_default=True, help="Share of multimodal samples, 0 to 1."),
    click.option("--samples", default=128, show_default=True, help="Calibration samples in all."),
    click.option("--seed", default=0, show_default=True, help="Seed of sampling, K-means and --rank random."),
)
types = _chain(
    click.option("--low", default="IQ1_M", show_default=True, help="Tensor type of low layers."),
    click.option("--high", default="Q4_K_M", show_default=True, help="File type of everything else."),
)
questions = _chain(
    click.option("--data", "source", metavar="SET", help="A .jsonl, a folder of images, or a Hub dataset id."),
    click.option("--text", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                 help="A text, for perplexity and divergence on text."),
    click.option("--metric", type=click.Choice(["auto", "vqa", "exact", "yes-no", "anls", "relaxed"]), default="auto",
                 show_default=True, help="How answers are scored; auto: vqa for several answers each, else exact."),
    click.option("--samples", type=click.IntRange(1), help="So many questions by chance.  [default: all]"),
    click.option("--chunks", default=32, show_default=True, help="Most chunks of 512 tokens of --text."),
    click.option("--max-tokens", default=32, show_default=True, help="Longest answer."),
    click.option("--ctx", "n_ctx", default=4096, show_default=True, help="Context in tokens."),
    click.option("--seed", default=0, show_default=True, help="Seed of --samples."),
)  # fmt: skip
benchmarks = _chain(
    click.option("--benchmarks", metavar="LIST",
                 help="paper (all nine of the LUQ paper), or lmms-eval's tasks such as mme,pope,textvqa."),
    click.option("--benchmark-tasks", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="A folder of further tasks for lmms-eval."),
    click.option("--limit", type=click.IntRange(1), help="So many samples of each benchmark.  [default: all]"),
)  # fmt: skip
budget = _chain(
    click.option("--low-layers", type=int, help="How many layers become low."),
    click.option("--target-size", type=Size(), help="Largest text-model file, e.g. 3.4GiB (mmproj not counted)."),
    click.option("--target-bpw", type=float, help="Most bits per weight of the text model."),
    click.option("--target-tps", type=float, help="Least decode tokens/s that are predicted on this machine."),
    click.option("--max-kld", type=float, help="Most mean KL divergence from the 16-bit file on --eval, in nats."),
    click.option("--min-accuracy", type=float, help="Least accuracy on --eval, 0 to 1."),
    click.option("--eval", "eval_source", metavar="SET",
                 help="Questions that --max-kld, --min-accuracy and --rank kld are measured on."),
    click.option("--rank", "rule", type=click.Choice([*RANKINGS, "kld"]), default="entropy", show_default=True,
                 help="Which layers become low first."),
)  # fmt: skip
hub = _chain(
    click.option("--create", is_flag=True, help="Make the repository, a public one, if it does not exist."),
    click.option("--private", is_flag=True, help="Make it, a private one, if it does not exist."),
    click.option("--revision", metavar="BRANCH", help="Commit to this branch, made if missing.  [default: main]"),
    click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing to main."),
    click.option("--base-model", metavar="OWNER/NAME", help="The base model, where a local folder is converted."),
)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """ "0,4,8" or "0-12" or both mixed. Raises BudgetError."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise BudgetError(f"{option} {text}: {part!r} is no number.", "Write 0,4,8 or 0-12.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


def shares(text: str, option: str) -> tuple[float, ...]:
    """ "0,0.5,1": numbers from 0 to 1. Raises CalibrationError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (-1.0,)
    if not all(0 <= share <= 1 for share in found):
        raise CalibrationError(f"{option} {text} is no list of shares.", "Write 0,0.25,0.5,0.75,1.")
    return found


def make_budget(
    low_layers: int | None,
    target_size: int | None,
    target_bpw: float | None,
    max_kld: float | None,
    min_accuracy: float | None,
    target_tps: float | None,
) -> Budget:
    """Exactly one of the six. Raises BudgetError."""
    budget = Budget(low_layers, target_size, target_bpw, max_kld, min_accuracy, target_tps)
    given = [value for value in vars(budget).values() if value is not None]
    if len(given) != 1:
        problem = "No budget was given." if not given else "More than one budget was given."
        raise BudgetError(
            problem,
            "Give exactly one of --low-layers N, --target-size 3.4GiB, --target-bpw 3.7, --target-tps X, --max-kld X "
            "and --min-accuracy A.",
        )
    return budget


def check_files(
    keep_f16: bool,
    low_disk: bool,
    max_kld: float | None = None,
    min_accuracy: float | None = None,
    rule: str = "entropy",
) -> None:
    """Raises UsageError where --low-disk is given together with what needs the whole 16-bit GGUF."""
    if low_disk and (keep_f16 or max_kld is not None or min_accuracy is not None or rule == "kld"):
        raise click.UsageError(
            "--low-disk writes no whole 16-bit GGUF; --keep-f16, --max-kld, --min-accuracy and --rank kld need one."
        )


def make_questions(values: dict[str, Any]) -> Any:
    """Takes the options of `questions` out of a command's values."""
    from luq_gguf.measuring import QuestionSet

    names = ("source", "text", "metric", "samples", "chunks", "max_tokens", "n_ctx", "seed")
    return QuestionSet(**{name: values.pop(name) for name in names})


def make_benchmarks(values: dict[str, Any]) -> Any:
    """Takes the options of `benchmarks` out of a command's values; None where no benchmark was asked for."""
    from luq_gguf.benchmarks import make_request

    return make_request(*(values.pop(name) for name in ("benchmarks", "benchmark_tasks", "limit")))


def make_target(repo: str | None, values: dict[str, Any]) -> tuple[Any, str | None]:
    """Takes the options of `hub` out of a command's values: the target, None without `repo`; and the base model.

    Raises UsageError where they were given, and nothing to publish to.
    """
    names = ("create", "private", "revision", "create_pr", "base_model")
    create, private, revision, create_pr, base_model = (values.pop(name) for name in names)
    if repo is None:
        if create or private or revision or create_pr or base_model:
            raise click.UsageError("--create, --private, --revision, --create-pr and --base-model go with --upload.")
        return None, None
    from luq_gguf.hub.access import Target

    return Target(repo, revision, create or private, private, create_pr), base_model
