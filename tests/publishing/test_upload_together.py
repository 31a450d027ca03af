"""Several files, people and measurements in one repository: what each has written stays."""

import json

import pytest
from uploader import REPO

from luq_gguf.core.speeds import BenchMachine
from luq_gguf.llamacpp import labels
from luq_gguf.publishing import card_table
from luq_gguf.run import serialization

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture
def files(upload, run):
    """The repository's files after a first upload, to be changed as people change them on the Hub."""
    done = upload(run, "--create")
    assert done.returncode == 0, done.stderr

    def now():
        return upload.hub.repositories[REPO].files

    return now


def luq_name(run):
    return next(run.glob("*-LUQ*.gguf")).name


def under_another_name(run):
    """A run folder whose file has the name that an older version gave it."""
    former, record = luq_name(run), json.loads((run / "run.json").read_text())
    name = f"{labels.folder_of(former).rsplit('-LUQ', 1)[0]}-LUQ6-IQ1_M-Q4_K_M.gguf"
    (run / former).rename(run / name)
    (run / "run.json").write_text(json.dumps(record).replace(former, name))
    for measured in ("eval.json", "bench.json"):
        (run / measured).write_text((run / measured).read_text().replace(former, name))
    return name


def test_a_card_edited_on_the_hub_is_kept_around_the_section_and_refused_within_it(upload, run, files):
    files()["README.md"] = files()["README.md"].replace(b"tags:", b"thumbnail: ours.png\ntags:") + b"\nOur own words.\n"
    (run / "eval.json").unlink()
    done = upload(run)
    assert done.returncode == 0, done.stderr
    card = files()["README.md"]
    assert b"thumbnail: ours.png" in card
    assert b"Our own words." in card
    assert b"mean KLD" not in card, "the section is that of now"
    edited = card.replace(b"## Run it", b"## Run it like this")
    files()["README.md"] = edited
    done = upload(run)
    assert done.returncode == 1
    assert f"The section about {labels.folder_of(luq_name(run))} in README.md of {REPO} was edited there" in done.stderr
    assert files()["README.md"] == edited
    assert upload(run, "--overwrite-card").returncode == 0
    assert b"like this" not in files()["README.md"]
    assert b"Our own words." in files()["README.md"]


def test_a_second_file_replaces_nothing_of_the_first(upload, run, files):
    first = dict(files())
    name = under_another_name(run)
    (run / "README.md").unlink()
    done = upload(run)
    assert done.returncode == 0, done.stderr
    now, folder = files(), labels.folder_of(name)
    assert {key: now[key] for key in first if key != "README.md"} == {
        k: v for k, v in first.items() if k != "README.md"
    }
    assert f"{folder}/plan.json" in now
    assert now["README.md"].count(b"<!-- luq-gguf: begin ") == 2
    assert f"`{folder}`" not in now["README.md"].decode(), "an older version left no recipe, so none is told"


def test_a_file_of_the_same_name_that_somebody_else_sent_is_not_replaced(upload, run, files):
    mmproj = next(run.glob("mmproj*.gguf")).name
    for record in ("upload", "card_sha256"):  # another run folder of the same model
        content = json.loads((run / "run.json").read_text())
        del content[record]
        (run / "run.json").write_text(json.dumps(content))
    files()[mmproj] = files()[mmproj][:-1] + b"\x01"
    (run / "README.md").unlink()
    done = upload(run)
    assert done.returncode == 1
    assert f"{REPO} has {mmproj} with contents that this run folder did not send; nothing was changed" in done.stderr


def test_local_and_remote_edits_of_the_card_meet(upload, run, files):
    (run / "README.md").write_text((run / "README.md").read_text() + "\nMine.\n")
    files()["README.md"] += b"\nTheirs.\n"
    done = upload(run)
    assert done.returncode == 1
    assert "changed by hand, and so was README.md in" in done.stderr
    assert files()["README.md"].endswith(b"Theirs.\n")
    assert upload(run, "--overwrite-card").returncode == 0
    assert files()["README.md"].endswith(b"Mine.\n")


@pytest.mark.parametrize(("before", "during"), [(0.89, 0.0), (0.0, 0.89), (0.05, 0.05)])
def test_a_bench_beside_other_work_says_so_on_the_card(run, before, during):
    content = json.loads((run / "bench.json").read_text())
    content["machine"] |= {"busy_share_before": before, "others_share_during": during}
    (run / "bench.json").write_text(json.dumps(content))
    bench = serialization.read_bench(run / "bench.json")
    assert isinstance(bench.machine, BenchMachine)
    sentence = card_table.busy(bench)
    assert (sentence is not None and "used up to 89% of this machine" in sentence) == (max(before, during) > 0.1)
