"""Families that people publish: a small random checkpoint of each goes the whole road and computes what it did."""

import json
import os
from contextlib import nullcontext

import numpy as np
import pytest
from families import FAMILIES, any_tokenizer_environment
from PIL import Image
from reference_answers import as_libmtmd_orders_clip, expectations, expectations_of_tokens

from luq_gguf.llamacpp.runtime import chat_template
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics.kld import kl_divergence, same_top

QUESTION = """what is the color of the circle in the picture?
is there a blue triangle, a yellow rectangle or a green one? the model reads the picture and answers with one word:
yes or no, the shape, or the color. it is red. is there none of them in the picture, and is there no circle?"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for side in {family.side for family in FAMILIES}:
        for n in range(8):
            blocks = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            blocks.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{side}-{n}.png")
    return folder


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_16_bit_file_expects_what_the_reference_model_expects(family, cli, llama, tmp_path, pictures):
    more = any_tokenizer_environment(tmp_path / "llama.cpp", llama) if family.byte_level else {}
    model = family.build(tmp_path / family.name)
    image = pictures / f"{family.side}-0.png" if family.image else None
    lines = [{"image": f"{family.side}-{n}.png", "prompt": QUESTION, "answers": ["red"]} for n in range(8)]
    calibration = pictures / f"{family.name}.jsonl"
    calibration.write_text("\n".join(map(json.dumps, lines)))
    book = tmp_path / "book.txt"
    book.write_text("is there a blue triangle? yes, there is one of them.\n" * 100)
    arguments = ("--calib", calibration, "--calib-text", book, "--samples", 12, "--low-layers", 1)
    arguments += ("--low", "IQ2_XXS", "--keep-f16")  # which needs an importance of every matrix, as IQ1_M does
    done = cli("convert", model, "--out", tmp_path / "run", *arguments, "--json", env=os.environ | more)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["mmproj"] is None) == (image is None)

    chat = chat_template.render(family.chat, QUESTION, "@@" if image else None)
    f16 = tmp_path / "run" / f"{family.name}-F16.gguf"
    mmproj = result["mmproj"] and tmp_path / "run" / result["mmproj"]
    with LlamaClient(f16, mmproj, n_ctx=512) as runner:
        ours = runner.score_text(chat.replace("@@", family.media), image)
    if family.name == "qwen2.5":  # transformers gives every qwen2 a byte-level tokenizer, which ours here is not
        reference = expectations_of_tokens(model, ours.tokens)
    else:
        with as_libmtmd_orders_clip() if family.name.startswith("llava") else nullcontext():
            wanted, reference = expectations(model, chat.replace("@@", family.image), image, set(family.drop))
        assert list(ours.tokens) == wanted
    kld, top = kl_divergence(reference, ours.log_probabilities), same_top(reference, ours.log_probabilities)
    print(f"{family.name}: {len(kld)} positions, mean KLD {kld.mean():.2e}, same top {top.mean():.1%}")
    assert kld.mean() < 1e-2
    assert top.mean() >= 0.98
    assert np.exp(reference).max(axis=1).mean() > 0.02  # it expects something: 1 / n_vocab is 0.002
    with LlamaClient(tmp_path / "run" / result["model"], mmproj, n_ctx=512) as runner:
        assert np.isfinite(runner.score_text(chat.replace("@@", family.media), image).log_probabilities).all()
