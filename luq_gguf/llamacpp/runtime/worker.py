"""Answers requests about a GGUF file. Run as a child process by `client.LlamaClient`.

Reads a JSON object a line from stdin and writes one a line to stdout; the first line out is {"ready": true, "n_vocab"}.

    {"prompt": turns, "images": paths, "max_tokens"}    -> {"text", "tokens", "n_prompt"}: the greedy answer
    {"measure": turns, "images", "max_tokens", "forced": token ids or null, "out": path of .npy}
                                                        -> {"text", "tokens", "prompt", "forced", "n_prompt"}
    {"text", "images", "out"}                           -> {"tokens", "n_prompt"}
    {"tokens": ids, "start", "last": n or null, "out"}  -> {}: of the tokens from `start` on, or the last n of them
    {"tokenize": text}                                  -> {"tokens", "bos": id or null}
    {"time": turns, "images", "max_tokens"}             -> {"encode_seconds", "first_token_seconds", "answer_seconds",
                                                            "n_prompt", "n_answer"}
    {"render": turns}                                   -> {"text"}: the prompt in the file's chat template
    {"count": turns, "images"}                          -> {"n_prompt"}: its tokens in that template
    {"parts": text, "images"}                           -> {"parts"}: lists of token ids, and how many tokens a piece
                                                            of an image has
    {"size": [width, height]}                           -> {"sizes", "n_tokens"}: in pixels, of what the vision half
                                                            would compute of a picture of that size
    anything that fails                                 -> {"error"}

Turns are as `Turn.to_json` writes them. What `out` names receives log-probabilities after every text token, float32
[n, n_vocab].
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luq_gguf.core import machine, unix
from luq_gguf.core.turns import Turn
from luq_gguf.llamacpp.runtime.model import Model, WorkerError, load_plugin

Turns = Sequence[Turn]


def generate(
    model: Model, position: int, limit: int, rows: list[np.ndarray] | None = None, *, to_the_end: bool = True
) -> list[int]:
    """Return greedy tokens from the last logits on, to the end of the answer; `rows` takes the logits after each of
    them."""
    tokens: list[int] = []
    while len(tokens) < limit and position < model.n_ctx:
        token = int(np.argmax(model.logits(-1)))
        if to_the_end and model.is_end(token):
            break
        tokens.append(token)
        model.decode([token], position, rows)
        position += 1
    return tokens


def answer(model: Model, turns: Turns, images: list[str], max_tokens: int) -> dict[str, Any]:
    position, _, n_prompt = model.read(model.prompt_text(turns), images)
    tokens = generate(model, position, max_tokens)
    return {"text": model.text(tokens), "tokens": tokens, "n_prompt": n_prompt}


def measure(
    model: Model, turns: Turns, images: list[str], max_tokens: int, forced: list[int] | None, out: Path
) -> dict[str, Any]:
    """Return the greedy answer, and save what is predicted after every text token of the prompt and of an answer.

    That answer is `forced`, or the greedy one. The prompt is read once: where the greedy answer leaves the forced one,
    the context is rolled back to there.
    """
    prompt, rows = model.prompt_text(turns), list[np.ndarray]()
    position, read, n_prompt = model.read(prompt, images, rows)
    if forced is None:
        tokens = forced = generate(model, position, max_tokens, rows)
    else:
        if forced:
            model.decode(forced, position, rows)
        behind = np.concatenate(rows)[len(read) - 1 :].argmax(axis=1).tolist()
        agreed = next((i for i, token in enumerate(forced) if behind[i] != token), len(forced))
        tokens = forced[:agreed]
        if agreed < max_tokens and not model.is_end(behind[agreed]):
            if agreed < len(forced) and not model.forget_from(position + agreed):
                position = model.read(prompt, images)[0]
                if agreed:
                    model.decode(tokens, position)
            tokens = [*tokens, behind[agreed]]
            model.decode(tokens[-1:], position + agreed)
            tokens += generate(model, position + agreed + 1, max_tokens - agreed - 1)
    _save(out, rows)
    return {"text": model.text(tokens), "tokens": tokens, "prompt": read, "forced": forced, "n_prompt": n_prompt}


def time_answer(model: Model, turns: Turns, images: list[str], max_tokens: int) -> dict[str, Any]:
    """Return how long an answer of so many tokens takes from an empty context: the vision half, until the first token,
    and in all."""
    prompt, encoded, started = model.prompt_text(turns), model.encode_seconds, time.perf_counter()
    position, _, n_prompt = model.read(prompt, images)
    model.logits(-1)
    first = time.perf_counter() - started
    tokens = generate(model, position, max_tokens, to_the_end=False)
    return {
        "encode_seconds": model.encode_seconds - encoded,
        "first_token_seconds": first,
        "answer_seconds": time.perf_counter() - started,
        "n_prompt": n_prompt,
        "n_answer": len(tokens),
    }


def score(model: Model, text: str, images: list[str], out: Path) -> dict[str, Any]:
    rows: list[np.ndarray] = []
    _, tokens, n_prompt = model.read(text, images, rows)
    _save(out, rows)
    return {"tokens": tokens, "n_prompt": n_prompt}


def score_tokens(
    model: Model, tokens: list[int], start: int, out: Path, n_batch: int | None, last: int | None
) -> dict[str, Any]:
    model.clear()
    rows: list[np.ndarray] = []
    usual, model.n_batch = model.n_batch, n_batch or model.n_batch
    try:
        if start:
            model.decode(tokens[:start], 0)
        model.decode(tokens[start:], start, rows)
    finally:
        model.n_batch = usual
    _save(out, rows if last is None else [np.concatenate(rows)[-last:]])
    return {}


def _save(out: Path, rows: list[np.ndarray]) -> None:
    """Save log-probabilities of logits, a position at a time: one fits in a core's cache, all of a prompt do not."""
    saved = np.concatenate(rows)
    for row in saved:
        logits = row.astype(np.float64)
        top = logits.max()
        row[:] = logits - (top + np.log(np.exp(logits - top).sum()))
    np.save(out, saved)


def reply(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    images = request.get("images", [])
    if "prompt" in request:
        return answer(model, _turns(request["prompt"]), images, int(request["max_tokens"]))
    if "measure" in request:
        turns, out = _turns(request["measure"]), Path(request["out"])
        return measure(model, turns, images, int(request["max_tokens"]), request["forced"], out)
    if "text" in request:
        return score(model, request["text"], images, Path(request["out"]))
    if "tokens" in request:
        start, out = int(request["start"]), Path(request["out"])
        return score_tokens(model, request["tokens"], start, out, request.get("n_batch"), request.get("last"))
    if "time" in request:
        return time_answer(model, _turns(request["time"]), images, int(request["max_tokens"]))
    if "tokenize" in request:
        return {"tokens": model.tokenize(request["tokenize"]), "bos": model.bos()}
    if "count" in request:
        return {"n_prompt": model.count(model.prompt_text(_turns(request["count"])), images)}
    if "parts" in request:
        return {"parts": model.parts(request["parts"], images)}
    if "size" in request:
        sizes, n_tokens = model.pieces(*map(int, request["size"]))
        return {"sizes": sizes, "n_tokens": n_tokens}
    return {"text": model.prompt_text(_turns(request["render"]))}


def _turns(value: list[Any]) -> Turns:
    return [Turn.from_json(turn) for turn in value]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--mmproj", type=Path)
    parser.add_argument("--threads", type=int, default=machine.cores(logical=True))
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=512, help="tokens computed at once")
    parser.add_argument("--embeddings", type=Path, help="folder in which image embeddings are cached")
    parser.add_argument("--check", action="store_true", help="reject weights that are not finite")
    parser.add_argument("--no-weights", action="store_true", help="only count tokens and render prompts")
    parser.add_argument("--image-min-tokens", type=int, help="of a picture of dynamic size")
    parser.add_argument("--image-max-tokens", type=int)
    parser.add_argument("--kernels", type=Path, help="a plugin that ggml loads first")
    parser.add_argument("--max-memory", type=int, help="limit of the address space in bytes")
    parser.add_argument("--gpu-layers", type=int, default=0)
    args = parser.parse_args()
    if args.max_memory:
        resource = unix.module("resource")
        resource.setrlimit(resource.RLIMIT_AS, (args.max_memory, args.max_memory))
    # The libraries may print to stdout; answers go to the original one.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        if args.kernels:
            load_plugin(args.kernels)
        limits = args.image_min_tokens, args.image_max_tokens
        how = {"check": args.check, "weights": not args.no_weights, "image_tokens": limits}
        how |= {"gpu_layers": args.gpu_layers}
        model = Model(args.model, args.mmproj, args.threads, args.ctx, args.batch, args.embeddings, **how)
    except WorkerError as failure:
        out.write(json.dumps({"error": str(failure)}) + "\n")
        raise SystemExit(1) from None
    out.write(json.dumps({"ready": True, "n_vocab": model.n_vocab}) + "\n")
    for line in sys.stdin:
        try:
            response = reply(model, json.loads(line))
        except (WorkerError, OSError) as failure:
            response = {"error": str(failure)}
        except Exception as failure:  # of prompts and templates that nobody thought of: the next request may be fine
            response = {"error": f"{type(failure).__name__}: {failure}"}
        out.write(json.dumps(response) + "\n")


if __name__ == "__main__":
    main()
