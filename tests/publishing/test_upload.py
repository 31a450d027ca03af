"""`luq-gguf upload`: a real run folder, the real client, and a small Hub on loopback."""

import hashlib
import json
import re

import pytest
from builders import point_of
from uploader import REPO, TOKEN

from luq_gguf.core.sweeps import MeterConditions, Sweep
from luq_gguf.llamacpp import converter_child, labels
from luq_gguf.publishing import artifacts, card_content
from luq_gguf.publishing.card import BaseCard
from luq_gguf.run.folder import RunFolder

OTHER = {"notes.md": b"kept", "README.md": b"---\nlicense: mit\n---\nbefore\n"}
one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


def add_other(hub, tmp_path):
    (tmp_path / "other").mkdir()
    for name, content in OTHER.items():
        (tmp_path / "other" / name).write_bytes(content)
    return hub.add(REPO, tmp_path / "other")


def assert_whole(hub, run, told):
    """Every file that was told of is there with its sha256, and so is what it is in the run folder."""
    files = hub.repositories[REPO].files
    for file in told["files"]:
        assert hashlib.sha256(files[file["name"]]).hexdigest() == file["sha256"]
        assert len(files[file["name"]]) == file["n_bytes"]
        assert _in(run, file["name"]).read_bytes() == files[file["name"]]


def _in(run, name):
    """Where a file of the repository comes from."""
    return run / (name if "/" not in name else name.partition("/")[2])


def test_a_run_is_published_in_one_commit_and_only_once(upload, hub, run, tmp_path):
    repository = add_other(hub, tmp_path)
    done = upload(run, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert_whole(hub, run, told)
    names = {file["name"] for file in told["files"]}
    folder = labels.folder_of(next(run.glob("*-LUQ6-*.gguf")).name)
    ours = {"imatrix.gguf", "profile.json", "plan.json", "tensor-types.txt", "eval.json", "bench.json", "recipe.json"}
    ours |= {"figures/entropy.png", "figures/types.png", "report.html"}
    assert {f"{folder}/{name}" for name in ours} | {"README.md"} <= names
    assert len([name for name in names if "/" not in name]) == 3, "the card, the model and its mmproj"
    assert not any("F16" in name and "mmproj" not in name for name in names)
    assert "run.json" not in names
    assert repository.files["notes.md"] == b"kept"
    assert repository.files["README.md"].startswith(b"---\nlicense: mit\n")
    assert b"\nbefore\n" in repository.files["README.md"]
    assert len(repository.commits) == 2
    held = b"".join(content for name, content in repository.files.items() if not name.endswith((".gguf", ".png")))
    assert str(tmp_path).encode() not in held, "paths of this machine are nobody's business"
    hub.requests.clear()
    again = upload(run, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["n_bytes_sent"] == 0
    assert not [line for line in hub.lines() if line.startswith(("PUT", "POST"))]
    assert len(repository.commits) == 2
    assert TOKEN not in done.stdout + done.stderr + (run / "run.json").read_text()


def test_the_card_tells_what_was_measured_and_the_hub_reads_it(upload, hub, run):
    base = "someone/base"
    hub.add(base).commits[hub.repositories[base].main]["README.md"] = (
        b"---\nlicense: other\nlicense_name: little\nlicense_link: LICENSE\nlanguage: [en, de]\n---\n"
    )
    assert upload(run, "--create", "--base-model", base).returncode == 0
    from huggingface_hub import ModelCard

    card = ModelCard(hub.repositories[REPO].files["README.md"].decode())
    data, text = card.data.to_dict(), card.text
    assert data["base_model"] == base
    assert data["base_model_relation"] == "quantized"
    assert data["pipeline_tag"] == "image-text-to-text"
    assert {"luq", "gguf", "imatrix", "vision"} <= set(data["tags"])
    assert (data["license"], data["license_name"]) == ("other", "little")
    assert data["license_link"] == f"https://huggingface.co/{base}/blob/main/LICENSE"
    assert f"[little]({data['license_link']})" in text
    assert data["language"] == ["en", "de"]
    evaluated = json.loads((run / "eval.json").read_text())
    metrics = {m["name"]: m["value"] for r in data["model-index"][0]["results"] for m in r["metrics"]}
    assert metrics["accuracy (exact)"] == pytest.approx(100 * evaluated["accuracy"]["value"], abs=0.01)
    assert metrics["mean KL divergence from the 16-bit file"] == pytest.approx(evaluated["kld"]["mean"], rel=0.01)
    row = next(line for line in text.splitlines() if line.startswith("|") and "LUQ6" in line)
    assert f"{evaluated['kld']['mean']:.2e}" in row
    assert evaluated["conditions"]["shared_lines"] == 8
    assert "Of 8 questions 8 were calibrated with" in text
    bench = json.loads((run / "bench.json").read_text())
    speed = next(row for row in bench["rows"] if "LUQ6" in row["file"])
    assert f"{speed['decode_tps']['median']:.1f}" in row
    assert bench["machine"]["cpu"] in text
    record = json.loads((run / "run.json").read_text())["stages"]["quantize"]["outputs"]
    assert next(iter(record.values()))["sha256"] in text
    table = text[text.index("| file |") : text.index("## Run it")].splitlines()
    widths = {line.count("|") - line.count("\\|") for line in table if line.startswith("|")}
    assert len(widths) == 1, "every line of the table has as many cells"
    assert "The pictures were given to llama.cpp as they are." in text
    limits = " --image-min-tokens 16 --image-max-tokens 256" if "qwen" in data["model-index"][0]["name"] else ""
    assert len(re.findall(rf"^    llama-(?:server|mtmd-cli) -hf {REPO}:\S+{limits}(?:$| --image )", text, re.M)) == 2
    assert "Of a picture of 640 x 480 pixels the model's own processor makes" in text
    assert 'picture.save("fitted.png")\n```\n\nOllama' in text


@one_model
def test_nothing_is_told_that_was_not_measured(upload, hub, run):
    (run / "eval.json").unlink()
    (run / "bench.json").unlink()
    assert upload(run, "--create").returncode == 0
    card = hub.repositories[REPO].files["README.md"].decode()
    assert "Neither the quality nor the speed of this file was measured." in card
    assert "KLD" not in card
    assert "tokens/s" not in card
    assert "model-index" not in card


@one_model
def test_a_card_does_not_promise_that_the_converter_alone_reads_a_form_that_it_is_shown(upload, hub, run):
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["commands"]["convert"][:0] = ["python", "-m", converter_child.__name__, "recipe.json"]
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert upload(run, "--create").returncode == 0
    card = hub.repositories[REPO].files["README.md"].decode()
    assert "Without luq-gguf" not in card
    assert "the first command does so by the rules in `recipe.json`, and needs luq-gguf" in card.replace("\n", " ")
    assert "    python -m luq_gguf.llamacpp.converter_child recipe.json convert_hf_to_gguf.py CHECKPOINT" in card


@one_model
def test_perplexity_alone_is_a_measurement_too(cli, upload, hub, run):
    for name in ("eval.json", "bench.json"):
        (run / name).unlink()
    text = run.parent / "book.txt"
    text.write_text("is there a blue triangle? yes, there is one of them.\n" * 200)
    assert cli("eval", next(run.glob("*LUQ6*.gguf")), "--text", text, "--chunks", 2, "--threads", 1).returncode == 0
    assert upload(run, "--create").returncode == 0
    card = hub.repositories[REPO].files["README.md"].decode()
    assert f"{json.loads((run / 'eval.json').read_text())['perplexity']:.4f} |" in card
    assert "Quality: 2 chunks of 512 tokens of book.txt." in card
    assert "was measured" not in card


@one_model
@pytest.mark.parametrize(("low", "told"), [("IQ1_M", True), ("Q2_K", False)])
def test_a_uniform_file_that_is_better_is_told_where_the_sweep_was_of_the_same_types(run, low, told):
    points = (
        point_of("entropy", 6, 10, 2e-3),
        point_of("uniform Q3_K_S", None, 1, 1e-3),
        point_of("uniform Q8_0", None, 10**9, 0.0),
    )
    conditions = MeterConditions("f16", "easy", "0f", 4, 0, "auto", 4, low, "Q4_K_M")
    (run / "sweep.json").write_text(json.dumps(Sweep(points, conditions).to_json()))
    found = artifacts.collect(RunFolder(run))
    facts = card_content.make_card_content(
        found, REPO, {found.model.name: [found.model.name]}, BaseCard({}, ()), None, {}
    )
    said = [line for line in facts.conditions if "Q3_K_S file measured better" in line]
    assert bool(said) == told


@one_model
def test_a_16_bit_file_that_was_not_hashed_is_known_by_its_hash_all_the_same(run, converted):
    """`sweep` leaves one; where it was deleted since, what was measured of it is left out."""
    passes_through = json.loads((run / "run.json").read_text())
    fact = passes_through["stages"]["f16"]["outputs"][converted.f16.name]
    assert fact["sha256"] == hashlib.sha256((run / converted.f16.name).read_bytes()).hexdigest()
    fact["sha256"] = ""
    (run / "run.json").write_text(json.dumps(passes_through))
    with RunFolder(run) as held:
        assert converted.f16.name in {one.name for one in artifacts.collect(held).compared}
        assert held.outputs("f16")[converted.f16.name]["sha256"]
    (run / "run.json").write_text(json.dumps(passes_through))
    (run / converted.f16.name).unlink()
    with RunFolder(run) as held:
        found = artifacts.collect(held)
    assert converted.f16.name not in {one.name for one in found.compared}
    assert converted.f16.name not in found.speeds
