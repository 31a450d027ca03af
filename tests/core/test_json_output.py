"""JSON that every parser reads."""

import json

import pytest

from luq_gguf.core import json_input, json_output
from luq_gguf.core.errors import RunFolderError, VerificationError
from luq_gguf.run import serialization


def test_finite_numbers_are_written():
    assert json.loads(json_output.indented({"a": [1.5, None]})) == {"a": [1.5, None]}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_named_and_not_written(tmp_path, number):
    content = {"rows": [{"tps": 1.0}, {"tps": number}]}
    with pytest.raises(VerificationError, match=r"not finite at rows\[1\]\.tps"):
        json_output.indented(content)
    with pytest.raises(VerificationError):
        serialization.write_json(tmp_path / "bench.json", content)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_with_such_a_number_is_refused(tmp_path):
    (tmp_path / "eval.json").write_text('{"kld": NaN}')
    with pytest.raises(RunFolderError, match=r"eval\.json is not valid JSON"):
        serialization.read_json(tmp_path / "eval.json", "eval")
    assert json_input.parse("[NaN]") != []  # configs of Python programs may have them
