"""Runs lmms-eval's own runner as a child process against an OpenAI-compatible server, and reads back its results.

lmms-eval ends with exit code 0 whatever happens, and counts a question whose request failed as answered wrongly. So a
failed request ends the run here, and a run without results is an error with the end of lmms-eval's output.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luq_gguf.core.errors import BenchmarkError, EvaluationError, ToolsError
from luq_gguf.core.measurements import Benchmark, BenchmarkMetric
from luq_gguf.llamacpp import child, tools

MODEL = "gguf"  # a file's name may hold "o1", "," or "=", and lmms-eval would take these for something else
_RESULTS = "*_results.json"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PROGRESS = re.compile(r"Model Responding:.*?\s(\d+)/(\d+)")
_FAILED = re.compile(r"All \d+ attempts failed\. Last error: (.*)")
_ERROR = re.compile(r"Error during evaluation: (.*?)(?:\. Please set `--verbosity=DEBUG`.*)?$")
_OWN_WORDS = "The lines above are lmms-eval's own output."


def version() -> str:
    """Return lmms-eval's version. Raises ToolsError if it is not installed."""
    try:
        return importlib.metadata.version("lmms-eval")
    except importlib.metadata.PackageNotFoundError:
        raise ToolsError(
            "Benchmarks are run by lmms-eval, which is not installed.", "Install it with: pip install 'luq-gguf[lmms]'"
        ) from None


def knows(name: str, tasks: Path | None) -> bool:
    """Return whether a definition of lmms-eval's, or one in the folder `tasks`, names a task, group or tag like this.

    This only searches the text, which takes a moment; lmms-eval itself needs many seconds to read all definitions.
    """
    package = importlib.util.find_spec("lmms_eval")
    shipped = Path((package.submodule_search_locations or [""])[0]) / "tasks" if package else None
    named = re.compile(rf"^\s*(?:(?:task|group|tag)\s*:|-)\s*[\"']?{re.escape(name)}[\"']?\s*$", re.MULTILINE)
    paths = (path for folder in (tasks, shipped) if folder for path in folder.rglob("*.yaml"))
    return any(named.search(path.read_text(encoding="utf-8", errors="replace")) for path in paths)


def run(
    task: str,
    server: str,
    folder: Path,
    *,
    tasks: Path | None = None,
    limit: int | None = None,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Ask a task's questions, with temperature 0 unless the task says otherwise, and return lmms-eval's results.

    Its results, answers and submission files are in `folder`, which is emptied first. Raises BenchmarkError, and
    EvaluationError for an unknown task or a question that is longer than the context.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = f"model={MODEL},base_url={server}/v1,api_key=none,num_concurrent=1,max_retries=1,httpx_trust_env=False"
    command: list[str | Path] = [tools.python(), "-m", "lmms_eval", "--model", "openai", "--model_args", arguments]
    command += ["--tasks", task, "--batch_size", "1", "--output_path", folder.resolve(), "--log_samples"]
    command += ["--verbosity", "WARNING"]
    command += ["--include_path", tasks.resolve()] if tasks else []
    command += ["--limit", str(limit)] if limit else []

    def on_line(line: str) -> None:
        if counted := _PROGRESS.search(line):
            progress(int(counted[1]), int(counted[2]))
        if failed := _FAILED.search(line):
            raise _unanswered(task, _COLOURS.sub("", failed[1]).strip())

    output = child.run(
        command,
        child.Failure(BenchmarkError, f"lmms-eval on {task}", _OWN_WORDS),
        on_line=on_line,
        cwd=folder,
        environment=_environment(),
    )
    results_files = sorted((folder / MODEL).glob(_RESULTS))
    if "Tasks not found" in output and not results_files:
        raise EvaluationError(
            f"lmms-eval does not have a task named {task}.", "`lmms-eval tasks list` shows the tasks that it has."
        )
    if not results_files:
        raise BenchmarkError(f"lmms-eval returned no results for {task}:\n{_last_words(output)}", _OWN_WORDS)
    results: dict[str, Any] = json.loads(results_files[-1].read_text(encoding="utf-8"))
    return results


def _environment() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


def _unanswered(task: str, error: str) -> EvaluationError | BenchmarkError:
    sizes = re.search(r"\((\d+) tokens\).*context size \((\d+) tokens\)", error)
    if sizes:
        return EvaluationError(
            f"A question of {task} has {sizes[1]} tokens, which is more than the context size of {sizes[2]}.",
            f"Add --ctx {-(-int(sizes[1]) * 5 // 4096) * 1024} or more.",
        )
    return BenchmarkError(
        f"llama-server did not answer a question of {task}: {error}",
        "The text after the task's name is llama-server's own message.",
    )


def _last_words(output: str) -> str:
    lines = [_COLOURS.sub("", line).strip() for line in output.splitlines()]
    reason = next((match[1] for line in reversed(lines) if (match := _ERROR.search(line))), None)
    return reason or "\n".join([line for line in lines if line][-3:])


def read(results: Mapping[str, Any]) -> dict[str, Benchmark]:
    """Return what eval.json keeps of results, by task.

    A metric that is not a number, such as a file for a test server, is left out; it is null in lmms-eval's results.
    """
    entries = {}
    for task, counts in results["n-samples"].items():
        values = results["results"][task]
        metrics = {}
        for key, value in values.items():
            name, _, way = key.partition(",")
            if not way or "_stderr" in name or not _is_number(value):
                continue
            stderr = values.get(f"{name}_stderr,{way}")
            shown = name if way == "none" else f"{name} ({way})"
            metrics[shown] = BenchmarkMetric(float(value), float(stderr) if _is_number(stderr) else None)
        version = results.get("versions", {}).get(task)
        entries[task] = Benchmark(metrics, int(counts["effective"]), task, version)
    return entries


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
