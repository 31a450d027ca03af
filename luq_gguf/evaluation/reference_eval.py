"""Measures the reference model in transformers on questions, and how far files are from it.

What it predicts after the prompts' text and what it answers is kept part by part, as a reference file's is, so that
nothing is computed twice; files are compared with that while their own predictions are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.types import EvalData, Sample
from luq_gguf.evaluation import cache, reference_model
from luq_gguf.evaluation.cache import Arrays
from luq_gguf.evaluation.parts import measure_missing
from luq_gguf.evaluation.target import TOP, EvalTarget
from luq_gguf.hf import devices
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import kld as kld_metric
from luq_gguf.method.metrics.kld import TopLogprobs

_HOW = 1  # in what way the reference model is asked: what was kept of other numbers is not read
Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class ReferencePredictions:
    """The folder that has what the reference model predicts and answers, and which tokens of the first prompt where
    some differ it would have had without the file's; empty where none."""

    folder: Path
    different_tokens: str


@dataclass(frozen=True)
class ComparedCase:
    """A file's answer to a question, and its divergence from the reference model, in nats, and whether their top tokens
    are the same, at n places of the prompt's text: behind its picture, or all of it. float32 and bool [n]."""

    answer: str
    kld: np.ndarray
    same_top: np.ndarray


def measure_reference_model(
    checkpoint: Checkpoint,
    placement: Placement,
    target: EvalTarget,
    data: EvalData,
    work: Path,
    progress: Progress = lambda done, total: None,
) -> ReferencePredictions:
    """Ask the reference model all questions that it has not been asked yet. `target` is a file of the checkpoint, whose
    tokens of text it is given. Raises CheckpointError, and what loading either raises."""
    dtype = str(placement.dtype)
    vision = content_of(target.mmproj) if target.mmproj else None
    versions = [version("transformers"), version("torch"), tools.identity()]
    key = hash_of(_HOW, checkpoint.fingerprint, versions, dtype, target.sha256, vision, target.max_tokens, TOP)
    folder = work / f"transformers-{key}-{data.asked_sha256[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [names for names in cache.names(data) if not cache.path(folder, names).exists()]
    if missing:
        samples = {name: data.samples[int(name[1:])] for names in missing for name in names}
        with LlamaClient(target.model, target.mmproj, threads=target.threads, n_ctx=target.n_ctx) as client:
            prompts = {name: reference_model.prompt_tokens(client, sample) for name, sample in samples.items()}
        model, processor = reference_model.load(checkpoint, placement)
        done = len(data.samples) - len(samples)
        with devices.memory_errors(placement):
            for names in missing:
                arrays: Arrays = {}
                answers: dict[str, str] = {}
                for name in names:
                    sample = samples[name]
                    inputs = reference_model.own_inputs(processor, sample)
                    aligned = reference_model.align(model, processor, sample, inputs, prompts[name], checkpoint)
                    places = list(aligned.after) if sample.images else aligned.places
                    rows = reference_model.log_probabilities(model, aligned.inputs, places)
                    arrays |= {f"{name}.{key}": value for key, value in _kept(rows, aligned.differences).items()}
                    answers[name] = _answer(model, processor, inputs, target.max_tokens)
                    progress(done := done + 1, len(data.samples))
                cache.save(folder, names, arrays, answers)
    told = (bytes(arrays["differences"]).decode() for _, arrays, _ in cache.read(folder, data))
    return ReferencePredictions(folder, next(filter(None, told), ""))


def _kept(rows: np.ndarray, differences: str) -> Arrays:
    top = kld_metric.keep_top(rows, TOP)
    return {
        "tokens": top.tokens,
        "log_probabilities": top.log_probabilities,
        "tail": top.tail,
        "n_vocab": np.array([rows.shape[1]]),
        "differences": np.frombuffer(differences.encode(), np.uint8),
    }


def _answer(model: nn.Module, processor: Any, inputs: dict[str, Any], max_tokens: int) -> str:
    """The greedy answer to the reference model's own prompt."""
    tokenizer = getattr(processor, "tokenizer", processor)
    generate: Any = model.generate
    with torch.inference_mode():
        out = generate(**reference_model.placed(model, inputs), max_new_tokens=max_tokens, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


def answers(reference: ReferencePredictions, data: EvalData) -> list[str]:
    """Return the reference model's answers to all questions."""
    return [answer or "" for _, _, answer in cache.read(reference.folder, data)]


def compare(
    target: EvalTarget,
    asked: EvalData,
    reference: ReferencePredictions,
    data: EvalData,
    work: Path,
    progress: Progress = lambda done, total: None,
) -> list[ComparedCase]:
    """Return what a file answers, and how far its predictions are from the reference model's; what was measured before
    is read. `asked` are the questions as the file sees them, with fitted pictures perhaps, and `data` as the reference
    model did. Raises EvaluationError where their vocabularies differ."""
    folder = work / f"file-{reference.folder.name}-{target.key()}-{asked.asked_sha256[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = cache.Reference(reference.folder)

    def measure(client: LlamaClient, name: str) -> tuple[Arrays, str | None]:
        sample: Sample = asked.samples[int(name[1:])]
        expected = kept.arrays(name)
        measured = client.measure(sample.conversation, sample.images, max_tokens=target.max_tokens)
        n_prompt, n = len(measured.prompt), len(expected["tokens"])
        rows = measured.log_probabilities[n_prompt - n : n_prompt]
        if (n_vocab := int(expected["n_vocab"][0])) != rows.shape[1]:
            raise EvaluationError(
                f"{target.model.name} has {rows.shape[1]} tokens in its vocabulary, and the checkpoint has {n_vocab}.",
                "Give the checkpoint that the file was made from.",
            )
        top = TopLogprobs(expected["tokens"], expected["log_probabilities"], expected["tail"])
        kld = kld_metric.kl_from_top(top, rows).astype(np.float32)
        return {"kld": kld, "same_top": expected["tokens"][:, 0] == rows.argmax(axis=1)}, measured.text

    measure_missing(target, asked, folder, work, measure, progress, check=False)
    return list(_cases(cache.read(folder, data)))


def _cases(read: Iterable[tuple[str, Arrays, str | None]]) -> Iterable[ComparedCase]:
    for _, arrays, answer in read:
        yield ComparedCase(answer or "", arrays["kld"], arrays["same_top"])
