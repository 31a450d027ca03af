"""Families that people publish: a small random checkpoint of each computes in llama.cpp what it computes in
transformers. `scripts/check-families` does that for all of them; here are those that prove what others do not. All
tests of a family read one conversion."""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, NOT_SQUARE, Family
from family_figures import (
    LARGEST_FITTED,
    QUESTION,
    convert_16_bit,
    environment,
    measure,
    measure_gap,
    missing_packages,
    pictures,
    pictures_of,
)

from luq_gguf.core.errors import InputError
from luq_gguf.core.types import Sample
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.run.pictures import open_geometry


def only(condition, reason=lambda family: ""):
    """The families that meet it. Of those for which there is a reason the test fails, strictly: a change of llama.cpp
    or transformers is noticed."""
    marks = {
        family: [pytest.mark.xfail(reason=reason(family), strict=True, raises=AssertionError)] if reason(family) else []
        for family in FAMILIES
        if condition(family)
    }
    return pytest.mark.parametrize("family", [pytest.param(f, marks=m, id=f.name) for f, m in marks.items()])


def converts(family):
    return (family.whole_road or family.in_suite) and not family.refused


def reads_pictures(family):
    return converts(family) and bool(family.image)


def build(family, folder):
    if missing := missing_packages(family):
        pytest.skip(f"{family.name} needs {', '.join(missing)}")
    return family.build(folder / family.name)


@dataclass(frozen=True)
class Conversion:
    """A family's checkpoint with its 16-bit files, and what `convert` printed where it went the whole road."""

    family: Family
    folder: Path
    result: dict | None

    @property
    def model(self):
        return self.folder / self.family.name

    @property
    def f16(self):
        return self.folder / "run" / f"{self.family.name}-F16.gguf"

    @property
    def mmproj(self):
        return self.folder / "run" / f"mmproj-{self.family.name}-F16.gguf" if self.family.image else None

    def figures(self):
        return measure(self.family, self.model, self.f16, self.mmproj, self.folder)

    def gap(self):
        samples = [Sample(QUESTION, (picture,)) for picture in pictures_of(NOT_SQUARE, self.folder, 1)]
        checkpoint, files = open_checkpoint(str(self.model)), (self.f16, self.mmproj)
        with open_geometry(checkpoint, files) as geometry:
            return measure_gap(self.family.as_llama_cpp, checkpoint, files, geometry, samples, self.folder)


@pytest.fixture(scope="session")
def conversion_of(once, cli):
    """Builds and converts a family when the first test asks for it."""

    def make(family, folder):
        model = build(family, folder)
        with environment(family, folder):
            if family.whole_road:
                (folder / "result.json").write_text(go_the_whole_road(family, model, folder, cli))
            else:
                convert_16_bit(model, folder / "run")

    def find(family):
        folder = once(f"family-{family.name}", functools.partial(make, family))
        result = folder / "result.json"
        return Conversion(family, folder, json.loads(result.read_text()) if result.is_file() else None)

    return find


@pytest.fixture(scope="session")
def gap_of(conversion_of):
    """Measures what a family makes of a picture that is not square, once."""
    return functools.cache(lambda family: conversion_of(family).gap())


def go_the_whole_road(family, model, folder, cli):
    """Calibrate, quantize and keep the 16-bit files; returns what is printed."""
    shown = pictures(folder, family.side, 8) if family.image else [None] * 8
    lines = [{"prompt": QUESTION, "answers": ["red"]} | ({"image": path.name} if path else {}) for path in shown]
    calibration = folder / "calibration.jsonl"
    calibration.write_text("\n".join(map(json.dumps, lines)))
    book = folder / "book.txt"
    book.write_text("is there a blue triangle? yes, there is one of them.\n" * 100)
    arguments = ("--calib", calibration, "--calib-text", book, "--samples", 12, "--low-layers", 1)
    arguments += ("--low", "IQ2_XXS", "--keep-f16")  # which needs an importance of every matrix, as IQ1_M does
    arguments += () if family.image else ("--check",)  # models with pictures: tests/workflows/test_against.py
    done = cli("convert", model, "--out", folder / "run", *arguments, "--json", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(family, figures):
    print(f"{family.name}: {figures}, between pictures {figures.between_pictures}")
    assert figures.kld <= family.largest_kld
    assert figures.same_top >= 0.98
    assert figures.expects > 0.02  # 1 / n_vocab is 0.002
    assert bool(figures.differences) == family.other_tokens, figures.differences
    if figures.between_pictures is not None:  # it sees them
        assert figures.between_pictures > 10 * family.largest_kld


@only(lambda family: family.whole_road)
def test_a_family_goes_the_whole_road(family, conversion_of, tmp_path):
    made = conversion_of(family)
    assert (made.result["mmproj"] is None) == (not family.image)
    if not family.image:
        assert made.result["against"]["after"] is None
        assert made.result["against"]["before"]["kld"] <= family.largest_kld
    check(family, made.figures())
    shown = pictures(tmp_path, family.side, 1)[0] if family.image else None
    with LlamaClient(made.folder / "run" / made.result["model"], made.mmproj, n_ctx=512, threads=1) as runner:
        assert np.isfinite(runner.score(QUESTION, shown).log_probabilities).all()


@only(lambda family: converts(family) and not family.whole_road)
def test_the_16_bit_files_of_a_family_predict_what_transformers_predicts(family, conversion_of):
    check(family, conversion_of(family).figures())


@only(reads_pictures, lambda family: family.libmtmd_differs)
def test_a_picture_that_is_not_square_is_the_same_to_both(family, gap_of):
    gap = gap_of(family)
    print(f"{family.name}: KLD {gap.as_is:.1e} as is, {gap.views}")
    assert gap.as_is <= min(LARGEST_FITTED, family.largest_kld)


@only(reads_pictures, lambda family: family.not_fitted)
def test_a_fitted_picture_is_the_same_to_both(family, gap_of):
    gap = gap_of(family)
    print(f"{family.name}: KLD {gap.fitted} fitted")
    assert not gap.refusal
    assert gap.fitted <= min(LARGEST_FITTED, family.largest_kld)
    assert not gap.fitted_limits


@only(lambda family: family.in_suite and family.refused)
def test_the_preflight_says_why_it_refuses_a_family(family, tmp_path):
    model = build(family, tmp_path)
    with environment(family, tmp_path), pytest.raises(InputError) as refusal:
        convert_16_bit(model, tmp_path / "run")
    assert family.refused in str(refusal.value)
