"""The whole command lines of llama.cpp's programs for a file in a context, and Ollama's Modelfile."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from luq_gguf.core.choice import FileNeed
from luq_gguf.core.errors import GGUFFileError, one_line

_PROMPT_CACHE = 8192  # MiB that llama-server may keep of earlier prompts by itself


@dataclass(frozen=True)
class Parts:
    """Where files come from (a repository's name with its revision, or a folder), and what they may use."""

    source: str
    revision: str | None
    threads: int
    memory_bytes: int

    def path(self, file: str) -> str:
        """Return where a file is, or will be once it is downloaded."""
        folder = self.source.rsplit("/", 1)[-1] if self.revision else self.source
        path = str(PurePosixPath(folder) / file)
        return one_line(path if path.startswith(("/", ".")) else f"./{path}")


def command_lines(need: FileNeed, parts: Parts) -> dict[str, str]:
    """Return command lines by program; `hf` downloads what is on the Hub."""
    lines = {}
    if parts.revision:
        files = [*need.shards, *([need.mmproj] if need.mmproj else [])]
        where = PurePosixPath(parts.path("x")).parent
        lines["hf"] = _line("hf", "download", parts.source, *files, "--local-dir", f"./{where}")
    server = [*_common(need, parts)]
    left = (parts.memory_bytes - (need.memory.total_bytes if need.memory else 0)) // 2**20
    if left < _PROMPT_CACHE:
        server += ["--cache-ram", str(max(0, left))]
    lines["llama-server"] = _line("llama-server", *server)
    if need.mmproj:
        lines["llama-mtmd-cli"] = _line("llama-mtmd-cli", *_common(need, parts)) + " --image IMAGE -p QUESTION"
    return lines


def _common(need: FileNeed, parts: Parts) -> list[str]:
    assert need.context is not None
    assert need.memory is not None
    words = ["-m", parts.path(need.shards[0])]
    words += ["--mmproj", parts.path(need.mmproj)] if need.mmproj else []
    words += ["-c", str(need.context.n_ctx), "-t", str(parts.threads)]
    for option, kind in (("-ctk", need.context.type_k), ("-ctv", need.context.type_v)):
        words += [option, kind] if kind != "f16" else []
    words += ["--image-max-tokens", str(need.image_max_tokens)] if need.image_max_tokens else []
    if need.memory.total_bytes + need.memory.repacked_bytes > parts.memory_bytes:
        words += ["--load-mode", "none"]
    return words


def _line(*words: str) -> str:
    return " ".join(shlex.quote(one_line(word)) for word in words)


def modelfile(need: FileNeed, parts: Parts) -> str:
    """Return Ollama's Modelfile. Raises GGUFFileError for a file in shards, which Ollama does not load."""
    assert need.context
    if len(need.shards) > 1:
        raise GGUFFileError(
            f"{need.file} is in {len(need.shards)} shards, which Ollama does not load.",
            "Merge them with llama-gguf-split --merge, and choose again in the folder of the merged file.",
        )
    lines = []
    if need.context.type_k != "f16":
        lines.append(f"# Start Ollama with OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={need.context.type_k}.")
    lines += [f"FROM {parts.path(file)}" for file in (need.file, need.mmproj) if file]
    lines += [f"PARAMETER num_ctx {need.context.n_ctx}", f"PARAMETER num_thread {parts.threads}"]
    return "\n".join(lines) + "\n"
