"""Checkpoints from the Hub: a real client against a small server on loopback."""

import json

import pytest
from families import by_name
from hub_server import commit_of, serve

from luq_gguf.core.errors import DownloadError
from luq_gguf.hf.checkpoint import open_checkpoint

NAME = "someone/little-llama"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random Llama in two shards with an index, and files of the same repository that are not needed."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import load_file, save_file

    family = by_name("llama")
    folder = family.build(tmp_path_factory.mktemp("hub") / "llama")
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 24_000}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # larger than the client's pieces of 10 MB
        rows = tensors[name].new_zeros(24_000 - len(tensors[name]), 256)
        tensors[name] = torch.cat([tensors[name], rows])
    shards = split_torch_state_dict_into_shards(tensors, max_shard_size="2MB")
    for name, held in shards.filename_to_tensors.items():
        save_file({key: tensors[key].clone() for key in held}, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": shards.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"another format")
    return folder


@pytest.fixture
def hub():
    with serve() as running:
        yield running


@pytest.fixture
def profile(child, hub, tmp_path):
    (tmp_path / "book.txt").write_text("is there a blue triangle? yes, there is one of them.\n" * 100)

    def run(name: str = NAME, url: str | None = None, *more: str):
        import os

        environment = os.environ | {
            "HF_ENDPOINT": url or hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        }
        arguments = ("profile", name, "--out", tmp_path / "run", "--calib-text", tmp_path / "book.txt", "--samples", 4)
        return child(*arguments, *more, "--json", env=environment)

    return run


def test_only_what_is_needed_is_fetched_and_the_commit_is_pinned(hub, profile, checkpoint, tmp_path):
    repository = hub.add(NAME, checkpoint)
    first = repository.main
    done = profile()
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["layers"]) == 2
    fetched = set(hub.fetched())
    assert {"config.json", "tokenizer.model", "tokenizer_config.json"} <= fetched
    assert {name for name in fetched if name.endswith(".safetensors")} == {p.name for p in checkpoint.glob("model-*")}
    assert not {name for name in fetched if name.endswith(".bin") or "/" in name}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["revision"] == first

    newer = repository.commits[first] | {"config.json": b"{}"}
    repository.commits[commit_of(newer)] = newer
    hub.requests.clear()
    again = profile()
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert hub.fetched() == []

    unreachable = profile(url="http://127.0.0.1:9")
    assert unreachable.returncode == 0, unreachable.stderr
    assert unreachable.stdout == done.stdout


def test_a_cut_connection_is_taken_up_again(hub, profile, checkpoint):
    hub.add(NAME, checkpoint)
    shard = max(checkpoint.glob("model-*"), key=lambda p: p.stat().st_size).name
    hub.cut[shard] = 11_000_000
    done = profile()
    assert done.returncode == 0, done.stderr
    asked = [span for verb, path, span in hub.requests if verb == "GET" and path.endswith(shard)]
    assert asked[0] is None
    assert int(asked[1].removeprefix("bytes=").split("-")[0]) >= 10_000_000


@pytest.mark.parametrize(
    ("status", "code", "sentence", "exit_code"),
    [
        (403, "GatedRepo", "is gated on the Hub. Accept its terms at", 2),
        (
            401,
            "RepoNotFound",
            "nor a model on the Hub that you have access to. Check the spelling; for a private model",
            2,
        ),
        (404, "RepoNotFound", "nor a model on the Hub that you have access to", 2),
        (418, "Teapot", "The Hub answered 418", 1),
    ],
)
def test_refusals_are_one_sentence_with_the_next_command(
    hub, profile, checkpoint, tmp_path, status, code, sentence, exit_code
):
    hub.add(NAME, checkpoint).refuse = (status, code)
    done = profile()
    assert done.returncode == exit_code, done.stderr
    told = " ".join(done.stderr.split())
    assert sentence in told
    assert "Traceback" not in told
    assert ("hf auth login" in told) == (exit_code == 2)


def test_no_network(profile):
    done = profile(url="http://127.0.0.1:9")
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "could not be downloaded from http://127.0.0.1:9" in told
    assert "run the same command again" in told


def test_nothing_large_is_fetched_of_what_cannot_be_converted(hub, profile, checkpoint, tmp_path):
    files = next(iter(hub.add(NAME, checkpoint).commits.values()))
    config = json.loads(files["config.json"]) | {"model_type": "never-heard-of"}
    files["config.json"] = json.dumps(config).encode()
    done = profile()
    assert done.returncode == 2
    assert "does not know the architecture" in done.stderr
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]
    assert not (tmp_path / "run").exists()


def test_pickles_alone_are_refused_unfetched(hub, profile, checkpoint):
    repository = hub.add(NAME, checkpoint)
    files = next(iter(repository.commits.values()))
    for name in [name for name in files if name.endswith(".safetensors") or "index" in name]:
        del files[name]
    done = profile()
    assert done.returncode == 2
    assert "only as pickles" in done.stderr
    assert hub.fetched() == []


def test_a_model_that_the_disk_cannot_hold_is_refused_before_its_weights(hub, profile, checkpoint):
    repository = hub.add(NAME, checkpoint)
    shard = max(checkpoint.glob("model-*"), key=lambda p: p.stat().st_size).name
    repository.claimed_sizes[shard] = 10**16
    done = profile()
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "GiB more, but the disk of the Hub cache has" in told
    assert "export HF_HOME=" in told
    assert shard not in hub.fetched()


def test_a_checkpoint_in_a_folder_of_its_repository(hub, profile, checkpoint, tmp_path):
    files = next(iter(hub.add(NAME, checkpoint).commits.values()))
    inner = {f"text/{name}": files.pop(name) for name in list(files) if "/" not in name}
    files |= inner | {"model.safetensors": b"of something else"}
    top = profile()
    assert top.returncode == 2
    assert "--subfolder" in top.stderr
    wrong = profile(NAME, None, "--subfolder", "nowhere")
    assert wrong.returncode == 2
    assert "Check the spelling of --subfolder" in wrong.stderr
    done = profile(NAME, None, "--subfolder", "text")
    assert done.returncode == 0, done.stderr
    assert all(name.startswith("text/") for name in hub.fetched())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["subfolder"], record["model"]) == ("text", NAME)
    hub.requests.clear()
    offline = profile(NAME, "http://127.0.0.1:9", "--subfolder", "text")
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == done.stdout


@pytest.fixture
def cached(models, tmp_path, monkeypatch):
    """A trained model as the Hub's client keeps it; its requests fail, for it is told to stay offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    entry, commit = tmp_path / "hub" / "models--mira--little-vl", "0123456789abcdef0123456789abcdef01234567"
    snapshot = entry / "snapshots" / commit
    for folder in (entry / "blobs", entry / "refs", snapshot):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted((models / "tiny-qwen2.5-vl").iterdir())):
        (entry / "blobs" / f"b{number}").symlink_to(path)
        (snapshot / path.name).symlink_to(f"../../blobs/b{number}")
    (entry / "refs" / "main").write_text(commit)
    return entry


def test_what_of_the_cache_is_missing_is_told_offline(cached):
    snapshot = next(cached.glob("snapshots/*"))
    assert open_checkpoint("mira/little-vl").name == "little-vl"

    def told() -> str:
        with pytest.raises(DownloadError) as caught:
            open_checkpoint("mira/little-vl")
        return caught.value.message + " " + caught.value.hint

    ref, commit = cached / "refs" / "main", snapshot.name
    ref.write_text(f"{commit}\n")
    assert "refs/main does not contain a commit alone" in told()
    ref.write_text("f" * 40)
    assert f"no snapshot {'f' * 40}" in told()
    ref.unlink()
    assert "refs/main is missing" in told()
    assert f"Give the folder instead: {snapshot}" in told()
    assert open_checkpoint(str(snapshot)).name == "little-vl"
    ref.write_text(commit)
    blob = (snapshot / "model.safetensors").readlink().name
    (cached / "blobs" / blob).unlink()
    assert f"model.safetensors has lost its contents (the blob {blob})" in told()
    (snapshot / "model.safetensors").unlink()
    assert "its weights are not in the cache" in told()
