"""Ask a GGUF file questions about images, or what it expects, through libllama and libmtmd in a worker process."""

from __future__ import annotations

import contextlib
import json
import select
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from types import TracebackType
from typing import Any

import numpy as np

from luq_gguf.core.errors import RunnerError
from luq_gguf.core.turns import Turn, prompt_turns
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp import gpu as gpus
from luq_gguf.llamacpp.gpu import Offload

Prompt = str | Sequence[Turn]  # text with its images before it, or a conversation, which has their places
Images = Path | Sequence[Path] | None


@dataclass(frozen=True)
class Answer:
    """A greedy answer: its text, its token ids, and how many tokens the prompt had."""

    text: str
    tokens: tuple[int, ...]
    n_prompt: int


@dataclass(frozen=True)
class TextLogprobs:
    """What a model predicts after every text token of a prompt with its answer.

    tokens: their ids [n]; log_probabilities: float32 [n, n_vocab]; n_prompt counts the images' tokens too.
    """

    tokens: tuple[int, ...]
    log_probabilities: np.ndarray
    n_prompt: int


@dataclass(frozen=True)
class Measurement:
    """One prompt's greedy answer, and what the model predicts after every text token of the prompt and of an answer.

    `answer` tokens are the greedy ones; `prompt` the prompt's text tokens [n]; `forced` the answer that the
    log-probabilities follow [m]; log_probabilities: float32 [n + m, n_vocab].
    """

    text: str
    answer: tuple[int, ...]
    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    log_probabilities: np.ndarray


@dataclass(frozen=True)
class Limits:
    """What a file from anywhere may take: seconds for loading and for each reply, and bytes of the child's address
    space."""

    seconds: float
    memory_bytes: int


class LlamaClient:
    """A loaded model, as a context manager. Raises RunnerError where the file does not load or a prompt fails."""

    def __init__(
        self,
        model: Path,
        mmproj: Path | None = None,
        *,
        threads: int | None = None,
        n_ctx: int = 4096,
        n_batch: int = 512,
        embeddings: Path | None = None,
        kernels: Path | None = None,
        limits: Limits | None = None,
        weights: bool = True,
        image_tokens: tuple[int | None, int | None] = (None, None),
        gpu: Offload | None = None,
    ) -> None:
        """`kernels` is a plugin to load. `limits` are for files from anywhere: weights that are not finite are rejected
        then, too. Without `weights` only `count` and `pieces` work, also of a header-only GGUF. `image_tokens` are
        llama.cpp's --image-min-tokens and --image-max-tokens; None for what libmtmd takes itself. With `gpu`, so many
        layers run there, in that build's libraries."""
        self._command = [sys.executable, "-m", "luq_gguf.llamacpp.runtime.worker", str(model), "--ctx", str(n_ctx)]
        self._command += ["--batch", str(n_batch)]
        self._command += ["--mmproj", str(mmproj)] if mmproj else []
        self._command += ["--threads", str(threads)] if threads else []
        self._command += ["--embeddings", str(embeddings)] if embeddings else []
        self._command += [] if weights else ["--no-weights"]
        for option, number in zip(("--image-min-tokens", "--image-max-tokens"), image_tokens, strict=True):
            self._command += [option, str(number)] if number is not None else []
        self._command += ["--kernels", str(kernels)] if kernels else []
        self._command += ["--check", "--max-memory", str(limits.memory_bytes)] if limits else []
        self._command += ["--gpu-layers", str(gpu.layers)] if gpu else []
        self._libraries = gpu.libraries if gpu else None
        self._name = model.name
        self._timeout = limits.seconds if limits else None

    def __enter__(self) -> LlamaClient:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._folder = tempfile.TemporaryDirectory()
        bindings = gpus.overlay(Path(self._folder.name) / "bindings", self._libraries) if self._libraries else None
        self._child = child.start(
            self._command, tools.bindings_environment(bindings), stdin=PIPE, stdout=PIPE, stderr=self._errors
        )
        try:
            self.n_vocab = int(self._reply()["n_vocab"])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def ask(self, prompt: Prompt, images: Images = None, *, max_tokens: int = 64) -> Answer:
        """Return the model's greedy answer to a prompt in its own chat format."""
        reply = self._request(prompt=_turns(prompt, images), images=_names(images), max_tokens=max_tokens)
        return Answer(reply["text"], tuple(reply["tokens"]), reply["n_prompt"])

    def score(self, prompt: Prompt, images: Images = None, *, answer: str = "") -> TextLogprobs:
        """Return what the model predicts after every text token of the prompt in its chat format and of an answer."""
        return self.score_text(str(self._request(render=_turns(prompt, images))["text"]) + answer, images)

    def render(self, turns: Sequence[Turn]) -> str:
        """Return a conversation in the model's own chat format, with libmtmd's markers where images go."""
        return str(self._request(render=_turns(turns, None))["text"])

    def parts(self, text: str, images: Images = None) -> tuple[tuple[int, ...] | int, ...]:
        """Return what a text as it is, as `score_text` takes it, consists of: token ids of text, and how many tokens a
        piece of an image has."""
        reply = self._request(parts=text, images=_names(images))
        return tuple(part if isinstance(part, int) else tuple(part) for part in reply["parts"])

    def score_text(self, text: str, images: Images = None) -> TextLogprobs:
        """Return the same as `score` for a text as it is, with libmtmd's marker ``<__media__>`` where an image goes."""
        reply, rows = self._scores(text=text, images=_names(images))
        return TextLogprobs(tuple(reply["tokens"]), rows, reply["n_prompt"])

    def measure(
        self, prompt: Prompt, images: Images = None, *, max_tokens: int = 64, forced: Sequence[int] | None = None
    ) -> Measurement:
        """Return the answer and log-probabilities of one prompt, which is read once; with `forced` None they follow the
        greedy answer."""
        reply, rows = self._scores(
            measure=_turns(prompt, images),
            images=_names(images),
            max_tokens=max_tokens,
            forced=None if forced is None else [int(token) for token in forced],
        )
        prompt_tokens, followed = tuple(reply["prompt"]), tuple(reply["forced"])
        return Measurement(reply["text"], tuple(reply["tokens"]), prompt_tokens, followed, rows)

    def time(self, prompt: Prompt, images: Images, *, max_tokens: int) -> dict[str, float]:
        """Return the seconds of one answer of so many tokens: encode_seconds (the vision half), first_token_seconds,
        answer_seconds; and n_prompt, n_answer tokens."""
        return self._request(time=_turns(prompt, images), images=_names(images), max_tokens=max_tokens)

    def count(self, prompt: Prompt, images: Images = None) -> int:
        """Return how many tokens a prompt has in the model's own chat format, its images' included."""
        return int(self._request(count=_turns(prompt, images), images=_names(images))["n_prompt"])

    def pieces(self, size: tuple[int, int]) -> tuple[tuple[tuple[int, int], ...], int]:
        """Return width and height in pixels of each picture that the vision half would compute of one of this size:
        one, or tiles; and how many tokens they have in all."""
        reply = self._request(size=list(size))
        return tuple((width, height) for width, height in reply["sizes"]), int(reply["n_tokens"])

    @property
    def pid(self) -> int:
        """Return the id of the process that has loaded the model."""
        return self._child.pid

    def tokenize(self, text: str) -> tuple[list[int], int | None]:
        """Return the token ids of a plain text, beginning with the BOS token where the tokenizer adds one, and that
        token."""
        reply = self._request(tokenize=text)
        return list(reply["tokens"]), reply["bos"]

    def score_tokens(
        self, tokens: Sequence[int], start: int, n_batch: int | None = None, *, last: int | None = None
    ) -> np.ndarray:
        """Return log-probabilities after the tokens from `start` on, float32 [len(tokens) - start, n_vocab], computed
        `n_batch` tokens at once (None: as many as the client's); of these only the `last`, where that is given."""
        return self._scores(tokens=[int(token) for token in tokens], start=start, n_batch=n_batch, last=last)[1]

    def _scores(self, **request: Any) -> tuple[dict[str, Any], np.ndarray]:
        out = Path(self._folder.name) / "scores.npy"
        reply = self._request(**request, out=str(out))
        return reply, np.load(out, allow_pickle=False)

    def _request(self, **request: Any) -> dict[str, Any]:
        assert self._child.stdin
        with contextlib.suppress(BrokenPipeError):  # the reply, or its absence, says why
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._child.stdout
        # A reply is one line, so nothing waits in the buffer when one is asked for.
        if self._timeout is not None and not select.select([self._child.stdout], [], [], self._timeout)[0]:
            raise RunnerError(f"llama.cpp did not answer for {self._name} within {self._timeout:.0f} seconds.", "")
        line = self._child.stdout.readline()
        if not line:
            code = self._child.wait()
            self._errors.seek(0)
            output = self._errors.read()
            words = " ".join(output.split()[-60:])
            how = f"llama.cpp {child.ended(code)} while running {self._name}{': ' * bool(words)}{words}"
            raise child.failed(RunnerError, code, how, output)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RunnerError(f"{self._name}: {reply['error']}.", "")
        return reply

    def _stop(self) -> None:
        child.end(self._child)
        self._folder.cleanup()
        self._errors.close()


def _names(images: Images) -> list[str]:
    return [str(image) for image in ([images] if isinstance(images, Path) else images or ())]


def _turns(prompt: Prompt, images: Images) -> list[list[Any]]:
    turns = prompt_turns(prompt, len(_names(images))) if isinstance(prompt, str) else prompt
    return [turn.to_json() for turn in turns]
