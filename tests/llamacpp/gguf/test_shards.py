"""Any shard of a file that llama-gguf-split has cut leads to the whole file, in all that reads one."""

import json
import shutil

import pytest

from luq_gguf.benchmarking import file_benchmark
from luq_gguf.core.errors import EvaluationError, GGUFFileError
from luq_gguf.core.hashing import sha256_of
from luq_gguf.diagnostics import verify
from luq_gguf.llamacpp import split
from luq_gguf.llamacpp.gguf import reader, shards

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def parts(llama, small, tmp_path_factory):
    found = split.split(llama, small.model, tmp_path_factory.mktemp("split") / "shards", 10**6)
    assert len(found) > 2
    return found


def test_all_shards_by_any_of_them(parts, small):
    assert {shards.files_of(part) for part in parts} == {tuple(parts)}
    assert shards.files_of(small.model) == (small.model,)
    whole, info = reader.read(small.model), shards.read(parts[1])
    assert info.types == whole.types
    assert info.bpw == whole.bpw
    assert info.path == parts[0]
    assert info.n_bytes == sum(part.stat().st_size for part in parts)
    assert info.metadata["general.name"] == whole.metadata["general.name"]
    assert shards.sha256(small.model) == sha256_of(small.model)
    assert shards.sha256(parts[0]) == shards.sha256(parts[2]) != sha256_of(parts[0])


def test_inspect_shows_the_whole_file(cli, parts, small):
    whole, *cut = (json.loads(cli("inspect", path, "--json").stdout) for path in (small.model, parts[0], parts[-1]))
    for shown in cut:
        assert shown["layers"] == whole["layers"]
        assert shown["bpw"] == whole["bpw"]
        assert shown["n_bytes"] > whole["n_bytes"]


def test_bench_and_its_memory_guard_count_all_shards(parts, small, monkeypatch):
    arms = [file_benchmark.make_arm(part) for part in parts]
    assert len(set(arms)) == 1
    assert arms[0].bpw == reader.read(small.model).bpw
    needed = arms[0].n_bytes + file_benchmark.HEADROOM
    monkeypatch.setattr(file_benchmark.machine, "available_bytes", lambda: needed - 1)
    with pytest.raises(EvaluationError, match="of memory"):
        file_benchmark.check_memory(arms[:1], allow_swap=False)
    monkeypatch.setattr(file_benchmark.machine, "available_bytes", lambda: needed)
    assert file_benchmark.check_memory(arms[:1], allow_swap=False)[0].fits


def test_verify_looks_into_every_shard(parts, tmp_path):
    copies = [shutil.copy(part, tmp_path / part.name) for part in parts]
    names = [check.name for check in verify.verify(copies[1], threads=1).checks if check.ok]
    assert {f"{part.name}: structure" for part in parts} < set(names)
    assert f"{parts[0].name}: logits" in names
    with copies[-1].open("r+b") as file:
        file.truncate(copies[-1].stat().st_size - 64)
    wrong = {check.name for check in verify.verify(copies[0], threads=1).checks if not check.ok}
    assert wrong == {f"{parts[-1].name}: structure"}


def test_eval_of_any_shard_is_of_the_whole_file(cli, parts, small, tmp_path):
    line = json.dumps({"prompt": "is there a circle?", "answers": ["yes"]})
    (tmp_path / "q.jsonl").write_text(line + "\n")
    how = ("--data", tmp_path / "q.jsonl", "--max-tokens", 2, "--ctx", 256, "--json")
    done = cli("eval", parts[1], "--reference", parts[2], *how)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["file"], told["file_sha256"]) == (parts[0].name, shards.sha256(parts[0]))
    assert told["kld"]["mean"] < 1e-6


def test_a_missing_shard_is_named(cli, parts, tmp_path):
    alone = shutil.copy(parts[0], tmp_path / parts[0].name)
    with pytest.raises(GGUFFileError, match=rf"{parts[1].name} and {len(parts) - 2} more are not in"):
        shards.read(alone)
    (check,) = verify.verify(alone).checks
    assert not check.ok
    for command in (("inspect", alone), ("eval", alone, "--data", tmp_path), ("bench", alone)):
        done = cli(*command)
        assert done.returncode == 2, done.stdout
        assert parts[1].name in done.stderr


def test_names_that_tell_nothing_of_shards(parts, small, tmp_path):
    renamed = shutil.copy(parts[1], tmp_path / "model.gguf")
    with pytest.raises(GGUFFileError, match="its name does not tell"):
        shards.read(renamed)
    whole = shutil.copy(small.model, tmp_path / "model-00001-of-00003.gguf")
    assert shards.read(whole).types == reader.read(small.model).types
