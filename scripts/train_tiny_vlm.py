#!/usr/bin/env python3
r"""Train one of the two tiny vision-language models that the tests and the demo convert.

    python scripts/train_tiny_vlm.py qwen2.5-vl tests/models/tiny-qwen2.5-vl
    python scripts/train_tiny_vlm.py llava-1.5 tests/models/tiny-llava-1.5 \
        --decoder-from tests/models/tiny-qwen2.5-vl --steps 2000
    python scripts/train_tiny_vlm.py qwen2.5-vl tests/models/tiny-qwen2.5-vl --evaluate

Both have real architectures of transformers, start from random weights, and are trained on easy-VQA (the train split
and images drawn in the same style). Five measures make them learn in about an hour on two cores:

- The vision tower first learns the two attributes through linear heads that are discarded afterwards.
- Several questions follow one image in a sequence. A mask and restarted positions hide each of them from the others, so
  the model sees exactly what it would see with one question (this is checked before training starts).
- While the whole model learns, heads in the middle of the decoder (discarded too) predict, from the last prompt token,
  what the question is about and what the image shows there. All that is left to learn is to compare the two.
- Plain questions ("is there a circle?") come first, and negated ones are mixed in later. In equal numbers from the
  start, "present" and "negated" are an exclusive or, from which the model learns nothing for a long time.
- Later steps skip a few decoder layers at random, which makes the model robust to errors in single layers.

With --decoder-from, the decoder starts from that of a tiny model that was trained before (attention biases are dropped,
and rows of the vocabulary are matched by their tokens). It knows the questions, and only has to learn to use the new
vision tower.

A run can be interrupted and resumed at any time: its state is saved next to the output every few minutes. Batches
depend only on the seed and the step. At the end (or with --evaluate), the accuracy on easy-VQA's test questions is
measured in bfloat16 through the saved model's own processor, and again with the images swapped at random.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easy_vqa_data import ANSWERS, COLORS, SHAPES, all_questions, ask, draw, labelled_train_images
from exact_bfloat16 import ExactBfloat16
from luq_gguf.hf.devices import has_fast_bfloat16
from luq_gguf.hf.processor import load_processor
from luq_gguf.workflows.easy_vqa import SIDE, load_image, normalize, questions
from tiny_vlm_models import ARCHITECTURES, build, image_inputs, one_attention_call_for_all_images

SAVE_SECONDS = 240
TOPICS = (*SHAPES, *COLORS)
QUESTION_LOSS = 0.1  # weight of the question's own tokens, so that the model also knows the language of its questions
IMAGES, QUESTIONS = 24, 6  # a step
SKIP = 0.12  # probability that a step leaves a decoder layer out
MIDDLE = 5  # the layer whose output the heads in the middle read


class Batches:
    """Images, labels and tokenised questions of a step, from the seed and the step's number alone."""

    def __init__(self, processor, seed: int):
        self.processor, self.seed = processor, seed
        self.pixels, self.shapes, self.colors = labelled_train_images()
        asked = {q.text for q in questions("train")}
        if missing := asked - set(all_questions()):
            raise SystemExit(f"The templates do not cover {missing}.")
        self.prefix, pairs = chat_pieces(processor, [(q, a) for q in all_questions() for a in ANSWERS])
        self.length = max(len(ids) for ids, _ in pairs.values())
        self.pairs = pairs

    def pictures(self, step: int, count: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, step])
        shapes, colors = rng.integers(0, len(SHAPES), count), rng.integers(0, len(COLORS), count)
        pixels = [draw(rng, s, c) for s, c in zip(shapes, colors, strict=True)]
        for k in range(0, count, 4):  # every fourth is one of easy-VQA's own
            i = rng.integers(len(self.pixels))
            pixels[k], shapes[k], colors[k] = self.pixels[i], self.shapes[i], self.colors[i]
        return pixels, shapes, colors

    def questions(
        self, step: int, shapes: np.ndarray, colors: np.ndarray, negated: float = 0.5
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ids, loss weights and validity, each [images, QUESTIONS, length]; and what is asked, int [.., .., 4]:

        position of the last prompt token, subject, negated (-1 where the question is not a yes/no question), truth.
        """
        rng = np.random.default_rng([self.seed, step, 1])
        size = (len(shapes), QUESTIONS, self.length)
        ids, weight, valid = torch.zeros(size, dtype=torch.long), torch.zeros(size), torch.zeros(size, dtype=torch.bool)
        about = torch.full((len(shapes), QUESTIONS, 4), -1)
        for i, (shape, color) in enumerate(zip(shapes, colors, strict=True)):
            for j in range(QUESTIONS):
                text, answer = ask(rng, int(shape), int(color), negated)
                tokens, n_answer = self.pairs[text, answer]
                n = len(tokens)
                ids[i, j, :n] = torch.tensor(tokens)
                weight[i, j, :n] = QUESTION_LOSS
                weight[i, j, n - n_answer : n] = 1.0
                valid[i, j, :n] = True
                about[i, j] = torch.tensor([n - n_answer - 1, *topic(text, answer, int(shape), int(color))])
        return ids, weight, valid, about


def topic(text: str, answer: str, shape: int, color: int) -> tuple[int, int, int]:
    """Return what is asked about, whether it is negated, and what the image has there; first and last are TOPICS
    indices."""
    about_color = answer in COLORS
    subject = negated = -1
    if answer in ("yes", "no"):
        word = next(w for w in text.rstrip("?").split() if w in TOPICS)
        subject, negated, about_color = TOPICS.index(word), int(" not " in text or " no " in text), word in COLORS
    return subject, negated, TOPICS.index(list(COLORS)[color]) if about_color else TOPICS.index(SHAPES[shape])


def chat_pieces(
    processor, pairs: list[tuple[str, str]]
) -> tuple[list[int], dict[tuple[str, str], tuple[list[int], int]]]:
    """Return the prompt up to and including the image, and for each pair the tokens after it with the length of their
    answer."""
    image, picture = processor.image_token_id, np.zeros((SIDE, SIDE, 3), np.uint8)

    def tokens(turns: list[dict], generate: bool) -> list[int]:
        text = processor.apply_chat_template(turns, add_generation_prompt=generate, tokenize=False)
        return processor(images=[picture], text=[text])["input_ids"][0]

    prefix: list[int] = []
    pieces = {}
    for question, answer in pairs:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        said = [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        whole, asked = tokens(said, False), tokens(turns, True)
        if whole[: len(asked)] != asked:
            raise SystemExit(f"The answer changes the tokens of the question: {question!r} {answer!r}.")
        start = len(whole) - whole[::-1].index(image)
        while (prefix and whole[:start] != prefix[:start]) or start < len(prefix):
            raise SystemExit("The prompt before the question differs between questions.")
        prefix = whole[:start]
        pieces[question, answer] = (whole[start:], len(whole) - len(asked))
    return prefix, pieces


def positions(model, prefix: Tensor, n_behind: int) -> Tensor:
    """Return position ids [3, 1, T] (Qwen's three axes) or [1, T] of the prefix and n_behind text tokens."""
    ids = torch.cat([prefix, torch.zeros(n_behind, dtype=torch.long)])[None]
    if hasattr(model.model, "get_rope_index"):
        side = SIDE // 14
        kinds = (ids == model.config.image_token_id).int()
        return model.model.get_rope_index(ids, kinds, image_grid_thw=torch.tensor([[1, side, side]]))[0]
    return torch.arange(ids.shape[1])[None]


class Packing:
    """One sequence: prefix with the image, then questions that do not see each other. Shapes are constant."""

    def __init__(self, model, prefix: list[int], n_questions: int, length: int, device: torch.device):
        self.prefix = torch.tensor(prefix, device=device)
        n, total = len(prefix), len(prefix) + n_questions * length
        one = positions(model, torch.tensor(prefix), length)
        self.positions = torch.cat([one[..., :n]] + [one[..., n:]] * n_questions, dim=-1).to(device)
        block = torch.full((total,), -1)
        block[n:] = torch.arange(n_questions).repeat_interleave(length)
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        seen = causal & ((block[None, :] == -1) | (block[None, :] == block[:, None]))
        self.mask = torch.zeros(1, 1, total, total, device=device)
        self.mask.masked_fill_(~seen.to(device), torch.finfo(torch.float32).min)

    def hidden(self, model, features: Tensor, ids: Tensor, keep: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return hidden states at the last prefix token and the questions' tokens: [B, 1 + n_questions*length, h].

        The final ones, and those after the layer MIDDLE.
        """
        batch, decoder = features.shape[0], model.model.language_model
        embed = model.get_input_embeddings()
        head = embed(self.prefix)[None].repeat(batch, 1, 1)
        image = self.prefix == model.config.image_token_id
        head = head.masked_scatter(image[None, :, None], features.to(head.dtype))
        inputs = torch.cat([head, embed(ids.reshape(batch, -1))], dim=1)
        shape = (*self.positions.shape[:-2], batch, self.positions.shape[-1])
        middle: list[Tensor] = []
        handle = decoder.layers[MIDDLE].register_forward_hook(
            lambda module, args, out: middle.append(out[0] if isinstance(out, tuple) else out)
        )
        with only_layers(decoder, keep):
            out = decoder(
                inputs_embeds=inputs,
                attention_mask=self.mask.expand(batch, -1, -1, -1).to(inputs.dtype),
                position_ids=self.positions.expand(shape),
                use_cache=False,
            )
        handle.remove()
        start = len(self.prefix) - 1
        return out.last_hidden_state[:, start:], middle[0][:, start:]


@contextlib.contextmanager
def only_layers(decoder, keep: list[int] | None):
    layers = decoder.layers
    if keep is not None:
        decoder.layers = nn.ModuleList([layers[i] for i in keep])
    try:
        yield
    finally:
        decoder.layers = layers


def answer_loss(model, hidden: Tensor, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted cross entropy of every token from the one before it, and how often an answer's first token is
    correct."""
    batch, n_questions, length = ids.shape
    last, behind = hidden[:, :1], hidden[:, 1:].reshape(batch, n_questions, length, -1)
    before = torch.cat([last[:, :, None].expand(-1, n_questions, -1, -1), behind[:, :, :-1]], dim=2)
    wanted = weight > 0
    logits = model.lm_head(before[wanted]).float()
    losses = F.cross_entropy(logits, ids[wanted], reduction="none")
    strength = weight[wanted]
    first = (weight == 1) & (F.pad(weight, (1, 0))[..., :-1] < 1)
    right = (logits.argmax(-1) == ids[wanted])[first[wanted]].float().mean()
    return (losses * strength).sum() / strength.sum(), right


def middle_loss(heads: nn.ModuleList, middle: Tensor, about: Tensor) -> Tensor:
    """Return the loss of subject, negation and truth, predicted from the last prompt token after the layer MIDDLE."""
    batch, n_questions, _ = about.shape
    tokens = middle[:, 1:].reshape(batch, n_questions, -1, middle.shape[-1])
    at = about[..., :1].unsqueeze(-1).expand(-1, -1, 1, middle.shape[-1])
    last = tokens.gather(2, at).squeeze(2).float().flatten(0, 1)
    labels = about[..., 1:].flatten(0, 1)
    return sum(F.cross_entropy(h(last), labels[:, k], ignore_index=-1) for k, h in enumerate(heads))


def self_check(model, processor, batches: Batches, packing: Packing) -> None:
    """Check that packed training sees what the model's own forward pass sees, for one question and one image."""
    pixels, shapes, colors = batches.pictures(0, 2)
    ids, _, valid, _ = batches.questions(0, shapes, colors)
    model.eval()
    with torch.no_grad():
        packed, _ = packing.hidden(model, model_features(model, processor, pixels), ids.to(model.device))
        n = int(valid[1, 2].sum())
        start = 1 + 2 * batches.length
        ours = model.lm_head(packed[1, start : start + n])
        whole = torch.cat([packing.prefix.cpu(), ids[1, 2, :n]])[None]
        inputs = image_inputs(processor, [pixels[1]])
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (whole == model.config.image_token_id).int()
        inputs = {k: v.to(model.device) for k, v in inputs.items()}
        theirs = model(input_ids=whole.to(model.device), **inputs).logits[0, -n:]
    model.train()
    if (ours - theirs).abs().max() > 1e-2 * theirs.abs().max():
        raise SystemExit(f"Packed and plain forward passes differ by {(ours - theirs).abs().max():.4f}.")


def model_features(model, processor, pixels: list[np.ndarray]) -> Tensor:
    inputs = {k: v.to(model.device) for k, v in image_inputs(processor, pixels).items()}
    return torch.stack(list(model.model.get_image_features(**inputs, return_dict=True).pooler_output))


def initialise(model, seed: int) -> None:
    """Scale weights by fan-in, and residual branches by depth: tiny models learn slowly from transformers' 0.02."""
    generator = torch.Generator().manual_seed(seed)
    depth = model.config.text_config.num_hidden_layers
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        std = 0.25 if "embed_tokens" in name else weight[0].numel() ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= math.sqrt(2 * depth)
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)


@torch.no_grad()
def begin_as(model, tokenizer, folder: Path) -> None:
    """Copy the decoder of another tiny model: tensors with the same name and shape, and the rows of known tokens."""
    from transformers import AutoModelForImageTextToText

    other = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    vocabulary = load_processor(folder).tokenizer.get_vocab()
    theirs, ours = zip(*[(vocabulary[t], i) for t, i in tokenizer.get_vocab().items() if t in vocabulary], strict=True)
    pairs = ((model.get_input_embeddings(), other.get_input_embeddings()), (model.lm_head, other.lm_head))
    for mine, its in pairs:
        mine.weight[list(ours)] = its.weight[list(theirs)]
    state = other.model.language_model.state_dict()
    layers = {
        k: v for k, v in state.items() if k in model.model.language_model.state_dict() and "embed_tokens" not in k
    }
    model.model.language_model.load_state_dict(layers, strict=False)
    print(f"{len(ours)} tokens' rows and {len(layers)} tensors of {folder.name}", flush=True)


def negated_share(step: int, tower: int, steps: int) -> float:
    """Return the share of negated questions: a tenth in the first half of the whole model's steps, then rising to the
    half that easy-VQA has."""
    at = (step - tower) / max(1, steps - tower)
    return float(np.clip(0.1 + 0.4 * (at - 0.5) / 0.1, 0.1, 0.5))


def kept_layers(n_layers: int, step: int, tower: int, args: argparse.Namespace) -> list[int]:
    """Return the layers of a step: all of them until the questions are understood, then a random choice of most of
    them."""
    if step < tower + 0.6 * (args.steps - tower):
        return list(range(n_layers))
    left_out = np.random.default_rng([args.seed, step, 2]).random(n_layers) < SKIP
    return [i for i in range(n_layers) if i == MIDDLE or not left_out[i]]


def learning_rate(step: int, tower: int, steps: int, peak: float) -> float:
    """Return the learning rate: warm-up and cosine for the tower's steps, and again for the whole model's."""
    at, span = (step, tower * 2) if step < tower else (step - tower, steps - tower)
    return peak * min(1.0, (at + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, at / span))))


def train(model, processor, out: Path, args: argparse.Namespace, device: torch.device) -> None:
    one_attention_call_for_all_images()
    initialise(model, args.seed)
    if args.decoder_from:
        begin_as(model, processor.tokenizer, args.decoder_from)
    model.to(device).train()
    width = model.config.text_config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, len(SHAPES)), nn.Linear(width, len(COLORS))]).to(device)
    middle_heads = nn.ModuleList([nn.Linear(width, n) for n in (len(TOPICS), 2, len(TOPICS))]).to(device)
    params = [*model.parameters(), *heads.parameters(), *middle_heads.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    state_path = out.parent / f"{out.name}.training.pt"
    begun, spent = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        middle_heads.load_state_dict(state["middle_heads"])
        optimizer.load_state_dict(state["optimizer"])
        begun, spent = state["step"], state["seconds"]
        print(f"resumed at step {begun}", flush=True)
    batches = Batches(processor, args.seed)
    packing = Packing(model, batches.prefix, QUESTIONS, batches.length, device)
    self_check(model, processor, batches, packing)
    tower = args.tower_steps
    n_layers = len(model.model.language_model.layers)
    started = saved = time.time()
    seen: list[list[float]] = []
    for step in range(begun, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, tower, args.steps, args.lr)
        pixels, shapes, colors = batches.pictures(step, IMAGES if step >= tower else 2 * IMAGES)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
            features = model_features(model, processor, pixels)
            pooled = features.float().mean(1)
            labels = [torch.from_numpy(v).to(device) for v in (shapes, colors)]
            attributes = sum(F.cross_entropy(h(pooled), y) for h, y in zip(heads, labels, strict=True))
            known = (heads[0](pooled).argmax(-1) == labels[0]).float().mean()
            if step < tower:
                loss, right = attributes, torch.zeros(())
            else:
                negated = 0.5 if args.decoder_from else negated_share(step, tower, args.steps)
                ids, weight, _, about = (t.to(device) for t in batches.questions(step, shapes, colors, negated))
                keep = kept_layers(n_layers, step, tower, args)
                hidden, middle = packing.hidden(model, features, ids, keep)
                loss, right = answer_loss(model, hidden, ids, weight)
                loss = loss + 0.2 * attributes + 0.2 * middle_loss(middle_heads, middle, about)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen.append([loss.item(), known.item(), right.item()])
        if (step + 1) % 50 == 0:
            mean = np.mean(seen, axis=0)
            seconds = spent + time.time() - started
            print(
                f"step {step + 1}/{args.steps}  loss {mean[0]:.4f}  shape heads {mean[1]:.3f}  answers {mean[2]:.3f}  "
                f"{(time.time() - started) / (step + 1 - begun):.2f} s/step  {seconds / 60:.1f} min",
                flush=True,
            )
            seen.clear()
        if time.time() - saved > SAVE_SECONDS or step + 1 == args.steps:
            saved = time.time()
            state = {"model": model.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"middle_heads": middle_heads.state_dict()}
            beside = state_path.with_suffix(".part")
            torch.save(state | {"step": step + 1, "seconds": spent + saved - started}, beside)
            os.replace(beside, state_path)


@torch.no_grad()
def evaluate(path: Path, device: torch.device, seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    """Return the accuracy of generated answers on easy-VQA's test split, with the correct images and with images
    swapped."""
    from transformers import AutoModelForImageTextToText

    processor = load_processor(path)
    processor.tokenizer.padding_side = "left"
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype).to(device).eval()
    asked = questions("test")
    paths = sorted({q.image for q in asked})
    pictures = {p: load_image(p) for p in paths}
    order = np.random.default_rng(seed).permutation(len(paths))
    swapped = {p: pictures[paths[k]] for p, k in zip(paths, order, strict=True)}
    scores = {}
    slow = device.type == "cpu" and not has_fast_bfloat16(device)
    with ExactBfloat16() if slow else contextlib.nullcontext():
        for name, images in (("accuracy", pictures), ("accuracy_swapped_images", swapped)):
            right = 0
            for at in range(0, len(asked), 64):
                some = asked[at : at + 64]
                turns = [
                    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q.text}]}] for q in some
                ]
                text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
                inputs = processor(
                    images=[[images[q.image]] for q in some], text=text, padding=True, return_tensors="pt"
                ).to(device)
                out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
                said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                right += sum(normalize(s) == q.answer for s, q in zip(said, some, strict=True))
            scores[name] = right / len(asked)
    return scores | {"n_questions": len(asked)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--tower-steps", type=int, default=1200, help="how many of these are for the vision tower only")
    parser.add_argument("--decoder-from", type=Path, help="a tiny model whose decoder to start from")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the model that exists")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not args.evaluate:
        args.out.mkdir(parents=True, exist_ok=True)
        model, processor = build(args.architecture, args.out, all_questions(), ANSWERS)
        train(model, processor, args.out, args, device)
        model.to("cpu", torch.bfloat16).save_pretrained(args.out)
    scores = evaluate(args.out, device, args.seed)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
