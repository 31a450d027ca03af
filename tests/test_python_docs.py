"""The examples of docs/python.md, in their order, in a folder as they expect it."""

import json
import re
from pathlib import Path

import pytest

import luq_gguf

TEXT = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_the_examples_run(converted, test_set, calibration_file, tmp_path, monkeypatch, capsys):
    """The run folder is that of a conversion which is done, so the numbers are what was asked of it."""
    run = converted.copy(tmp_path / "out")
    with (tmp_path / "questions.jsonl").open("w") as file:
        for image, prompt, answer in test_set[:4]:
            file.write(json.dumps({"image": str(image), "prompt": prompt, "answers": [answer]}) + "\n")
    monkeypatch.chdir(tmp_path)
    names = {"photos": luq_gguf.CalibrationSet(calibration_file, samples=64)}
    done = {
        '"checkpoints/my-model"': repr(str(run.arguments[1])),
        'CalibrationSet("photos.jsonl", samples=128)': "photos",
        '"photos.jsonl"': "photos",
        "low_layers=12": "low_layers=6",
    }
    for number, example in enumerate(EXAMPLES):
        for written, meant in done.items():
            example = example.replace(written, meant)
        exec(compile(example, f"docs/python.md, example {number}", "exec"), names)
    assert names["made"].to_json() == run.result | {"run_dir": "out"} | {
        key: f"out/{Path(run.result[key]).name}" for key in ("model", "mmproj")
    }
    assert names["measured"].n_samples == 4
    printed = capsys.readouterr()
    assert re.search(r"layer \d+ has \d\.\d\d bits", printed.out)
    assert "No file of" in printed.out, "the error's sentence"
    assert printed.err == ""
