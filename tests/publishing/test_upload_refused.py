"""What `luq-gguf upload` refuses, and the ways around main: with one trained model, for it is the same with all."""

import hashlib
import json
import signal

import pytest
from hub_server import Fault, User
from uploader import REPO, TOKEN

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


def test_a_dry_run_sends_nothing_and_lists_everything(upload, hub, run):
    done = upload(run, "--create", "--private", "--dry-run", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "does not exist and would be created as private" in done.stdout
    assert "imatrix.gguf" in done.stdout
    assert REPO not in hub.repositories
    assert not [line for line in hub.lines() if not line.startswith("GET")]


@pytest.mark.parametrize(
    ("more", "why"),
    [({"HF_TOKEN": ""}, "not logged in"), ({"HF_HUB_OFFLINE": "1"}, "could not be reached")],
    ids=["no-token", "no-network"],
)
def test_a_dry_run_needs_neither_token_nor_network(upload, hub, run, more, why):
    done = upload(run, "--dry-run", **more, COLUMNS="200")  # long names are folded in a narrow terminal
    assert done.returncode == 0, done.stderr
    assert "imatrix.gguf" in done.stdout
    told = " ".join(done.stdout.split())
    assert f"not checked: whether {REPO} exists, what it has already, and whether you may write to it" in told
    assert why in told
    assert json.loads(upload(run, "--dry-run", "--json", **more).stdout)["unchecked"]
    assert upload(run, "--dry-run", repo="little", **more).returncode == 2
    assert not [line for line in hub.lines() if not line.startswith("GET")]


@pytest.mark.parametrize(
    ("change", "repo", "words"),
    [
        (lambda hub: None, REPO, ["does not exist", "--create"]),
        (lambda hub: None, "little", ["is not a valid repository name", "USER/NAME"]),
        (lambda hub: None, "stranger/model", ["not a member of stranger", "--create-pr"]),
        (lambda hub: None, "lab/model", ["role in lab is 'read'", "contributor"]),
        (lambda hub: hub.users.clear(), REPO, ["does not accept your access token (HF_TOKEN)", "write permission"]),
        (lambda hub: hub.users.update({TOKEN: User("mira", "read")}), REPO, ["read token", "write permission"]),
        (lambda hub: hub.users.update({TOKEN: User("mira", "fineGrained")}), REPO, ["does not have repo.write there"]),
        (lambda hub: hub.faults.append(Fault("whoami", 503)), REPO, ["answered 503"]),
    ],
    ids=["missing", "name", "stranger", "role", "unknown-token", "read-token", "fine-grained", "overloaded"],
)
def test_what_may_not_be_written_is_refused_before_anything_is_sent(upload, hub, run, change, repo, words):
    change(hub)
    done = upload(run, repo=repo)
    assert done.returncode in (1, 2)
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not [line for line in hub.lines() if not line.startswith("GET")]


def test_without_a_token_the_way_to_one_is_told(upload, run):
    done = upload(run, HF_TOKEN="")
    assert done.returncode == 2
    assert "not logged in" in done.stderr
    assert "hf auth login" in done.stderr


def test_a_fine_grained_token_and_an_organization_may_write(upload, hub, run):
    scoped = [{"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]}]
    orgs = [{"name": "lab", "roleInOrg": "contributor"}]
    hub.users[TOKEN] = User("mira", "fineGrained", orgs, scoped)
    done = upload(run, "--create", "--private", repo="lab/little")
    assert done.returncode == 0, done.stderr
    assert hub.repositories["lab/little"].private


def test_branches_and_pull_requests_leave_main_as_it_is(upload, hub, run):
    repository = hub.add(REPO)
    before = repository.main
    assert upload(run, "--revision", "luq6").returncode == 0
    assert any(name.endswith("/imatrix.gguf") for name in repository.commits[repository.branches["luq6"]])
    hub.users[TOKEN] = User("visitor")
    for _ in range(2):
        done = upload(run, "--create-pr", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pull_request"] == f"{hub.url}/{REPO}/discussions/1"
    assert len(repository.pull_requests) == 1, "the second run finds the first one's request"
    assert any(name.endswith("/imatrix.gguf") for name in repository.commits[repository.branches["refs/pr/1"]])
    assert repository.main == before


def _unfinished(run):
    record = json.loads((run / "run.json").read_text())
    del record["stages"]["quantize"]
    (run / "run.json").write_text(json.dumps(record))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _change_eval(run):
    content = json.loads((run / "eval.json").read_text())
    content["file_sha256"] = "0" * 64
    (run / "eval.json").write_text(json.dumps(content))


def _change_plan(run):
    """Two layers change places: as many low ones, and as many bytes, as in the file that was written."""
    plan = json.loads((run / "plan.json").read_text())
    low, high = plan["low_layers"][0], next(n for n in plan["order"] if n not in plan["low_layers"])
    plan["low_layers"][0] = high
    types = plan["tensor_types"]
    for name in [name for name in types if name.startswith(f"blk.{low}.")]:
        other = name.replace(f"blk.{low}.", f"blk.{high}.")
        types[name], types[other] = types[other], types[name]
    text = json.dumps(plan).encode()
    (run / "plan.json").write_bytes(text)
    record = json.loads((run / "run.json").read_text())
    fact = record["stages"]["plan"]["outputs"]["plan.json"]
    fact |= {"n_bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_unfinished, "no quantize stage"),
        (lambda run: _flip(next(run.glob("*LUQ6*.gguf"))), "not what run.json says"),
        (lambda run: next(run.glob("mmproj*.gguf")).unlink(), "missing"),
        (_change_eval, "eval.json describes a different"),
        (_change_plan, "not the plan that"),
    ],
    ids=["unfinished", "model-changed", "mmproj-gone", "eval-of-another", "plan-of-another"],
)
def test_a_folder_that_is_not_what_convert_left_is_refused(upload, hub, run, change, words):
    change(run)
    done = upload(run, "--create")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert hub.requests == []


def test_a_card_changed_by_hand_is_kept(upload, hub, run):
    assert upload(run, "--create").returncode == 0
    (run / "README.md").write_text((run / "README.md").read_text() + "\nMine.\n")
    done = upload(run)
    assert "changed by hand" in done.stderr
    assert hub.repositories[REPO].files["README.md"].endswith(b"Mine.\n")


def test_ctrl_c_in_the_middle_says_how_to_go_on(upload, hub, run):
    child = upload.start(run, "--create")
    hub.on_request = lambda line: child.send_signal(signal.SIGINT) if line.startswith("PUT") else None
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert "The same command resumes where this one stopped" in told
    assert "Traceback" not in told
    hub.on_request = lambda line: None
    assert not any(name.endswith(".gguf") for name in hub.repositories[REPO].files)
    assert upload(run, "--create").returncode == 0


def test_what_was_meant_to_be_private_does_not_go_into_a_public_repository(upload, hub, run):
    repository = hub.add(REPO)
    done = upload(run, "--private")
    assert done.returncode == 2
    assert "exists and is public" in done.stderr
    assert len(repository.commits) == 1
    repository.private = True
    assert upload(run, "--private").returncode == 0


def test_a_hub_that_cannot_be_asked_for_permission_is_asked_to_write(upload, hub, run):
    hub.add(REPO)
    hub.faults = [Fault("/auth-check/write", 404, times=9)]
    assert upload(run).returncode == 0


def test_options_of_publishing_without_a_place_to_publish_are_wrong_use(cli, tiny_model, tmp_path):
    done = cli("convert", tiny_model, "--out", tmp_path / "out", "--low-layers", 1, "--private")
    assert done.returncode == 2
    assert "need --upload" in done.stderr
    assert not (tmp_path / "out").exists()
