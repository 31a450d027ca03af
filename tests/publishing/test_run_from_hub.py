"""What the card says about running the files, done: against the little Hub, by stock llama.cpp and llama-cpp-python."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from launch import free_port
from PIL import Image
from uploader import REPO

from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import reader

one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture
def published(upload, run):
    """Beside a plain Q4_K_M file of the same model, as publishers have them."""
    assert upload(run, "--create").returncode == 0
    files = upload.hub.repositories[REPO].files
    plain = next(run.glob("tiny-*-Q4_K_M.gguf"), None) or pytest.fail("bench --run makes a baseline")
    files[plain.name] = plain.read_bytes()
    upload.hub.requests.clear()
    return upload.hub


def card_lines(hub, beginning):
    text = hub.repositories[REPO].files["README.md"].decode()
    return next(line.strip() for line in text.splitlines() if line.strip().startswith(beginning))


def serve_once(command, environment, log: Path) -> dict:
    """What a llama-server says about itself when it is ready."""
    port = free_port()
    with log.open("w") as out:
        whole = [*command, "--port", str(port), "-c", "512", "--no-webui"]
        child = subprocess.Popen(whole, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and child.poll() is None:
                time.sleep(0.2)
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/props", timeout=5) as answer:
                        return json.load(answer)
                except OSError:
                    continue
            pytest.fail(log.read_text()[-2000:])
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize(
    ("tiny_model", "by"),
    [("tiny-llava-1.5", "card"), *(("tiny-qwen2.5-vl", by) for by in ("card", "LUQ6"))],
    indirect=["tiny_model"],
)
def test_llama_server_finds_the_file_and_its_eyes_and_not_the_imatrix(published, llama, tmp_path, by):
    said = card_lines(published, "llama-server").split()
    assert said[0] == "llama-server"
    command = [str(llama.tool("llama-server")), *said[1:]]
    if by != "card":
        command[command.index("-hf") + 1] = f"{REPO}:{by}"
    ours = {"MODEL_ENDPOINT": published.url, "LLAMA_CACHE": str(tmp_path / "cache")}
    props = serve_once(command, os.environ | ours, tmp_path / "log")
    assert props["modalities"]["vision"]
    fetched = sorted(set(published.fetched()))
    assert [name.startswith("mmproj-") for name in fetched] == [True, False]
    assert "-LUQ6-IQ1M-Q4KM-" in fetched[1]


@one_model
@pytest.mark.parametrize("tag", ["", ":Q4_K_M"])
def test_a_plain_file_beside_it_is_found_by_its_own_tag_and_without_one(published, llama, tmp_path, tag):
    name = next(
        path for path in published.repositories[REPO].files if path.endswith("-Q4_K_M.gguf") and "LUQ" not in path
    )
    ours = {"MODEL_ENDPOINT": published.url, "LLAMA_CACHE": str(tmp_path / "cache")}
    serve_once([str(llama.tool("llama-server")), "-hf", REPO + tag], os.environ | ours, tmp_path / "log")
    assert [file for file in published.fetched() if "mmproj" not in file] == [name]


def test_the_python_of_the_card_runs(published, upload, test_set, tmp_path):
    """A picture is fitted, then llama-cpp-python fetches both halves and answers a question about it."""
    text = published.repositories[REPO].files["README.md"].decode()
    picture, question, answer = test_set[0]
    Image.open(picture).save(tmp_path / "photo.jpg", format="PNG")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    code += f"""
import base64, pathlib
data = base64.b64encode(pathlib.Path("fitted.png").read_bytes()).decode()
parts = [{{"type": "image_url", "image_url": {{"url": "data:image/png;base64," + data}}}},
         {{"type": "text", "text": {question!r}}}]
said = llm.create_chat_completion([{{"role": "user", "content": parts}}], max_tokens=4, temperature=0)
print("SAID", said["choices"][0]["message"]["content"])
"""
    environment = upload.environment | {"PYTHONPATH": tools.bindings_environment()["PYTHONPATH"]}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert answer in done.stdout.split("SAID")[1]


@one_model
def test_a_file_too_large_for_the_hub_goes_in_shards(upload, run, llama, tmp_path):
    """The limit is the Hub's 50 GB; here it is a million bytes."""
    code = f"""
from pathlib import Path
from luq_gguf.publishing import upload as uploading
from luq_gguf.publishing.access import Target
for _ in range(2):
    done = uploading.upload(Path({str(run)!r}), Target({REPO!r}, create=True), largest=10**6)
    print(len(done.sent))
"""
    done = subprocess.run([sys.executable, "-c", code], env=upload.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[1] == "0", "the second run knows its shards without making them again"
    assert not (run / ".work" / "shards").exists()
    files = upload.hub.repositories[REPO].files
    shards = sorted(name for name in files if re.search(r"-LUQ6-.*-\d{5}-of-\d{5}\.gguf$", name))
    assert len(shards) > 1
    model = next(run.glob("*LUQ6*.gguf"))
    assert model.name not in files
    whole = reader.read(model)
    held = {}
    for name in shards:
        (tmp_path / name).write_bytes(files[name])
        held |= reader.read(tmp_path / name).types
    assert held == whole.types
    ours = {"MODEL_ENDPOINT": upload.hub.url, "LLAMA_CACHE": str(tmp_path / "cache")}
    said = card_lines(upload.hub, "llama-server").split()
    props = serve_once([str(llama.tool("llama-server")), *said[1:]], os.environ | ours, tmp_path / "log")
    assert props["modalities"]["vision"]


@one_model
def test_convert_publishes_what_it_makes_and_asks_the_hub_first(upload, converted, hub, tmp_path):
    where, arguments = ("--upload", REPO), converted.copy(tmp_path / "run").arguments

    def convert(*more):
        command = [sys.executable, "-m", "luq_gguf", *map(str, arguments), *where, *more]
        return subprocess.run(command, env=upload.environment, capture_output=True, text=True)

    refused = convert()
    assert refused.returncode == 2
    assert "--create" in refused.stderr
    done = convert("--create")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    digest = hashlib.sha256(hub.repositories[REPO].files[Path(told["model"]).name]).hexdigest()
    assert digest == told["sha256"]
    assert told["upload"]["repo"] == REPO
