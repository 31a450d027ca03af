"""recipe.json, done by hand: with llama.cpp's own programs, and nothing of luq-gguf."""

import hashlib
import json
import shutil
import subprocess

import pytest

from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_planned

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture
def recipe(small):
    return json.loads((small.folder / "recipe.json").read_text())


@pytest.fixture
def downloads(small, tmp_path, recipe):
    """A folder with what the card tells people to download, after comparing it with the hashes of the recipe."""
    for name, digest in recipe["inputs"].items():
        shutil.copy(small.folder / name, tmp_path)
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    return tmp_path


def data_of(path):
    return path.read_bytes()[reader.read(path).header_bytes :]


def test_the_commands_make_the_same_file_from_the_checkpoint(small, llama, tiny_model, recipe, downloads):
    convert, quantize = recipe["commands"]["convert"], recipe["commands"]["quantize"]
    words = [str(tiny_model) if word == "CHECKPOINT" else word for word in convert[1:]]
    environment = tools.python_environment()
    subprocess.run([tools.python(), llama.converter, *words], cwd=downloads, check=True, env=environment)
    subprocess.run([llama.tool("llama-quantize"), *quantize[1:]], cwd=downloads, check=True)
    assert (
        hashlib.sha256((downloads / small.model.name).read_bytes()).hexdigest() == recipe["outputs"][small.model.name]
    )


def test_tensor_types_alone_make_the_same_tensor_data(small, llama, downloads):
    """As in a command that somebody writes from tensor-types.txt and imatrix.gguf, without any other option."""
    command = [llama.tool("llama-quantize"), "--imatrix", "imatrix.gguf", "--tensor-type-file", "tensor-types.txt"]
    subprocess.run([*command, small.f16, "by-hand.gguf", "Q4_K_M"], cwd=downloads, check=True)
    assert reader.read(downloads / "by-hand.gguf").tensors == reader.read(small.model).tensors
    assert data_of(downloads / "by-hand.gguf") == data_of(small.model)


def test_a_recipe_names_what_it_needs_and_no_folder_of_this_machine(small, recipe):
    assert recipe["checkpoint"]["luq.checkpoint"] == reader.read(small.model).metadata["luq.checkpoint"]
    assert set(recipe["inputs"]) == {"imatrix.gguf", "tensor-types.txt"}
    assert set(recipe["outputs"]) == {small.model.name, small.mmproj.name}
    assert str(small.folder) not in json.dumps(recipe)
    assert {"luq-gguf", "llama.cpp", "llama.cpp sha256"} <= set(recipe["versions"])


def test_base_model_and_licence_are_in_both_headers_whose_size_is_predicted(small, cli, tmp_path):
    run = small.copy(tmp_path / "run").folder
    record = json.loads((run / "run.json").read_text())
    record |= {"base_model": "Owner/Little-VL", "licence": {"license": "apache-2.0"}}
    (run / "run.json").write_text(json.dumps(record))
    done = cli("quantize", run, "--keep-f16", "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    text, vision = (reader.read(run / path.name) for path in (small.model, small.mmproj))
    for header in (text, vision):
        assert header.metadata["general.license"] == "apache-2.0"
        assert header.metadata["general.base_model.0.repo_url"] == "https://huggingface.co/Owner/Little-VL"
    with RunFolder(run) as held:
        session, _ = open_planned(held, None)
        profile = serialization.read_profile(held.file("profile.json"))
        assert session.with_dataset(profile).spec.tensors.header_bytes == text.header_bytes
