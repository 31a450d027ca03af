"""Packages that transformers misses are named with the command that installs them here."""

import shlex
import sys
from pathlib import Path

import pytest
from packaging.version import Version
from transformers.utils import import_utils

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import packages
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.processor import refusals


def absent(monkeypatch, *backends):
    for backend in backends:
        message = import_utils.BACKENDS_MAPPING[backend][1]
        monkeypatch.setitem(import_utils.BACKENDS_MAPPING, backend, (lambda: False, message))


def required(*backends) -> ImportError:
    """What transformers raises where these are not installed."""
    with pytest.raises(ImportError) as caught:
        import_utils.requires_backends(object(), list(backends))
    return caught.value


@pytest.mark.parametrize(
    ("backends", "names"),
    [(["torchvision"], ("torchvision",)), (["timm", "cv2"], ("opencv-python", "timm"))],
)
def test_backends_of_transformers(monkeypatch, backends, names):
    absent(monkeypatch, *backends)
    assert sorted(packages.missing(required(*backends))) == sorted(names)


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (ImportError("Package `num2words` is required. Install it with `pip install num2words`."), ("num2words",)),
        (ImportError("This file requires einops, flash_attn. Run `pip install einops flash_attn`"),
         ("einops", "flash_attn")),
        (ModuleNotFoundError("No module named 'jieba.posseg'", name="jieba.posseg"), ("jieba",)),
        (ImportError("cannot import name 'a' from 'b'"), ()),
        (ValueError("None could be imported. Missing optional dependencies: torchvision, Pillow. Please install them."),
         ("torchvision", "pillow")),
        (ValueError("pip install nothing"), ()),
    ],
)  # fmt: skip
def test_other_errors(error, names):
    assert packages.missing(error) == names


def test_the_command_is_this_environments_and_leaves_torch_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = packages.install_line("torchvision")
    assert shlex.split(line)[:5] == [sys.executable, "-m", "pip", "install", "luq-gguf[vision]"]
    assert shlex.split(line)[5].startswith(("torch==", "torchvision==0."))
    assert packages._beside(Version("2.13.0+cpu")) == "torchvision==0.28.0+cpu"
    assert packages._beside(Version("2.13.0+cu130")) == "torch==2.13.0+cu130"
    assert packages._beside(Version("2.7.1")) == "torch==2.7.1"
    pip = Path(sys.executable).with_name("pip")
    if pip.exists():
        monkeypatch.setenv("PATH", str(pip.parent))
        assert packages.install_line("timm") == "pip install timm"


def test_a_refusal_is_one_sentence_with_the_command(models, monkeypatch):
    absent(monkeypatch, "torchvision")
    with pytest.raises(CheckpointError) as caught, refusals(open_checkpoint(str(models / "tiny-llava-1.5"))):
        raise required("torchvision")
    assert caught.value.message == "transformers needs torchvision for tiny-llava-1.5, which is not installed."
    assert caught.value.hint.startswith("Install it with: ")
    assert "'luq-gguf[vision]' torch" in caught.value.hint


def test_a_torchvision_for_another_torch_is_named_and_not_the_checkpoint(models):
    with pytest.raises(CheckpointError) as caught, refusals(open_checkpoint(str(models / "tiny-llava-1.5"))):
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'LlavaProcessor'.") from error
    assert "built for another torch: operator torchvision::nms does not exist." in caught.value.message
    assert "pip install" in caught.value.hint
