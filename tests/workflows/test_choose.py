"""Which file to run here: on a Hub on loopback, and in a folder."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess

import pytest
from hub_server import Hollow, serve

from luq_gguf.core.choice import FileNeed, Quality
from luq_gguf.core.errors import GGUFFileError
from luq_gguf.core.measurements import Divergence, EvalConditions, EvalResult
from luq_gguf.core.memory_use import ContextShape, ImageLimits, MemoryUse
from luq_gguf.llamacpp import server
from luq_gguf.llamacpp.gguf import header_only, outline, reader
from luq_gguf.workflows import choose, run_commands

NAME = "someone/little-GGUF"
QWEN = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True)  # once


def evaluation(name: str, kld: float, digest: str | None = None) -> dict:
    spread = Divergence(kld, None, None, kld, kld, kld, 50, 0.0, 0.0)
    return EvalResult(
        file=name, file_sha256=digest or "0" * 64, reference="F16.gguf", n_samples=50, metric=None, accuracy=None,
        kld=spread, kld_prompt=None, kld_answer=None, kld_text=None, same_top=None, perplexity=None, n_chunks=0,
        conditions=EvalConditions("easy-vqa", "ab" * 32, 32, None, None, "95%"),
    ).to_json()  # fmt: skip


@pytest.fixture
def files(converted, tmp_path):
    """A folder with a model of 3 GiB, which is nothing but a header, and one that is there, measured, in two shards."""
    folder = tmp_path / "files"
    folder.mkdir()
    info = reader.read(converted.f16)
    wide = 2**19  # rows of the feed-forward matrices, which make it as large as that

    def shape(told: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(wide if n == info.number("feed_forward_length") else n for n in told[::-1])

    tensors = {t.name: ("Q5_K" if wide in shape(t.shape) and len(t.shape) > 1 else t.type, shape(t.shape))
               for t in info.tensors}  # fmt: skip
    changes = {
        f"{info.arch}.feed_forward_length": wide,
        "general.description": "x" * 5 * 2**20,
    }  # as long as a vocabulary
    header_only.write(folder / "wide-Q5_K_M.gguf", converted.f16, tensors, changes)
    shutil.copy(converted.mmproj, folder)
    shutil.copy(converted.model, folder / "little-IQ1_M.gguf")
    return folder


def on_hub(hub, folder, names=None):
    """A repository with the files of a folder, large ones without what follows their header."""
    contents = {}
    for path in sorted(folder.iterdir()):
        if path.stat().st_size > 2**30:
            with path.open("rb") as file:
                contents[path.name] = Hollow.of(file.read(8 * 2**20), path.stat().st_size)
        else:
            contents[path.name] = path.read_bytes()
    repository = hub.add(NAME)
    repository.commits[repository.main].update(contents)
    return repository


def ask(child, hub, tmp_path, *more):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    return child("choose", NAME, "--ctx", 1024, *more, env=environment)


@QWEN
def test_a_repository_is_read_by_headers_alone(child, files, tmp_path):
    n_bytes = (files / "wide-Q5_K_M.gguf").stat().st_size
    assert n_bytes > 3 * 2**30
    digest = hashlib.sha256((files / "little-IQ1_M.gguf").read_bytes()).hexdigest()
    (files / "eval.json").write_text(json.dumps(evaluation("little-IQ1_M.gguf", 0.02, digest)))
    (files / "damaged-Q4_0.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 40)
    (files / "odd\x1b[2J.gguf").write_bytes(b"no GGUF file, and a name that would clear the screen")
    with serve() as hub:
        repository = on_hub(hub, files)
        done = ask(child, hub, tmp_path, "--memory", "8GiB", "--json")
        assert done.returncode == 0, done.stderr
        assert hub.sent["wide-Q5_K_M.gguf"] < 20 * 2**20
        assert sum(hub.sent.values()) < 25 * 2**20
        assert not list((tmp_path / "hf").rglob("*.gguf"))
        plain = ask(child, hub, tmp_path, "--memory", "1GiB")
        hub.ranges = False
        whole = ask(child, hub, tmp_path)
    told = json.loads(done.stdout)
    rows = {row["file"]: row for row in told["files"]}
    wide, little = rows["wide-Q5_K_M.gguf"], rows["little-IQ1_M.gguf"]
    assert wide["memory"]["weights_bytes"] == pytest.approx(n_bytes, rel=0.05)
    assert (wide["fits"], wide["quality"], wide["mmproj"]) == (True, None, "mmproj-tiny-qwen2.5-vl-F16.gguf")
    assert little["quality"]["kld"] == 0.02
    assert "claims to have" in rows["damaged-Q4_0.gguf"]["problem"]
    assert told["revision"] == repository.main
    assert told["best"] == "little-IQ1_M.gguf"
    assert "wide-Q5_K_M.gguf is larger and fits, too, but was not measured" in told["why"]
    assert told["commands"]["hf"].startswith(f"hf download {NAME} little-IQ1_M.gguf mmproj-tiny-qwen2.5-vl-F16.gguf ")
    assert "\x1b" not in plain.stdout + plain.stderr
    assert "odd\\x1b[2J.gguf" in plain.stdout
    assert "alone larger than the memory" in plain.stdout
    assert whole.returncode == 1
    assert "cannot be read in parts" in whole.stderr


@QWEN
def test_the_printed_command_runs(cli, llama, files, tmp_path):
    (files / "wide-Q5_K_M.gguf").unlink()
    done = cli("choose", files, "--ctx", 512, "--memory", "1GiB", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "no quality is known" in told["why"]
    program, *words = shlex.split(told["commands"]["llama-server"])
    assert words[words.index("--image-max-tokens") + 1] == "384"  # of the context, so that a question has room
    assert int(words[words.index("--cache-ram") + 1]) == (2**30 - told["files"][0]["memory"]["total_bytes"]) // 2**20
    port, log = server._free_port(), tmp_path / "log"
    with log.open("wb") as out:
        command = [llama.tool(program), *words, "--host", server.HOST, "--port", str(port)]
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            server._wait(running, port, files / "little-IQ1_M.gguf", log)
        finally:
            running.kill()
            running.wait()
    mtmd = shlex.split(told["commands"]["llama-mtmd-cli"])
    assert mtmd[0] == "llama-mtmd-cli"
    assert "--mmproj" in mtmd


@QWEN
def test_a_smaller_cache_is_taken_where_it_makes_the_file_fit(cli, files):
    (files / "wide-Q5_K_M.gguf").unlink()
    for half in files.glob("mmproj*"):
        half.unlink()
    ask = ("choose", files, "--ctx", 16384, "--json")
    roomy = json.loads(cli(*ask, "--memory", "1GiB").stdout)
    need = roomy["files"][0]["memory"]
    assert "-ctk" not in roomy["commands"]["llama-server"]
    assert "llama-mtmd-cli" not in roomy["commands"]
    tight = json.loads(cli(*ask, "--memory", str(need["total_bytes"] - need["kv_cache_bytes"] // 3)).stdout)
    assert "-ctk q8_0 -ctv q8_0" in tight["commands"]["llama-server"]
    assert tight["files"][0]["memory"]["kv_cache_bytes"] == need["kv_cache_bytes"] * 17 / 32
    tighter = json.loads(cli(*ask, "--memory", str(need["total_bytes"] - need["kv_cache_bytes"] * 3 // 5)).stdout)
    assert "-ctk q4_0 -ctv q4_0" in tighter["commands"]["llama-server"]
    none = cli(*ask[:-1], "--memory", "1MiB")
    assert none.returncode == 1
    assert "No file fits in 1.00 MiB of memory: little-IQ1_M.gguf needs the least" in none.stdout
    fixed = cli(*ask[:-1], "--memory", str(need["total_bytes"]), "-ctk", "q8_0", "-ctv", "q5_1", "--ollama")
    assert fixed.stdout.splitlines()[1:] == [
        f"FROM {files}/little-IQ1_M.gguf", "PARAMETER num_ctx 16384", f"PARAMETER num_thread {choose.machine.cores()}",
    ]  # fmt: skip


@QWEN
def test_a_file_in_shards_is_one_file(cli, llama, files):
    (files / "wide-Q5_K_M.gguf").unlink()
    (files / "little-IQ1_M.gguf").rename(files.parent / "little.gguf")
    whole = files.parent / "little.gguf"
    split = [llama.tool("llama-gguf-split"), "--split", "--split-max-tensors", "60", whole, files / "little"]
    subprocess.run(split, check=True, capture_output=True)
    told = json.loads(cli("choose", files, "--ctx", 512, "--memory", "2GiB", "--json").stdout)
    (row,) = told["files"]
    assert len(row["shards"]) > 1
    assert row["memory"]["weights_bytes"] == pytest.approx(whole.stat().st_size, rel=0.1)
    assert told["commands"]["llama-server"].startswith(f"llama-server -m {files}/little-00001-of-")
    refused = cli("choose", files, "--ctx", 512, "--memory", "2GiB", "--ollama")
    assert "which Ollama does not load" in refused.stderr
    (files / row["shards"][-1]).unlink()
    missing = cli("choose", files, "--ctx", 512, "--memory", "2GiB")
    assert f"1 of its {len(row['shards'])} shards are missing" in missing.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nothing", "has no GGUF files"),
        ("no place", "neither a folder nor the name of a repository"),
        ("a file", "is not a folder"),
        ("imatrix", "no GGUF file of a text model"),
    ],
)
def test_what_has_nothing_to_run_is_refused_in_a_sentence(cli, tmp_path, given, words):
    import gguf

    folder = tmp_path / "folder"
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "imatrix.gguf" if given == "imatrix" else tmp_path / "i.gguf", "imatrix")
    writer.add_string("general.type", "imatrix")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    done = cli("choose", {"a file": tmp_path / "i.gguf", "no place": tmp_path / "none"}.get(given, folder))
    assert done.returncode == 2
    assert words in done.stderr


def need(name: str, n_bytes: int, kld: float | None = None, accuracy: float | None = None, **facts) -> FileNeed:
    quality = None if kld is accuracy is None else Quality("vqa", "ab", "exact", 100, kld, accuracy, "eval.json")
    use = MemoryUse(n_bytes, 0, 0, 0, 0, 0)
    facts = {"fits": True, "memory": use, "context": ContextShape(512), "quality": quality} | facts
    return FileNeed(name, (name,), n_bytes, None, **facts)


def test_the_best_is_what_measured_best_else_the_largest():
    best, why = choose.best_of([need("large", 9, 0.3), need("middle", 7, 0.1), need("small", 3, 0.2)], 10)
    assert best.file == "middle"
    assert "best of 3 measured files" in why
    assert "KL divergence 0.1" in why
    best, _ = choose.best_of([need("large", 9, accuracy=0.7), need("small", 3, accuracy=0.8)], 10)
    assert best.file == "small"
    best, _ = choose.best_of([need("large", 9, 0.1, fits=False), need("small", 3, 0.2)], 5)
    assert best.file == "small"
    best, why = choose.best_of([need("large", 9), need("small", 3)], 10)
    assert best.file == "large"
    assert "largest file that fits" in why


@pytest.mark.parametrize(
    ("images", "n_ctx", "available", "limit"),
    [
        (None, 8192, 1000, None),
        (ImageLimits(None, None), 8192, 1000, None),
        (ImageLimits(4096, 2116), 8192, 1000, None),
        (ImageLimits(4096, 2116), 8192, 200, 2116),  # the largest one's buffers would be 375 bytes, not 100
        (ImageLimits(4096, 2116), 2048, 1000, 1536),
        (ImageLimits(1024, 256), 8192, 120, 256),
    ],
)
def test_images_are_limited_to_what_fits(images, n_ctx, available, limit):
    assert choose._image_limit(images, n_ctx, MemoryUse(10, 5, 1, 1, 100, 0), available) == limit


def test_a_command_line_quotes_names_and_says_what_the_memory_is_for():
    parts = run_commands.Parts("a/b c", "rev", 2, 2**30)
    row = need("x y.gguf", 2**29, memory=MemoryUse(2**29, 0, 0, 0, 0, 0, repacked_bytes=2**30))
    lines = run_commands.command_lines(row, parts)
    assert lines["hf"] == "hf download 'a/b c' 'x y.gguf' --local-dir './b c'"
    assert lines["llama-server"] == ("llama-server -m './b c/x y.gguf' -c 512 -t 2 --load-mode none --cache-ram 512")
    clear = need("a\nFROM evil.gguf", 3)
    assert run_commands.modelfile(clear, parts).splitlines()[0] == "FROM ./b c/a\\nFROM evil.gguf"


def test_a_header_that_claims_too_much_costs_a_megabyte(tmp_path):
    asked = []

    def read(start: int, end: int) -> bytes:
        asked.append(end - start)
        return (b"GGUF" + (3).to_bytes(4, "little") + (2**62).to_bytes(8, "little") * 2).ljust(end - start, b"\0")

    with pytest.raises(GGUFFileError, match="claims to have"):
        outline.write(tmp_path / "x.gguf", 3 * 2**30, read)
    assert sum(asked) <= 2**20
    key = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    key += (3).to_bytes(8, "little") + b"a.b" + (9).to_bytes(4, "little") + (8).to_bytes(4, "little")
    string = (2**20).to_bytes(8, "little") + b"x" * 2**20
    long = key + (100).to_bytes(8, "little") + string * 20

    def read_long(start: int, end: int) -> bytes:
        return long[start:end].ljust(end - start, b"\0")

    with pytest.raises(GGUFFileError, match="header of x.gguf is longer than 19 MiB"):
        outline.write(tmp_path / "x.gguf", 3 * 2**30, read_long)
    with pytest.raises(GGUFFileError, match="too short"):
        outline.write(tmp_path / "x.gguf", 5, read)
