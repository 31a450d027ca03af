"""The wheel works without the clone: in an environment of its own that sees the packages already installed."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The environment's folder of programs; the clone is neither installed there nor the working folder."""
    folder = tmp_path_factory.mktemp("environment") / "environment"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (inside / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin"


@pytest.fixture
def command(installed, tmp_path):
    def run(*arguments, **environment):
        without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [installed / "luq-gguf", *arguments],
            cwd=tmp_path,
            env=without | environment,
            capture_output=True,
            text=True,
        )

    return run


def test_the_wheel_is_small_and_holds_no_build(wheel):
    assert wheel.stat().st_size < 11e6
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    assert {"luq_gguf/_demo.zip", "luq_gguf/_vendor/build.py", "luq_gguf/_vendor/llama.cpp.cmake"} <= names
    assert not [name for name in names if name.startswith(("tests/", "vendor/")) or "__pycache__" in name]


def test_convert_in_another_folder(command, calibration_file, models, tmp_path):
    shutil.copytree(models / "tiny-qwen2.5-vl", tmp_path / "tiny")
    arguments = ["--out", "out", "--low-layers", "6", "--low", "Q2_K", "--samples", "8"]
    done = command("convert", "tiny", *arguments, "--calib", calibration_file, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (tmp_path / result["model"]).is_file()
    assert (tmp_path / result["mmproj"]).is_file()


def test_what_is_missing_is_named_by_the_commands_of_the_wheel(command, tmp_path):
    nothing = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "LUQ_LLAMA_CPP": ""}
    done = command("doctor", "--json", **nothing)
    assert done.returncode == 1, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "luq-gguf setup" in checks["llama.cpp tools"]["hint"]
    assert "luq-gguf setup" in checks["libllama, libmtmd"]["hint"]
    assert "build.py" not in done.stdout
    assert "scripts/" not in done.stdout


def test_the_demo_has_its_model_and_questions(installed, models, tmp_path):
    """Rounded to 4 significant bits, but the same model, and questions of both splits."""
    code = (
        "from pathlib import Path; from luq_gguf.workflows import demo, easy_vqa\n"
        "model, data = demo.unpack('qwen2.5-vl', Path('here'))\n"
        "times = [path.stat().st_mtime_ns for path in model.iterdir()]\n"
        "demo.unpack('qwen2.5-vl', Path('here'))\n"
        "assert times == [path.stat().st_mtime_ns for path in model.iterdir()]\n"
        "assert Path(demo.__file__).is_relative_to(__import__('sys').prefix), demo.__file__\n"
        "print(len(easy_vqa.questions('train', data)), len(easy_vqa.questions('test', data)))\n"
        "easy_vqa.load_image(easy_vqa.questions('test', data)[-1].image)\n"
        "try: demo.unpack('llava-1.5', Path('here'))\n"
        "except Exception as error: print(error, error.hint)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [installed / "python", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers, refusal = done.stdout.splitlines()
    assert numbers == "256 9673"
    assert "llava-1.5 model is in the repository" in refusal
    from safetensors.torch import load_file

    ours, theirs = (
        load_file(folder / "tiny-qwen2.5-vl" / "model.safetensors") for folder in (models, tmp_path / "here")
    )
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        off = (weights.float() - theirs[name].float()).abs()
        assert (off <= weights.float().abs() / 16 + 1e-30).all(), name
