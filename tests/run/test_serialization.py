import json
from dataclasses import replace

import pytest
from builders import entropies, model

from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.plan_quality import ComparedFile, LowestKld, MeasuredKld, PredictedKld
from luq_gguf.core.profile_facts import CalibrationFacts, EstimatorFacts
from luq_gguf.core.sweeps import MeterConditions
from luq_gguf.core.types import Budget, LayerEntropy, PredictedSpeed, Profile
from luq_gguf.method.two_type_plan import make_plan
from luq_gguf.run import serialization

PROFILE = Profile(
    "m",
    tuple(LayerEntropy(n, 5.5, 0.1, 900, {"multimodal": 5.0, "text": None}) for n in range(2)),
    EstimatorFacts(
        method="K-means", k=100, seeds=(0, 1), spread="std", token_vectors={"text": 900}, capacity=1000, dtype="float32"
    ),
    CalibrationFacts(
        sources=("easy", "book.txt"), images=None, text="book.txt", revisions={"easy": "c0"}, alpha=0.5, n_multimodal=4,
        n_text=4, n_tokens=900, seed=0, sha256="0f", skipped_images=("a.png",), chat_date="2026-01-01",
    ),
    {"seed-0": (1.0, 2.0), "seed-1": (2.0, 1.0)},
    {"seeds": -1.0},
)  # fmt: skip


def test_a_profile_reads_back(tmp_path):
    serialization.write_json(tmp_path / "profile.json", PROFILE.to_json() | {"of a later version": 1})
    assert serialization.read_profile(tmp_path / "profile.json") == PROFILE


def test_a_profile_of_the_first_version_has_its_sets_in_a_list(tmp_path):
    content = PROFILE.to_json()
    for key in ("images", "text", "revisions"):
        del content["calibration"][key]
    serialization.write_json(tmp_path / "profile.json", content)
    read = serialization.read_profile(tmp_path / "profile.json")
    assert (read.calibration.sets, read.calibration.commits) == (("easy", "book.txt"), {})
    assert read.to_json() == content


def test_a_plan_reads_back_and_has_the_contracts_keys(tmp_path):
    layers = entropies(3.0, 1.0, 2.0, 4.0)
    plan = make_plan(model(), [n.layer for n in layers], Budget(low_layers=2), "entropy", ((0, 1),))
    content = plan.to_json()
    serialization.write_json(tmp_path / "plan.json", content)
    assert serialization.read_plan(tmp_path / "plan.json") == plan
    relied_on = {"low", "high", "ranking", "low_layers", "tensor_types", "predicted_bytes", "near_ties"}
    assert relied_on <= set(content)


def test_what_was_measured_for_a_plan_reads_back_and_more_is_ignored(tmp_path):
    measured = MeasuredKld(0.1, 0.05, 0.2, MeterConditions("f16", "easy", "0f", 8, 0, "auto", 4, "IQ1_M", "Q4_K_M"))
    plan = replace(
        make_plan(model(), range(4), Budget(low_layers=2), "best"),
        predicted_kld=PredictedKld(0.1, 0.01, LowestKld(0.08, 0.07), 12, 4, 1, 300),
        measured_kld=measured,
        compared=(ComparedFile("uniform Q2_K", 9000, 0.3, 0.2, 0.4), ComparedFile("LUQ, 2 low", 8000, 0.2)),
        speed=PredictedSpeed(20.0, 90.0, 25.0, 100.0, 4, 512, 0.8, "Q4_K_M"),
    )
    content = plan.to_json()
    for entry in (content, content["measured_kld"], content["predicted_speed"], *content["compared"]):
        entry["of a later version"] = [1]
    serialization.write_json(tmp_path / "plan.json", content)
    assert serialization.read_plan(tmp_path / "plan.json") == plan


def test_a_plan_of_the_first_version_that_predicts_is_read(tmp_path):
    content = make_plan(model(), range(4), Budget(low_layers=2), "best").to_json()
    serialization.write_json(tmp_path / "plan.json", content | {"predicted_kld": {"value": 1, "error": 0.5}})
    assert serialization.read_plan(tmp_path / "plan.json").predicted_kld == PredictedKld(1.0, 0.5)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", json.dumps({"layers": [{}]})], ids=["missing", "cut", "list", "empty"]
)
def test_damaged_artefacts_name_the_command_that_makes_them(tmp_path, text):
    if text is not None:
        (tmp_path / "profile.json").write_text(text)
    with pytest.raises(RunFolderError, match="profile") as caught:
        serialization.read_profile(tmp_path / "profile.json")
    assert "luq-gguf profile" in caught.value.hint
