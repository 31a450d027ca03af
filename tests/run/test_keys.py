"""Every key of what is kept: another one for each input that decides the result, the same for all that does not.

Files are larger than what is read of them at each look, and change in their middle under the same size and times.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders import model
from PIL import Image
from safetensors.numpy import save_file

from luq_gguf.benchmarking import type_benchmark
from luq_gguf.calibration import stage as calibration_stage
from luq_gguf.calibration.forward_pass import pass_key
from luq_gguf.core import machine
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.types import Budget
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.processor import PictureCheck
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.method import two_type_plan
from luq_gguf.planning.meter import Meter
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import preflight_cache
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import claim

SIZE = 4 * 2**20
PIN = {"version": "0.0.1", "sha256": "0" * 64}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(PictureCheck, "_image_processor", None)  # the checkpoint here has none


def large(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(bytes(SIZE))
    return path


def damage(path: Path) -> None:
    """Change a byte in the middle; size and times stay."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=times)


def touch(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, ns=(1, 1))


def other_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "pin", lambda: PIN)


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (16, 16), grey).save(path)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "models" / "little"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    save_file({"model.norm.weight": np.zeros(SIZE // 4, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def calib(tmp_path) -> Path:
    folder = tmp_path / "set"
    rows = []
    for number in range(6):
        picture(folder / f"{number}.png", 10 * number)
        rows.append({"image": f"{number}.png", "prompt": f"what is {number}?", "answers": ["red", "crimson"]})
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "set.jsonl"


def spec_of(folder: Path) -> SimpleNamespace:
    llama = LlamaCpp(folder, folder / "convert.py", pinned=True, libraries=None)
    checkpoint = open_checkpoint(str(folder))
    parts = {"tensors": model(), "imatrix_name": "imatrix.gguf", "file": None}
    return SimpleNamespace(checkpoint=checkpoint, llama=llama, **parts)


def the_plan():
    return two_type_plan.make_plan(model(), range(4), Budget(low_layers=2), "entropy")


@pytest.fixture
def target(tmp_path) -> EvalTarget:
    return EvalTarget(large(tmp_path / "files" / "model.gguf"), large(tmp_path / "files" / "mmproj-model.gguf"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: damage(t.model),
        lambda t, m: damage(t.mmproj),
        lambda t, m: {"mmproj": None},
        lambda t, m: {"max_tokens": 5},
        lambda t, m: {"top": 8},
        lambda t, m: {"answers": False},
        lambda t, m: other_pin(m),
    ],
    ids=["model", "mmproj", "no mmproj", "max_tokens", "top", "answers", "llama.cpp"],
)
def test_what_a_measurement_rests_on(target, monkeypatch, change):
    before = target.key()
    assert replace(target, **(change(target, monkeypatch) or {})).key() != before


@pytest.mark.parametrize(
    "change",
    [
        lambda t: touch(t.model.parent),
        lambda t: {"model": Path(shutil.copy(t.model, t.model.with_name("copy.gguf")))},
        lambda t: {"model": Path(os.path.relpath(t.model))},
        lambda t: {"threads": 3, "n_batch": 16, "n_ctx": 8192},
    ],
    ids=["touch", "copy", "relative path", "speed and room"],
)
def test_what_a_measurement_does_not_rest_on(target, change):
    before = target.key()
    assert replace(target, **(change(target) or {})).key() == before


def test_a_measurement_of_a_split_file_rests_on_all_shards(tmp_path):
    files = [large(tmp_path / f"m-{number:05d}-of-00003.gguf") for number in (1, 2, 3)]
    before = EvalTarget(files[0]).key()
    assert EvalTarget(files[2]).key() == before
    damage(files[1])
    assert EvalTarget(files[0]).key() != before


def test_what_is_asked_are_prompts_and_pictures_and_not_their_answers(calib, tmp_path):
    def read():
        return evaluation.read_data(
            str(calib), None, tmp_path / "none.gguf", n_samples=None, n_chunks=0, seed=0, cache=tmp_path
        )

    before = read()
    text = calib.read_text()
    calib.write_text(text.replace("crimson", "scarlet"))
    assert read().asked_sha256 == before.asked_sha256
    assert read().sha256 != before.sha256, "scores are of other answers"
    calib.write_text(text.replace("what is 3", "who is 3"))
    assert read().asked_sha256 != before.asked_sha256
    calib.write_text(text)
    touch(calib.parent)
    assert read() == before
    picture(calib.with_name("3.png"), 200)
    assert read().asked_sha256 != before.asked_sha256


@pytest.fixture
def profile_key(checkpoint, calib, tmp_path) -> Callable[..., str]:
    def key(folder: Path = checkpoint, **asked) -> str:
        calibration = CalibrationSet(**{"images": str(calib), "samples": 6} | asked)
        return calibration_stage.profile_key(SimpleNamespace(work=tmp_path / "work"), spec_of(folder), calibration)

    return key


@pytest.mark.parametrize("what", ["weights", "tokenizer", "config", "pictures", "prompt", "answer", "text"])
def test_contents_that_a_profile_rests_on(profile_key, checkpoint, calib, tmp_path, what):
    text = tmp_path / "text.txt"
    text.write_text("a text " * 100)
    asked = {"text": str(text)} if what == "text" else {}
    before = profile_key(**asked)
    changes = {
        "weights": lambda: damage(checkpoint / "model.safetensors"),
        "tokenizer": lambda: (checkpoint / "tokenizer.json").write_text("[]"),
        "config": lambda: (checkpoint / "preprocessor_config.json").write_text("{}"),
        "pictures": lambda: [picture(path, 255) for path in calib.parent.glob("*.png")],
        "prompt": lambda: calib.write_text(calib.read_text().replace("what", "who")),
        "answer": lambda: calib.write_text(calib.read_text().replace("red", "blue")),
        "text": lambda: text.write_text("another text " * 100),
    }
    changes[what]()
    assert profile_key(**asked) != before


def test_what_is_asked_of_a_profile(profile_key):
    asked = [{}, {"samples": 4}, {"alpha": 0.25}, {"seed": 1}, {"images": "owner/set"}, {"images": "owner/other"}]
    asked += [{"pixels": "deployed"}]
    assert len({profile_key(**one) for one in asked}) == len(asked)


def test_what_a_profile_does_not_rest_on(profile_key, checkpoint, calib, tmp_path, monkeypatch):
    before = profile_key()
    touch(checkpoint)
    touch(calib.parent)
    other_pin(monkeypatch)  # transformers makes it
    (checkpoint / "README.md").write_text("what the model is")
    (checkpoint / "picture.png").write_bytes(b"for the card")
    (checkpoint / "consolidated.safetensors.part").write_bytes(b"of a download")
    (calib.parent / "notes.txt").write_text("whose pictures these are")
    picture(calib.with_name("not named.png"), 7)
    calib.write_text(calib.read_text().replace("crimson", "scarlet"))  # the first answer is what is appended
    assert profile_key() == before
    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere" / "little")
    set_moved = shutil.copytree(calib.parent, tmp_path / "set elsewhere") / calib.name
    assert profile_key(moved, images=str(set_moved)) == before
    monkeypatch.chdir(tmp_path)
    assert profile_key(Path("models/../models/little"), images="set/set.jsonl") == before


def test_pictures_that_are_not_drawn_do_not_matter(profile_key, calib):
    keys = {}
    for number in range(6):
        before = profile_key(samples=4)
        picture(calib.with_name(f"{number}.png"), 100 + number)
        keys[number] = profile_key(samples=4) != before
    assert sum(keys.values()) == 2, "alpha is 0.5"


def test_deployed_pixels_rest_on_the_libmtmd_that_makes_them(profile_key, monkeypatch):
    before = profile_key(pixels="deployed")
    assert profile_key(pixels="deployed", alpha=0.25) != before
    other_pin(monkeypatch)
    assert profile_key(pixels="deployed") != before


def test_images_beyond_the_limit_change_the_key_with_libmtmd(profile_key, monkeypatch):
    before = profile_key()
    monkeypatch.setattr(calibration_stage.pixels, "sizes_beyond_limit", lambda *_: [(4000, 3000)])
    limited = profile_key()
    other_pin(monkeypatch)
    assert len({before, limited, profile_key()}) == 3


def test_what_a_saved_pass_rests_on(checkpoint, calib, tmp_path):
    import torch

    def key(**other) -> str:
        opened = open_checkpoint(str(checkpoint))
        read = calibration_stage.read_data(
            SimpleNamespace(work=tmp_path), CalibrationSet(str(calib), samples=6, **other), opened
        )
        return pass_key(opened, read, torch.float32)

    before = key()
    touch(checkpoint)
    assert key() == before != key(seed=1)
    damage(checkpoint / "model.safetensors")
    assert key() != before


@pytest.fixture
def keys_of_files(checkpoint, tmp_path) -> Callable[[], tuple[str, str]]:
    run = SimpleNamespace(file=lambda name: tmp_path / name)
    large(tmp_path / "imatrix.gguf")

    def keys(folder: Path = checkpoint, **other) -> tuple[str, str]:
        spec = spec_of(folder)
        return (
            quantization_stage.conversion_key(spec),
            quantization_stage.quantized_key(run, spec, replace(the_plan(), **other)),
        )

    return keys


@pytest.mark.parametrize("what", ["weights", "tokenizer", "card", "name", "llama.cpp"])
def test_what_files_rest_on(keys_of_files, checkpoint, monkeypatch, what):
    before, folder = keys_of_files(), checkpoint
    changes = {
        "weights": lambda: damage(checkpoint / "model.safetensors"),
        "tokenizer": lambda: (checkpoint / "tokenizer.json").write_text("[]"),
        "card": lambda: (checkpoint / "README.md").write_text("---\nlicense: other\n---\n"),
        "name": lambda: shutil.copytree(checkpoint, checkpoint.with_name("small")),
        "llama.cpp": lambda: other_pin(monkeypatch),
    }
    folder = Path(changes[what]() or checkpoint) if what == "name" else (changes[what](), checkpoint)[1]
    assert not set(keys_of_files(folder)) & set(before)


def test_what_a_quantized_file_rests_on_besides(keys_of_files, checkpoint, tmp_path):
    converted, before = keys_of_files()
    types = dict(the_plan().tensor_types) | {"token_embd.weight": "Q6_K"}
    assert len({before, keys_of_files(tensor_types=types)[1], keys_of_files(high="Q5_K_M")[1]}) == 3
    touch(checkpoint)
    touch(tmp_path)
    assert keys_of_files() == (converted, before)
    damage(tmp_path / "imatrix.gguf")
    assert keys_of_files()[1] != before, "somebody's own, or damaged, whatever run.json says of it"
    assert keys_of_files()[0] == converted


def test_what_a_point_of_a_sweep_rests_on(target, tmp_path, monkeypatch):
    large(tmp_path / "imatrix.gguf")
    pinned = LlamaCpp(tmp_path, tmp_path, pinned=True, libraries=None)

    def key(sha256: str = "data", metric: str = "vqa", **other) -> str:
        state = SimpleNamespace(
            _session=SimpleNamespace(imatrix=tmp_path / "imatrix.gguf"),
            _spec=SimpleNamespace(llama=pinned),
            _data=SimpleNamespace(sha256=sha256),
            _metric=metric,
            _reference=replace(target),
        )
        return Meter._key(state, replace(the_plan(), **other))

    before = key()
    touch(tmp_path)
    assert key() == before
    assert len({before, key("other"), key(metric="exact"), key(high="Q5_K_M"), key(tensor_types={})}) == 5
    for path in (target.model, target.mmproj, tmp_path / "imatrix.gguf"):
        damage(path)
        assert key() != before
        damage(path)
        assert key() == before
    other_pin(monkeypatch)
    assert key() != before


def test_what_the_preflight_rests_on(checkpoint, monkeypatch):
    def key(**how) -> str:
        spec = spec_of(checkpoint)
        return preflight_cache.key_of(replace(spec.checkpoint, **how), spec.llama)

    before = key()
    touch(checkpoint)
    damage(checkpoint / "model.safetensors")
    assert key() == before, "it reads no weights"
    assert key(name="other") != before
    (checkpoint / "README.md").write_text("another card")
    carded = key()
    assert carded != before
    save_file({"model.norm.weight": np.zeros(8, np.float32)}, checkpoint / "model.safetensors")
    shaped = key()
    assert shaped != carded
    (checkpoint / "merges.txt").write_text("a b")
    assert key() != shaped
    before = key()
    assert key(unused=frozenset({"lm_head.weight"})) != before, "weights decide what is left out"
    monkeypatch.setattr(preflight_cache, "CHECKS", preflight_cache.CHECKS + 1)
    checked = key()
    assert checked != before
    other_pin(monkeypatch)
    assert key() != checked


def test_a_run_is_of_one_folder_however_it_is_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunFolder(tmp_path / "run", create=True) as run:
        claim(run, "models/little", overwrite=False)
        assert run.read()["model"] == str(checkpoint)
        checkpoint.with_name("link").symlink_to(checkpoint)
        claim(run, str(checkpoint.with_name("link")), overwrite=False)
        before = run.read()["model"]
        with pytest.raises(RunFolderError, match="contains a run of"):
            claim(run, before, overwrite=False, subfolder="text")
        claim(run, before, overwrite=True, subfolder="text")
        claim(run, "models/link", overwrite=False, subfolder="text")
        with pytest.raises(RunFolderError, match=f"contains a run of {tmp_path}.*/text"):
            claim(run, "models/link", overwrite=False)


def test_a_picture_is_checked_once_for_each_processor(checkpoint, calib, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(PictureCheck, "__call__", lambda self, picture: checked.append(picture.getpixel((0, 0))[0]))

    def read() -> None:
        opened = open_checkpoint(str(checkpoint))
        asked = CalibrationSet(str(calib), samples=12)
        calibration_stage.read_data(SimpleNamespace(work=tmp_path), asked, opened)

    for _ in range(2):
        read()
        assert sorted(checked) == [0, 10, 20, 30, 40, 50]
    picture(calib.with_name("3.png"), 255)
    read()
    assert checked[6:] == [255]
    (checkpoint / "preprocessor_config.json").write_text("{}")
    read()
    assert len(checked) == 13


def test_what_a_build_of_ones_own_is_known_by(tmp_path):
    for name in ("bin/llama-quantize", "bin/llama-bench", "bin/libggml-cpu.so", "convert_hf_to_gguf.py"):
        large(tmp_path / "own" / name)
        (tmp_path / "own" / name).chmod(0o755)
    (tmp_path / "own" / "conversion").mkdir()
    (tmp_path / "own" / "conversion" / "qwen.py").write_text("pass")

    def identity(root: Path = tmp_path / "own") -> str:
        return tools.identity(LlamaCpp(root / "bin", root / "convert_hf_to_gguf.py", False, root / "bin"))

    before = identity()
    assert before != tools.identity()
    touch(tmp_path / "own")
    assert identity() == before == identity(shutil.copytree(tmp_path / "own", tmp_path / "installed"))
    for name in ("bin/llama-quantize", "bin/libggml-cpu.so", "convert_hf_to_gguf.py", "conversion/qwen.py"):
        damage(tmp_path / "own" / name)
        changed = identity()
        assert changed != before
        before = changed


def test_what_the_speed_of_types_rests_on(monkeypatch, llama):
    def key(threads: int = 1, used: int = 2, columns: int = 8) -> Path:
        tensors = [SimpleNamespace(name=f"blk.{n}.ffn_up.weight", shape=(columns, 256), n_weights=2048) for n in (0, 1)]
        source = SimpleNamespace(
            arch="llama", tensors=tensors, metadata={"llama.expert_count": 8, "llama.expert_used_count": used}
        )
        return type_benchmark._cache_path(type_benchmark.Geometry(source, model()), threads)

    monkeypatch.setattr(tools, "find", lambda: llama)
    before = key()
    assert key() == before
    assert len({before, key(threads=2), key(used=4), key(columns=16)}) == 4
    monkeypatch.setattr(machine, "cpu_name", lambda: "another")
    assert key() != before
    monkeypatch.undo()
    monkeypatch.setattr(tools, "find", lambda: llama)
    monkeypatch.setattr(tools, "pin", lambda: PIN)
    assert key() != before


def test_two_pictures_of_a_data_set_with_the_same_bytes_and_other_sides(tmp_path):
    from luq_gguf.hf import datasets

    rows = [{"image": Image.new("RGB", size, "red"), "question": "what?"} for size in ((4, 9), (9, 4))]
    wide, high = datasets.samples_from_rows(rows, 2, tmp_path)
    assert wide.image != high.image
