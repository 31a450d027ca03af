"""Runs the paper's benchmarks and any other task of lmms-eval on a file in llama-server. Finished ones are kept."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.json_value import to_json
from luq_gguf.core.measurements import Benchmark, BenchmarkConditions
from luq_gguf.core.reporter import Reporter
from luq_gguf.evaluation.benchmarks import lmms_eval
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.llamacpp import server, tools
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.runtime import chat_template
from luq_gguf.run.preflight import safe_name
from luq_gguf.run.serialization import read_value, write_json

# By the paper's names: the split with public answers, and of MMBench the task that reads the option without a judge.
PAPER = {
    "mme": "mme",  # perception and cognition are two metrics of it
    "mmbench": "mmbench_en_dev_static",
    "textvqa": "textvqa_val",
    "vqav2": "vqav2_val",
    "gqa": "gqa",
    "pope": "pope",
    "chartqa": "chartqa",
    "docvqa": "docvqa_val",
    "mathvista": "mathvista_testmini_format",
}
WITHOUT_LOGIN = {"textvqa"}  # lmms-eval asks the Hub with a login for all others, though their data are public


@dataclass(frozen=True)
class BenchmarkRequest:
    """Benchmarks by the paper's names or lmms-eval's, a folder of further tasks, and the number of samples of each."""

    names: tuple[str, ...]
    tasks: Path | None = None
    limit: int | None = None


def make_request(names: str | None, tasks: Path | None, limit: int | None) -> BenchmarkRequest | None:
    """Make a request from "paper" or names separated by commas; None without names. Raises EvaluationError."""
    if names is None:
        if tasks or limit:
            option = "--benchmark-tasks" if tasks else "--limit"
            raise EvaluationError(f"{option} is for benchmarks, but none were given.", "Give --benchmarks LIST too.")
        return None
    requested = [name.strip() for name in names.split(",") if name.strip()]
    if not requested:
        raise EvaluationError("--benchmarks does not name a benchmark.", f"Give paper, or some of {', '.join(PAPER)}.")
    listed = [task for name in requested for task in (PAPER if name == "paper" else (name,))]
    return BenchmarkRequest(tuple(dict.fromkeys(listed)), tasks, limit)


def task_of(name: str) -> str:
    return PAPER.get(name, name)


def needs_judge(task: str) -> bool:
    """Return whether a language model elsewhere judges the answers. Only the families of the nine are known."""
    return task.startswith("mathvista") or (task.startswith("mmbench") and not task.endswith("_static"))


def check(request: BenchmarkRequest) -> None:
    """Refuse, before any heavy work, what would fail or be meaningless. Raises ToolsError and EvaluationError."""
    lmms_eval.version()
    tools.find().tool("llama-server")
    _check_judge(request)
    _check_login(request)
    unknown = [name for name in request.names if name not in PAPER and not lmms_eval.knows(name, request.tasks)]
    if unknown:
        raise EvaluationError(
            f"lmms-eval does not have a task named {unknown[0]}.",
            f"Give some of {', '.join(PAPER)}, a task that `lmms-eval tasks list` shows, or --benchmark-tasks DIR.",
        )


def _check_judge(request: BenchmarkRequest) -> None:
    judged = [name for name in request.names if needs_judge(task_of(name))]
    if judged and not os.environ.get("OPENAI_API_KEY") and not os.environ.get("API_TYPE"):
        raise EvaluationError(
            f"lmms-eval has a language model judge the answers of {judged[0]}, but OPENAI_API_KEY is not set; without "
            "it they would count as wrong or be guessed.",
            f"Set OPENAI_API_KEY (and MODEL_VERSION to a model other than {_judge()}), or leave {judged[0]} out.",
        )


def _check_login(request: BenchmarkRequest) -> None:
    from huggingface_hub import constants, get_token

    asking = [name for name in request.names if name in PAPER and name not in WITHOUT_LOGIN]
    if asking and not get_token() and not constants.HF_HUB_OFFLINE:
        raise EvaluationError(
            f"lmms-eval needs a Hugging Face Hub login to download {asking[0]}, but you are not logged in.",
            "Run `hf auth login`, or set HF_TOKEN.",
        )


def _judge() -> str:
    return os.environ.get("MODEL_VERSION", "gpt-4o-2024-11-20")


def measure(
    request: BenchmarkRequest, target: EvalTarget, work: Path, reporter: Reporter = Reporter()
) -> dict[str, Benchmark]:
    """Return the metrics of every benchmark; those finished before for this file are read, the others run one by one.

    A group of tasks has an entry for each task. A run that was killed repeats the benchmark it was in.
    """
    folder = work / f"benchmarks-{target.key()}"
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Benchmark] = {}
    if not _keeps_template(target.model):
        reporter.info(
            f"llama-server leaves out text that {target.model.name}'s chat template adds to an image, so answers to "
            "benchmarks may differ from those to --data"
        )
    with ExitStack() as stack:
        address = ""
        for name in request.names:
            cached = folder / f"{safe_name(name)}-{_key(request, name, target)}.json"
            if not cached.exists():
                if not address:
                    serving = server.serve(
                        target.model,
                        target.mmproj,
                        folder / "llama-server.log",
                        threads=target.threads,
                        n_ctx=target.n_ctx,
                        gpu_layers=target.gpu.layers if target.gpu else None,
                        progress=lambda done, total: reporter.progress("llama-server", done, total),
                    )
                    address = stack.enter_context(serving)
                write_json(cached, to_json(_run(request, name, address, cached.with_suffix(""), reporter)))
            entries |= read_value(cached, dict[str, Benchmark], "eval")
    return entries


def _run(request: BenchmarkRequest, name: str, address: str, folder: Path, reporter: Reporter) -> dict[str, Benchmark]:
    task = task_of(name)
    results = lmms_eval.run(
        task,
        address,
        folder,
        tasks=request.tasks,
        limit=request.limit,
        progress=lambda done, total: reporter.progress(name, done, total),
    )
    entries = lmms_eval.read(results)
    return (
        {name: entries[task]} if set(entries) == {task} else {f"{name}/{subtask}": e for subtask, e in entries.items()}
    )


def _key(request: BenchmarkRequest, name: str, target: EvalTarget) -> str:
    """Return a hash that changes with everything that an answer or its score depends on, except the files."""
    judge = _judge() if needs_judge(task_of(name)) else None
    tasks_digest = _digest(request.tasks) if request.tasks and name not in PAPER else None
    build = tools.version(tools.find())
    return hash_of(task_of(name), request.limit, target.n_ctx, judge, tasks_digest, lmms_eval.version(), build)


def _keeps_template(model: Path) -> bool:
    """Return whether llama-server's prompt is the chat template's: it passes an image on as text, so a template that
    adds more to an image than special tokens, such as LLaVA-1.5's line break, does not add it."""
    template = reader.read(model).metadata.get("tokenizer.chat_template")
    try:
        return chat_template.render(template, "x", "<image>") == chat_template.render(template, "<image>x", None)
    except ValueError:
        return False


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def conditions(request: BenchmarkRequest, target: EvalTarget) -> BenchmarkConditions:
    """Return how benchmarks are run."""
    judged = any(needs_judge(task_of(name)) for name in request.names)
    return BenchmarkConditions(
        lmms_eval=lmms_eval.version(),
        llama_cpp=tools.version(tools.find()),
        samples_each=request.limit or "all",
        n_ctx=target.n_ctx,
        judge=_judge() if judged else None,
        prompt_as_template=_keeps_template(target.model),
    )
