"""An upload that breaks off anywhere ends whole when it is run again: the real client against the little Hub."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hub_server import Fault, User, serve

REPO = "mira/files"
TOKEN = "hf_" + "t" * 34
DRIVER = Path(__file__).parents[1] / "support" / "publish_files.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two large files, of which one goes in parts, and two small ones."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for name, n_bytes in (("model.gguf", 2_500_000), ("mmproj.gguf", 400_000)):
        (folder / name).write_bytes(rng.bytes(n_bytes))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    (folder / "plan.json").write_text("{}\n")
    return folder


@contextmanager
def little_hub():
    with serve() as running:
        running.users[TOKEN] = User("mira")
        running.part_size = 1_000_000
        yield running


@pytest.fixture
def hub():
    with little_hub() as running:
        yield running


@contextmanager
def publishing(hub, folder, home):
    """Starts processes that publish the folder for every line that they are written."""
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = os.environ | ours | quiet | {"HF_HUB_DISABLE_XET": "1"}
    home.mkdir(exist_ok=True)
    with ExitStack() as started, (home / "stderr").open("w+") as errors:

        def start():
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            child = subprocess.Popen([sys.executable, DRIVER, folder, REPO], text=True, env=environment, **pipes)
            started.enter_context(child)
            started.callback(child.kill)
            return child

        yield start


@pytest.fixture
def start(hub, folder, tmp_path):
    with publishing(hub, folder, tmp_path) as start:
        yield start


def ask(child):
    child.stdin.write("\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def forget(hub):
    """A Hub on which nothing has happened yet."""
    for held in (hub.repositories, hub.objects, hub.parts, hub.requests):
        held.clear()


def undisturbed(hub, child) -> list[str]:
    """The requests of an upload into a new repository, in order."""
    forget(hub)
    assert len(ask(child)["sent"]) == 4
    return [line for line in hub.lines() if "agent-harnesses" not in line]  # asked once a day, for the client's own use


def assert_whole(hub, folder):
    """All files are there as they are here, and no commit shows half of them."""
    ours = {path.name: path.read_bytes() for path in folder.iterdir()}
    repository = hub.repositories[REPO]
    assert {name: repository.files[name] for name in ours} == ours
    for files in repository.commits.values():
        assert len(set(ours) & set(files)) in (0, len(ours)), sorted(files)


def once_each(lines):
    return sorted({lines.index(line) for line in lines})


def break_at_every_step(status, folder, home):
    with little_hub() as hub, publishing(hub, folder, home) as start:
        child = start()
        lines = undisturbed(hub, child)
        assert sum("/part/" in line for line in lines) == 3
        for position in once_each(lines):
            forget(hub)
            hub.faults = [Fault(lines[position], status)]
            first = ask(child)
            assert not hub.faults[0].times, lines[position]
            second = ask(child)
            assert "error" not in second, (lines[position], first, second)
            assert_whole(hub, folder)
            if "error" not in first:
                assert second["sent"] == []
        return len(lines)


def test_one_error_at_any_step_is_overcome_by_the_same_command_or_the_next(folder, tmp_path):
    """An error of the server, a connection cut before the work, and one cut after it, before the answer."""
    with ThreadPoolExecutor() as pool:  # they wait for the client, which waits before it tries again
        kinds = (500, "cut", "lost")
        tried = [pool.submit(break_at_every_step, kind, folder, tmp_path / str(kind)) for kind in kinds]
        assert all(one.result() > 12 for one in tried)


def test_what_arrived_before_a_kill_is_not_sent_again(hub, start, folder):
    later = start()
    lines = undisturbed(hub, later)
    for position in once_each(lines):
        forget(hub)
        child, seen = start(), iter(range(1000))
        hub.on_request = lambda line, at=position, seen=seen, child=child: (
            child.send_signal(signal.SIGKILL) if next(seen) == at else None
        )
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.wait(60) == -signal.SIGKILL
        hub.on_request = lambda line: None
        with hub.lock:
            before, hub.received = set(hub.objects), 0
        assert "error" not in ask(later)
        assert_whole(hub, folder)
        sizes = [path.stat().st_size for path in folder.glob("*.gguf")]
        assert hub.received <= sum(sizes) - sum(len(hub.objects[oid]) for oid in before)


def test_a_hub_that_asks_to_wait_is_waited_for(hub, start, folder):
    child = start()
    hub.faults = [Fault("/commit/", 429, headers={"Retry-After": "2"}), Fault("/commit/", 429), Fault("/commit/", 409)]
    told = ask(child)
    assert told["said"][:3] == [
        "the Hub answered 429; trying again in 2 s (1 of 4)",
        "the Hub answered 429; trying again in 2 s (2 of 4)",
        "the Hub answered 409; trying again in 4 s (3 of 4)",
    ]
    assert_whole(hub, folder)
    forget(hub)
    hub.faults = [Fault("/commit/", 429, headers={"Retry-After": "4000"})]
    told = ask(child)
    assert "asks to wait 4000 s" in told["error"]
    assert told["exit_code"] == 1


def test_somebody_who_commits_in_between_is_not_overwritten(hub, start, folder):
    child, repository = start(), hub.add(REPO)

    def interfere(line):
        if "/preupload/" in line and len(repository.commits) == 1:
            theirs = repository.files | {"theirs.md": b"kept"}
            repository.commits["f" * 40] = theirs
            repository.branches["main"] = "f" * 40

    hub.on_request = interfere
    told = ask(child)
    assert told["said"][0].startswith("the Hub answered 412")
    assert repository.files["theirs.md"] == b"kept"
    assert_whole(hub, folder)


def test_contents_that_are_not_those_that_may_be_replaced_stay(hub, folder, tmp_path):
    """A card that somebody changed after ours was merged with it."""
    repository = hub.add(REPO)
    repository.files["README.md"] = b"theirs"
    code = f"""
import hashlib
from pathlib import Path
from luq_gguf.core.errors import UploadError
from luq_gguf.publishing import access, publish
path, target = Path({str(folder / "README.md")!r}), access.Target({REPO!r})
file = publish.File(path, path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
for known in (b"before", b"theirs"):
    blob = hashlib.sha1(b"blob %d\\0" % len(known) + known).hexdigest()
    try:
        allowed = {{"README.md": frozenset([blob])}}
        publish.publish(target, access.check(target), [file], "m", print, replaceable=allowed)
    except UploadError as error:
        print(error.message)
"""
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith(f"{REPO} has README.md with contents that this run folder did not send")
    assert said[1].startswith("1 files are in")
    assert repository.files["README.md"] == (folder / "README.md").read_bytes()


@pytest.mark.parametrize("status", [401, 403])
def test_a_permission_that_is_lacking_after_all_is_told(hub, start, status):
    hub.faults = [Fault("/preupload/", status)]
    told = ask(start())
    assert "access token lacks permission" in told["error"]
    assert told["exit_code"] == 2
    assert not any(name.endswith(".gguf") for name in hub.repositories[REPO].files)


def test_what_arrived_otherwise_than_it_was_sent_is_told(hub, start, folder):
    child = start()

    def spoil(line):
        if "/commit/" in line:
            for oid in hub.objects:
                hub.objects[oid] = b"x" * len(hub.objects[oid])

    hub.on_request = spoil
    told = ask(child)
    assert "does not match what was sent: model.gguf" in told["error"] or "mmproj.gguf" in told["error"]


@pytest.mark.parametrize(
    ("where", "status", "words"),
    [
        ("info/lfs/objects/batch", 403, "Private repository storage limit reached, please upgrade your plan"),
        ("/commit/", 403, "You are not allowed to push: your account is pending verification"),
        ("info/lfs/objects/batch", 413, "Payload too large"),
    ],
)
def test_the_hubs_own_words_are_shown(hub, start, where, status, words):
    hub.faults = [Fault(where, status, headers={"X-Error-Message": f"{words}."})]
    told = ask(start())
    assert f"({status}: {words})" in told["error"] or f"({status}): {words}." in told["error"]
    assert "lacks permission" not in told["error"]


@pytest.mark.parametrize("where", ["/preupload/", "info/lfs/objects/batch", "GET /api/models/mira/files/revision"])
def test_an_hour_is_not_waited_for_whoever_is_asked(hub, start, where):
    """The client would sleep for as long as it is told, and then ask again."""
    hub.faults = [Fault(where, 429, 99, {"Retry-After": "3600"})]
    told = ask(start())
    assert "answered 429" in told["error"]
    assert told["exit_code"] == 1
    hub.faults = [Fault(where, 429, 99, {"ratelimit": '"api";r=0;t=3000'})]
    assert "answered 429" in ask(start())["error"]
