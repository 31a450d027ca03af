"""Families that people publish: a small random checkpoint of each computes in llama.cpp what it computes in
transformers. `scripts/check-families` does that for all of them; here are those that prove what others do not."""

import json
import os

import numpy as np
import pytest
from families import FAMILIES
from family_figures import QUESTION, convert_16_bit, environment, measure, missing_packages, pictures

from luq_gguf.core.errors import InputError
from luq_gguf.llamacpp.runtime.client import LlamaClient

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def only(condition):
    """The families that meet it."""
    chosen = [family for family in FAMILIES if condition(family)]
    return pytest.mark.parametrize("family", chosen, ids=lambda family: family.name)


def build(family, tmp_path):
    if missing := missing_packages(family):
        pytest.skip(f"{family.name} needs {', '.join(missing)}")
    return family.build(tmp_path / family.name)


def check(family, figures):
    print(f"{family.name}: {figures}")
    assert figures.kld <= family.largest_kld
    assert figures.same_top >= 0.98
    assert figures.expects > 0.02  # 1 / n_vocab is 0.002
    assert bool(figures.differences) == family.other_tokens, figures.differences
    if figures.between_pictures is not None:  # it sees them
        assert figures.between_pictures > max(1e-4, 3 * figures.kld)


@only(lambda family: family.whole_road)
def test_a_family_goes_the_whole_road(family, cli, tmp_path):
    model = build(family, tmp_path)
    shown = pictures(tmp_path, family.side, 8) if family.image else [None] * 8
    lines = [{"prompt": QUESTION, "answers": ["red"]} | ({"image": path.name} if path else {}) for path in shown]
    calibration = tmp_path / "calibration.jsonl"
    calibration.write_text("\n".join(map(json.dumps, lines)))
    book = tmp_path / "book.txt"
    book.write_text("is there a blue triangle? yes, there is one of them.\n" * 100)
    arguments = ("--calib", calibration, "--calib-text", book, "--samples", 12, "--low-layers", 1)
    arguments += ("--low", "IQ2_XXS", "--keep-f16")  # which needs an importance of every matrix, as IQ1_M does
    arguments += () if family.image else ("--check",)  # models with pictures: tests/workflows/test_against.py
    with environment(family, tmp_path):
        done = cli("convert", model, "--out", tmp_path / "run", *arguments, "--json", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["mmproj"] is None) == (not family.image)
    if not family.image:
        assert result["against"]["after"] is None
        assert result["against"]["before"]["kld"] <= family.largest_kld
    mmproj = result["mmproj"] and tmp_path / "run" / result["mmproj"]
    check(family, measure(family, model, tmp_path / "run" / f"{family.name}-F16.gguf", mmproj, tmp_path))
    with LlamaClient(tmp_path / "run" / result["model"], mmproj, n_ctx=512, threads=1) as runner:
        assert np.isfinite(runner.score(QUESTION, shown[0]).log_probabilities).all()


@only(lambda family: family.in_suite and not family.whole_road and not family.refused)
def test_the_16_bit_files_of_a_family_predict_what_transformers_predicts(family, tmp_path):
    model = build(family, tmp_path)
    with environment(family, tmp_path):
        files = convert_16_bit(model, tmp_path / "run")
    check(family, measure(family, model, *files, tmp_path))


@only(lambda family: family.in_suite and family.refused)
def test_the_preflight_says_why_it_refuses_a_family(family, tmp_path):
    model = build(family, tmp_path)
    with environment(family, tmp_path), pytest.raises(InputError) as refusal:
        convert_16_bit(model, tmp_path / "run")
    assert family.refused in str(refusal.value)
