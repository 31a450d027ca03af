import json

import pytest
from builders import entropies, model

from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.types import Budget, LayerEntropy, Profile
from luq_gguf.method.two_type_plan import make_plan
from luq_gguf.run import serialization


def test_a_profile_reads_back(tmp_path):
    layer = LayerEntropy(0, 5.5, 0.1, 900, {"multimodal": 5.0, "text": None})
    profile = Profile("m", (layer,), {"k": 100}, {"alpha": 0.5})
    serialization.write_json(tmp_path / "profile.json", profile.to_json())
    assert serialization.read_profile(tmp_path / "profile.json") == profile


def test_a_plan_reads_back_and_has_the_contracts_keys(tmp_path):
    layers = entropies(3.0, 1.0, 2.0, 4.0)
    plan = make_plan(model(), [n.layer for n in layers], Budget(low_layers=2), "entropy", ((0, 1),))
    content = plan.to_json()
    serialization.write_json(tmp_path / "plan.json", content)
    assert serialization.read_plan(tmp_path / "plan.json") == plan
    relied_on = {"low", "high", "ranking", "low_layers", "tensor_types", "predicted_bytes", "near_ties"}
    assert relied_on <= set(content)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", json.dumps({"layers": [{}]})], ids=["missing", "cut", "list", "empty"]
)
def test_damaged_artefacts_name_the_command_that_makes_them(tmp_path, text):
    if text is not None:
        (tmp_path / "profile.json").write_text(text)
    with pytest.raises(RunFolderError, match="profile") as caught:
        serialization.read_profile(tmp_path / "profile.json")
    assert "luq-gguf profile" in caught.value.hint
