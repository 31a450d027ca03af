"""Files that somebody made to do harm are refused in a sentence, or read: every parser that runs in our own process.

The same files through the command line are in tests/hostile/test_commands.py.
"""

import contextlib
import json
import os
import re
import resource
import signal
import time
import tracemalloc
from pathlib import Path

import hostile
import hostile_folders
import pytest
from PIL import Image
from rich.console import Console

import luq_gguf
from luq_gguf.core import images, sandbox_limits
from luq_gguf.core.errors import CalibrationError, CheckpointError, GGUFFileError, LuqError, RunFolderError
from luq_gguf.core.measurements import Figures
from luq_gguf.hf import checkpoint, datasets
from luq_gguf.llamacpp.gguf import imatrix, reader, validate
from luq_gguf.llamacpp.runtime import chat_template
from luq_gguf.reporting import type_map
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder

SECONDS = 30  # more than any of these may take: nearly all take milliseconds, the first imports transformers
# Right in structure, odd in what they say: these are read.
READ = {
    *("array-empty", "no-architecture", "architecture-a-number", "architecture-is-markup", "architecture-is-mathtext"),
    *("tensor-name-is-markup", "layers-a-text", "layers-huge", "layer-number-huge", "nothing-in-it"),
}


def refusal(kind: type[LuqError], parse) -> LuqError:
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        parse()
    assert time.monotonic() - started < SECONDS
    assert caught.value.hint
    assert len(caught.value.message) < 1000
    assert "\x1b" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", sorted(set(hostile.gguf_files()) - READ))
def test_a_bad_gguf_is_refused(tmp_path, name):
    (tmp_path / "a.gguf").write_bytes(hostile.gguf_files()[name])
    assert "a.gguf" in refusal(GGUFFileError, lambda: reader.read(tmp_path / "a.gguf")).message
    assert "a.gguf" in refusal(GGUFFileError, lambda: imatrix.read(tmp_path / "a.gguf")).message


@pytest.mark.parametrize("name", sorted(READ))
def test_an_odd_gguf_is_shown(tmp_path, name):
    (tmp_path / "a.gguf").write_bytes(hostile.gguf_files()[name])
    shown = type_map.TypeMap.of(reader.read(tmp_path / "a.gguf"))
    with (tmp_path / "out").open("w") as out:
        Console(file=out).print(type_map.table(shown))
    type_map.draw(shown, tmp_path / "a.png")
    assert json.dumps(shown.to_json())
    refusal(GGUFFileError, lambda: imatrix.read(tmp_path / "a.gguf"))


def test_every_cut_of_a_whole_gguf_is_refused(tmp_path):
    validate.check_bytes(hostile.WHOLE, "whole")
    for cut in range(len(hostile.WHOLE)):
        refusal(GGUFFileError, lambda cut=cut: validate.check_bytes(hostile.WHOLE[:cut], "cut"))


def test_a_gguf_of_a_gigabyte_of_nothing_takes_no_memory(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(hostile.gguf((hostile.entry("k", hostile.ARRAY, hostile.array(0, 2**30)),), n_entries=1))
    os.truncate(path, 2**30 + 4096)
    tracemalloc.start()
    refusal(GGUFFileError, lambda: reader.read(path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        hostile.imatrix(sums=float("nan")),
        hostile.imatrix(sums=float("inf")),
        hostile.imatrix(sums=-1.0),
        hostile.imatrix(count=float("nan")),
        hostile.imatrix(count=1e30),
        hostile.imatrix(kind=1),
    ],
    ids=["nan", "infinite", "negative", "count-nan", "count-huge", "16-bit"],
)
def test_an_imatrix_of_no_numbers_is_refused(tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    assert "a.gguf" in refusal(GGUFFileError, lambda: imatrix.read(tmp_path / "a.gguf")).message


def test_a_whole_imatrix_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(hostile.imatrix())
    assert imatrix.read(tmp_path / "a.gguf").in_sum2["a"].tolist() == [[1.0] * 32]


@pytest.mark.parametrize("name", hostile.safetensors_files())
def test_bad_safetensors_are_refused(tmp_path, name):
    (tmp_path / "a.safetensors").write_bytes(hostile.safetensors_files()[name])
    told = refusal(CheckpointError, lambda: checkpoint.safetensors_shapes(tmp_path / "a.safetensors"))
    assert told.message == "a.safetensors is truncated or damaged."


@pytest.mark.parametrize("name", hostile_folders.checkpoints())
def test_a_bad_checkpoint_is_refused_when_it_is_opened(tmp_path, models, name):
    folder = hostile_folders.copy_checkpoint(models / "tiny-qwen2.5-vl", tmp_path / "model")
    hostile_folders.checkpoints()[name](folder)
    before = sorted(folder.iterdir())
    told = refusal(CheckpointError, lambda: checkpoint.open_checkpoint(str(folder)))
    assert told.message.endswith(".")
    assert sorted(folder.iterdir()) == before


def test_a_claimed_shard_outside_is_not_opened(tmp_path, models, monkeypatch):
    """Also where it would be a good one."""
    folder = hostile_folders.copy_checkpoint(models / "tiny-qwen2.5-vl", tmp_path / "model")
    (tmp_path / "model.safetensors").write_bytes(hostile.safetensors(hostile.one_tensor()))
    hostile_folders.checkpoints()["index-outside"](folder)
    opened = []
    monkeypatch.setattr(checkpoint, "safetensors_shapes", lambda path: opened.append(path) or {})
    refusal(CheckpointError, lambda: checkpoint.open_checkpoint(str(folder)))
    assert opened == []


@pytest.mark.parametrize("name", hostile.question_files())
def test_bad_questions_are_refused(tmp_path, name):
    (tmp_path / "a.jsonl").write_bytes(hostile.question_files()[name])
    told = refusal(CalibrationError, lambda: datasets.read_questions(str(tmp_path / "a.jsonl"), None, 0, tmp_path))
    assert "a.jsonl" in told.message


def test_nothing_is_unpickled():
    """By the words of the source: no pickle, no torch.load, arrays of numbers only; templates in a sandbox only."""
    unsafe = re.compile(
        r"import pickle|import marshal|import shelve|import joblib|torch\.load|allow_pickle=True"
        r"|yaml\.(?!safe_load|YAMLError)"
    )
    loads, environments = [], []
    for path in Path(luq_gguf.__file__).parent.rglob("*.py"):
        source = path.read_text()
        found = unsafe.findall(source)
        assert not found, (path, found)
        loads += re.findall(r"np\.load\([^\n]*", source)
        environments += [path.name for _ in re.findall(r"jinja2\.Environment\(", source)]
    assert loads
    assert all("allow_pickle=False" in call for call in loads)
    assert environments == ["page.py"]  # our own template


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is not a file"):
        images.open_rgb(tmp_path / "a.png")


def _bomb(path, side: int) -> None:
    Image.new("1", (side, side)).save(path, "PNG")


@pytest.mark.parametrize("cut", [0, 1, 8, 20, 40, 100])
def test_a_cut_picture_is_refused(tmp_path, cut):
    path = tmp_path / "a.png"
    Image.linear_gradient("L").save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="cannot be read"):
        images.open_rgb(path)


def test_a_bomb_is_no_picture(tmp_path):
    _bomb(tmp_path / "a.png", 12_000)
    assert (tmp_path / "a.png").stat().st_size < 100_000
    with pytest.raises(ValueError, match="Bomb"):
        images.open_rgb(tmp_path / "a.png")


def test_postscript_is_no_picture_whatever_it_is_called(tmp_path):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(ValueError, match="UnidentifiedImageError"):
        images.open_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", "a\0b", ".."])
def test_a_run_folders_files_are_in_it(tmp_path, name):
    content = json.loads(hostile.RUN)
    content["stages"]["plan"]["outputs"] = {name: content["stages"]["plan"]["outputs"]["b"]}
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert "outside" in refusal(RunFolderError, RunFolder(tmp_path).read).message
    refusal(RunFolderError, lambda: RunFolder(tmp_path).is_done("plan", "a"))
    refusal(RunFolderError, lambda: RunFolder(tmp_path).changed("plan"))


@pytest.mark.parametrize("key", json.loads(hostile.PLAN))
@pytest.mark.parametrize("value", [None, "x", [], {}, [[]], {"a": []}, 1e999, -(10**400)], ids=repr)
def test_a_plan_with_one_wrong_value_is_read_or_refused(tmp_path, key, value):
    (tmp_path / "plan.json").write_text(json.dumps(json.loads(hostile.PLAN) | {key: value}))
    with contextlib.suppress(RunFolderError):
        assert serialization.read_plan(tmp_path / "plan.json").to_json()


@pytest.mark.parametrize(
    "template",
    [
        "{{ 10 ** 10 ** 9 }}",
        "{{ 'a' * 10 ** 1 }}",
        "{{ 'a' * 9999999999 }}",
        "{{ 'a' | center(9999999999) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_chat_template_ends(template, monkeypatch):
    monkeypatch.setattr(sandbox_limits.bounded.__wrapped__, "__defaults__", (1.0, 2**28))
    started, limits = time.monotonic(), resource.getrlimit(resource.RLIMIT_AS)
    alarm, _ = signal.getitimer(signal.ITIMER_REAL)  # pytest-timeout's
    with pytest.raises(ValueError, match="cannot be rendered"):
        chat_template.render(template, "What is this?", None)
    assert time.monotonic() - started < SECONDS
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert alarm - SECONDS < left <= alarm, "an alarm of somebody else's is still due"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ '%s' | format(self.__init__.__globals__) }}",
        "{{ range(10**9) | list }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception(1) }}",
        "{% for %}",
    ],
)
def test_a_chat_template_cannot_leave_its_sandbox(template):
    with pytest.raises(ValueError, match="cannot be rendered"):
        chat_template.render(template, "What is this?", None)


def test_tensors_are_read_alike_with_and_without_the_metadata(tmp_path):
    path = tmp_path / "whole.gguf"
    path.write_bytes(hostile.WHOLE)
    whole, tensors = reader.read(path), reader.read_tensors(path)
    assert tensors.tensors == whole.tensors
    assert tensors.header_bytes == whole.header_bytes


METRICS = dict.fromkeys(
    ("accuracy", "accuracy_change", "kld", "kld_answer", "kld_text", "same_top", "perplexity", "metric")
)
POINT = {"n_bytes": 1, "bpw": 2.0, "metrics": METRICS}
BAD_POINTS = {
    "list": [],
    "null": None,
    "nothing-in-it": {},
    "size-a-text": POINT | {"n_bytes": "1"},
    "size-a-fraction": POINT | {"n_bytes": 1.5},
    "size-huge": POINT | {"bpw": 10**400},
    "metrics-missing": {"n_bytes": 1, "bpw": 2.0},
    "metrics-a-list": POINT | {"metrics": [METRICS]},
    "kld-a-number": POINT | {"metrics": METRICS | {"kld": 0.1}},
    "kld-cut": POINT | {"metrics": METRICS | {"kld": {"mean": 0.1}}},
    "scores-a-number": POINT | {"metrics": METRICS | {"scores": 1}},
    "scores-of-words": POINT | {"metrics": METRICS | {"scores": "1 right 0"}},
    "scores-not-finite": POINT | {"metrics": METRICS | {"scores": "1 nan"}},
    "splits-a-list": POINT | {"metrics": METRICS | {"splits": [1]}},
    "splits-of-nothing": POINT | {"metrics": METRICS | {"splits": {"read": {}}}},
    "accuracy-of-lists": POINT | {"metrics": METRICS | {"accuracy": {"value": [], "low": [], "high": []}}},
}


@pytest.mark.parametrize("name", sorted(BAD_POINTS))
def test_measured_figures_of_another_shape_are_refused(tmp_path, name):
    path = tmp_path / "point.json"
    path.write_text(json.dumps(BAD_POINTS[name]))
    told = refusal(RunFolderError, lambda: serialization.read_value(path, Figures, "sweep"))
    assert told.message == f"{path} is not a valid luq-gguf point."
    assert told.hint == "Run luq-gguf sweep again."


def test_measured_figures_of_the_right_shape_are_read(tmp_path):
    (tmp_path / "point.json").write_text(json.dumps(POINT))
    assert serialization.read_value(tmp_path / "point.json", Figures, "sweep").n_bytes == 1
