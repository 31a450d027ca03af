"""luq-gguf cache: what lies there, and that only what nobody uses is removed."""

import json
import subprocess
import sys

import pytest

from luq_gguf.llamacpp.recipe import vendor
from luq_gguf.workflows import caches

HOLD = (
    "import sys, time; from pathlib import Path; from luq_gguf.llamacpp.recipe import vendor\n"
    "{} = vendor('places').hold(Path(sys.argv[1])) if sys.argv[2] == 'lock' else open(sys.argv[1])\n"
    "print('there', flush=True); time.sleep(60)"
).format("held")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A cache with a current and an older build, older kernels, and one entry of each other kind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    root, recipe = tmp_path / "luq-gguf", vendor("build")
    for name, known in (("now", recipe._recipe()), ("older", "older")):
        (root / f"llama.cpp-{name}").mkdir(parents=True)
        (root / f"llama.cpp-{name}" / recipe.FACTS).write_text(json.dumps({"recipe": known}))
        (root / f"llama.cpp-{name}" / "libllama.so").write_bytes(bytes(1000))
    for name in ("kernels-older", "checkpoints", "eval", vendor("places").WORK, "building/killed", "unknown"):
        (root / name).mkdir()
    (root / "building" / "killed" / ".lock").touch()
    (root / "eval" / "q0.safetensors").write_bytes(bytes(10))
    return root


def listed(cli, *arguments):
    done = cli("cache", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["n_bytes"] == sum(entry["n_bytes"] for entry in content["entries"])
    return {entry["path"].rpartition("/")[2]: entry for entry in content["entries"]}


def test_what_lies_there_and_what_is_not_current(cli, root):
    entries = listed(cli)
    unused = {name for name, entry in entries.items() if not entry["current"]}
    assert unused == {"llama.cpp-older", "kernels-older", "killed"}
    assert set(entries) - unused == {"llama.cpp-now", "checkpoints", "eval", "unknown"}
    assert entries["killed"]["kind"] == caches.LEFTOVER
    assert entries["unknown"]["kind"] == "other"
    assert (entries["eval"]["n_items"], entries["eval"]["n_bytes"]) == (1, 10)
    assert entries["llama.cpp-older"]["n_bytes"] > 1000
    assert entries["eval"]["last_used"] == pytest.approx((root / "eval").stat().st_mtime, abs=60)
    assert not any(entry["in_use"] or entry["removed"] for entry in entries.values())


def test_clean_removes_what_is_not_current_and_all_everything(cli, root):
    removed = {name for name, entry in listed(cli, "--clean").items() if entry["removed"]}
    assert removed == {"llama.cpp-older", "kernels-older", "killed"}
    assert set(listed(cli)) == {"llama.cpp-now", "checkpoints", "eval", "unknown"}
    assert (root / "llama.cpp-now" / "libllama.so").exists()
    done = cli("cache", "--all")
    assert "were freed" in done.stdout
    assert listed(cli) == {}
    assert "is empty" in cli("cache", "--all").stdout


@pytest.mark.parametrize(("way", "file"), [("lock", "build.json"), ("open", "libllama.so")])
def test_what_another_process_uses_stays(cli, root, way, file):
    used = root / "llama.cpp-older" / file
    with subprocess.Popen([sys.executable, "-c", HOLD, str(used), way], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "there\n"
            entry = listed(cli, "--all")["llama.cpp-older"]
            assert entry["in_use"]
            assert not entry["removed"]
            assert used.exists()
            assert not (root / "llama.cpp-now").exists()
        finally:
            holder.kill()
    assert listed(cli, "--clean")["llama.cpp-older"]["removed"]


def test_the_build_that_this_process_uses_is_locked(llama):
    from luq_gguf.llamacpp import tools

    facts = tools.pinned_build() / vendor("build").FACTS
    code = "import sys; from pathlib import Path; import places; sys.exit(not places.in_use(Path(sys.argv[1])))"
    search = str(vendor("places").__file__).rpartition("/")[0]
    assert subprocess.run([sys.executable, "-c", code, facts], env={"PYTHONPATH": search}).returncode == 0
