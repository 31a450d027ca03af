"""The trainer's forward pass and prompts are those of transformers and of the checkpoint's own processor."""

import numpy as np
import pytest
import torch

from instrument import checkpoints, draw
from instrument.network import Network
from instrument.prompts import LENGTH, Prompts
from instrument.splits import Asked
from luq_gguf.core.errors import LuqError
from luq_gguf.hf.processor import load_processor

N = 3  # questions behind a picture


@pytest.fixture(scope="module")
def samples():
    """Two pictures with three questions each."""
    drawn = [draw.sample(np.random.default_rng(seed), split) for seed, split in enumerate(("read", "chart"))]
    return [(sample.picture, sample.asked[:N]) for sample in drawn]


def chat(processor, asked, answer):
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.question}]}]
    if answer:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": asked.answer}]})
    return processor.apply_chat_template(turns, add_generation_prompt=not answer, tokenize=False)


def of_questions(prompts, samples):
    """ids [2, N, LENGTH] and sizes [2, N, 2]."""
    ids, sizes = prompts.rows([one for _, asked in samples for one in asked])
    return torch.from_numpy(ids).long().reshape(2, N, LENGTH), sizes.reshape(2, N, 2)


def ours(network, weights, pictures, ids):
    pixels = network.pixels(torch.from_numpy(np.stack(pictures)))
    with torch.no_grad():
        return network.logits(weights, network.tower(weights, pixels), ids, network.packing(ids.shape[1]))


def test_prompts_are_the_processors(tiny_model, samples):
    prompts, processor = Prompts.of(tiny_model), load_processor(tiny_model)
    for picture, asked in samples:
        for one in asked:
            whole, question = (
                [int(i) for i in processor(images=[picture], text=[chat(processor, one, answer)])["input_ids"][0]]
                for answer in (True, False)
            )
            tokens = prompts.tokens(one)
            assert [*prompts.prefix, *tokens.ids] == whole
            assert [*prompts.prefix, *tokens.ids[: -tokens.n_answer]] == question


def test_the_forward_pass_is_transformers_own(tiny_model, samples):
    from transformers import AutoModelForImageTextToText

    prompts, processor = Prompts.of(tiny_model), load_processor(tiny_model)
    network = Network.of(tiny_model, prompts, torch.device("cpu"))
    ids, sizes = of_questions(prompts, samples)
    found = ours(network, checkpoints.read_weights(tiny_model), [picture for picture, _ in samples], ids)
    model = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for i, (picture, asked) in enumerate(samples):
        for j, one in enumerate(asked):
            inputs = processor(images=[picture], text=[chat(processor, one, True)], return_tensors="pt")
            n = int(sizes[i, j, 0])
            with torch.no_grad():
                theirs = model(**inputs).logits[0, -n - 1 : -1]
            assert torch.allclose(found[i, j, :n], theirs, rtol=0, atol=1e-4)


def test_questions_about_a_picture_do_not_see_each_other(tiny_model, samples):
    prompts = Prompts.of(tiny_model)
    network = Network.of(tiny_model, prompts, torch.device("cpu"))
    weights = checkpoints.read_weights(tiny_model)
    ids, _ = of_questions(prompts, samples)
    pictures = [picture for picture, _ in samples]
    together = ours(network, weights, pictures, ids)
    for j in range(N):
        alone = ours(network, weights, pictures, ids[:, j : j + 1])
        assert torch.allclose(together[:, j], alone[:, 0], rtol=0, atol=1e-4)
    swapped = ours(network, weights, pictures[::-1], ids)
    assert not torch.allclose(together, swapped, rtol=0, atol=1e-2)  # the picture is seen


def test_what_is_longer_than_there_is_room_for_is_refused(tiny_model):
    with pytest.raises(LuqError, match="tokens together") as caught:
        Prompts.of(tiny_model).tokens(Asked("what " * 40 + "is it?", "nothing"))
    assert caught.value.hint


def test_tokens_of_other_checkpoints_have_another_digest(models, fresh):
    digests = {Prompts.of(folder).digest for folder in (fresh, *models.glob("tiny-*"))}
    assert len(digests) == 3
    assert Prompts.of(fresh).digest in digests
