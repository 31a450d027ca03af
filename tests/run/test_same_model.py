"""Which model a run folder is for, however it is spelled, and what made its stages."""

import json

import pytest

from luq_gguf import _version
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.reporter import Reporter
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import _tell_other_tools, claim, model_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "tq").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recorded(folder, model):
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "run.json").write_text(json.dumps({"model": model, "stages": {}}))


@pytest.mark.parametrize("first", ["tq", "absolute"])
@pytest.mark.parametrize("spelling", ["tq", "./tq", "tq/", "../{}/tq", "absolute"])
def test_a_folder_is_one_model_however_it_is_spelled(folder, first, spelling):
    def path(text):
        return str(folder / "tq") if text == "absolute" else text.format(folder.name)

    recorded(folder, path(first))  # as earlier versions kept it
    with RunFolder(folder / "run") as run:
        claim(run, path(spelling), overwrite=False)
        assert run.read()["model"] == str(folder / "tq")
        assert model_of(run) == str(folder / "tq")
        with pytest.raises(RunFolderError, match="contains a run of"):
            claim(run, "elsewhere", overwrite=False)


def test_a_hub_id_is_kept_as_it_is(folder):
    with RunFolder(folder / "run", create=True) as run:
        claim(run, "someone/little", overwrite=False)
        run.update(revision="0f0f")
        assert model_of(run) == "someone/little"


def test_a_relative_path_of_an_earlier_version_is_one_sentence_in_another_folder(folder, monkeypatch):
    recorded(folder, "models/tq")
    monkeypatch.chdir(folder / "elsewhere")
    with RunFolder(folder / "run") as run, pytest.raises(RunFolderError, match="made from models/tq, a path relative"):
        model_of(run)


def test_a_checkpoint_given_by_a_link_has_the_name_that_was_given(models, tmp_path):
    plain = open_checkpoint(str(models / "tiny-llava-1.5"))
    (tmp_path / "mine").symlink_to(models / "tiny-llava-1.5")
    linked = open_checkpoint(str(tmp_path / "mine") + "/")
    assert (linked.name, linked.fingerprint) == ("mine", plain.fingerprint)


def test_a_stage_is_recorded_with_what_made_it_and_runs_again_for_another_name(tmp_path):
    with RunFolder(tmp_path / "run", create=True) as run:
        run.versions["llama_cpp"] = "0.1"
        for name in ("a.gguf", "b.gguf"):
            assert run.run_stage("s", "key", [name], lambda name=name: run.file(name).touch())
        assert run.read()["stages"]["s"]["versions"] == {"luq_gguf": _version.__version__, "llama_cpp": "0.1"}


def test_another_llama_cpp_is_told_and_has_other_keys(tmp_path):
    sentences = []
    reporter = Reporter(info=sentences.append)
    with RunFolder(tmp_path / "run", create=True) as run:
        run.versions["llama_cpp"] = "0.1"
        run.run_stage("door", "key", [], lambda: None)
        _tell_other_tools(run, reporter)
        assert not sentences
        run.versions["llama_cpp"] = "0.2"
        _tell_other_tools(run, reporter)
    assert sentences == [f"{tmp_path / 'run'} was made with llama.cpp 0.1: what its tools made is made anew with 0.2"]
    for name in ("llama-quantize", "llama-bench", "convert_hf_to_gguf.py"):
        (tmp_path / name).write_text("1")
        (tmp_path / name).chmod(0o755)
    own = LlamaCpp(tmp_path, tmp_path / "convert_hf_to_gguf.py", pinned=False, libraries=None)
    before = tools.identity(own)
    assert tools.identity(own) == before
    (tmp_path / "llama-quantize").write_text("2")  # built again in the same place
    assert tools.identity(own) != before
