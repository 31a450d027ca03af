"""What the profile stage writes of a finished pass. No model: the profile is made up."""

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import entropies
from msgspec import UNSET
from safetensors.numpy import load_file

from luq_gguf.calibration import stage
from luq_gguf.calibration.profiler import calibration_facts
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.profile_facts import EstimatorFacts
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import ImportanceMatrix, Profile, Sample
from luq_gguf.llamacpp.gguf import imatrix
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder

FACTS = calibration_facts(CalibrationData((), (), "a text", 3, 0.5, 0, "f" * 64, "set", "text"))
ESTIMATOR = EstimatorFacts(method="", k=2, seeds=(0,), spread="", token_vectors={}, capacity=2, dtype="float32")


@pytest.fixture
def run(tmp_path):
    with RunFolder(tmp_path / "run", create=True) as run:
        run.update(model="little")
        yield run


def write(run, sums, counts, facts=FACTS, n_samples=1, **arrays):
    """Write a profile of these sums; return the sentences that were told."""
    told = []
    matrix = ImportanceMatrix({"x": np.array(sums)}, {"x": np.array(counts)}, n_samples)
    profile = Profile("little", entropies(1.0), ESTIMATOR, replace(facts, n_text=1, n_tokens=4))
    stage.write_profile(run, (profile, matrix, arrays), Reporter(info=told.append))
    return told


def test_columns_that_were_never_active_have_some_importance_and_are_told(run):
    told = write(run, [[4.0, 0.0], [0.0, 0.0]], [4, 0])
    assert imatrix.read(run.file("imatrix.gguf")).in_sum2["x"].tolist() == [[4.0, pytest.approx(2e-6)], [0.0, 0.0]]
    assert len(told) == 1
    assert "0 for all tokens, 1 (x: 1) and experts' matrices that no token reached, 1 (x: 1)" in told[0]
    content = json.loads(run.file("profile.json").read_text())["calibration"]["never_active"]
    assert content == {"columns": {"x": 1}, "experts": {"x": [1]}}
    assert serialization.read_profile(run.file("profile.json")).calibration.never_active.experts == {"x": (1,)}


def test_nothing_is_told_where_everything_was_active(run):
    assert write(run, [[4.0, 1.0]], [4]) == []
    assert "never_active" not in json.loads(run.file("profile.json").read_text())["calibration"]


def test_arrays_are_written_as_they_are_and_not_as_their_memory_is(run):
    turned = np.arange(6.0).reshape(2, 3).T
    write(run, [[4.0, 1.0]], [4], turned=turned)
    assert load_file(run.file("profile.safetensors"))["turned"].tolist() == turned.tolist()


@pytest.mark.parametrize(("share", "told"), [(0.97, True), (0.15, False), (UNSET, False)])
def test_the_share_of_the_longest_sample_is_told_where_it_is_large(run, share, told):
    sentences = write(run, [[4.0, 1.0]], [4], replace(FACTS, largest_sample_share=share), n_samples=9)
    assert sentences == ["the longest of 9 samples has 97% of all tokens of the calibration"] * told


def test_samples_that_were_cut_are_told():
    sample, told = Sample("a"), []
    data = CalibrationData((), (sample,) * 5, None, 5, 0.0, 0, "", "set", n_cut=2, cut_at=512)
    stage.tell_skipped(data, Reporter(info=told.append))
    assert told == ["2 of 5 samples have more than 512 tokens of text: they are cut there"]
    assert calibration_facts(data).cut_samples == 2
