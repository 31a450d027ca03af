"""A GGUF file in a checkpoint's place: planned, quantized and swept without transformers."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from luq_gguf.llamacpp.gguf import reader, shards
from luq_gguf.run import gguf_source
from luq_gguf.workflows import easy_vqa

of_tiny = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 2)


@pytest.fixture(scope="module")
def published(small, llama, tmp_path_factory):
    """A publisher's folder: a 16-bit file, one in Q8_0 and one in Q4_K_M of it, its shards, an mmproj and an
    importance matrix, under names that the publisher chose."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copyfile(small.f16, folder / "Little.F16.gguf")
    shutil.copyfile(small.mmproj, folder / "Little.mmproj-F16.gguf")
    shutil.copyfile(small.folder / "imatrix.gguf", folder / "Little.imatrix.gguf")
    for kind in ("Q8_0", "Q4_K_M"):
        command = [llama.tool("llama-quantize"), "--imatrix", "Little.imatrix.gguf", "Little.F16.gguf"]
        subprocess.run([*command, f"Little.{kind}.gguf", kind], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    split = [llama.tool("llama-gguf-split"), "--split", "--split-max-tensors", "60", folder / "Little.Q8_0.gguf"]
    (folder / "parts").mkdir()
    subprocess.run([*split, folder / "parts" / "Little.Q8_0"], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def low(small):
    return json.loads((small.folder / "plan.json").read_text())["low_layers"]


def plan(cli, run, file, *more):
    return cli("plan", run, "--model", file, "--low", "Q2_K", *more)


@pytest.fixture(scope="module")
def requantized(cli, published, low, tmp_path_factory):
    """A run folder of the file in Q8_0, whose low layers were named, and what was said."""
    run = tmp_path_factory.mktemp("requantized") / "run"
    named = ",".join(map(str, reversed(low)))
    asked = ("--imatrix", published / "Little.imatrix.gguf", "--low-only", named, "--low-layers", 6, "--json")
    done = plan(cli, run, published / "Little.Q8_0.gguf", *asked)
    assert done.returncode == 0, done.stderr
    made = cli("quantize", run, "--threads", 1, "--json")
    assert made.returncode == 0, made.stderr
    return run, json.loads(done.stdout), json.loads(made.stdout), done.stderr + made.stderr


@of_tiny
def test_named_layers_of_a_16_bit_file_become_what_they_become_of_its_checkpoint(cli, published, small, low, tmp_path):
    named, given = ",".join(map(str, low)), ("--imatrix", published / "Little.imatrix.gguf")
    done = plan(cli, tmp_path / "run", published / "Little.F16.gguf", *given, "--low-only", named, "--low-layers", 6)
    assert done.returncode == 0, done.stderr
    made = cli("quantize", tmp_path / "run", "--threads", 1, "--json")
    assert made.returncode == 0, made.stderr
    ours, theirs = reader.read(Path(json.loads(made.stdout)["model"])), reader.read(small.model)
    assert ours.path.name.startswith("Little-LUQ6-named-Q2K-Q4KM-")
    assert ours.path.read_bytes()[ours.header_bytes :] == theirs.path.read_bytes()[theirs.header_bytes :]
    assert (published / "Little.F16.gguf").read_bytes() == small.f16.read_bytes()


@of_tiny
def test_a_q8_0_file_is_requantized_as_planned(requantized, published, low):
    run, planned, result, said = requantized
    info = reader.read(Path(result["model"]))
    assert info.types == planned["tensor_types"]
    assert info.n_bytes == planned["predicted_file_bytes"] == result["n_bytes"]
    assert planned["ranking"] == "named"
    assert planned["low_layers"] == low
    assert planned["order"][:6] == low[::-1]
    assert planned["imatrix"]["file"] == "Little.imatrix.gguf"
    assert "quantized already" not in said
    assert Path(result["mmproj"]).read_bytes() == (published / "Little.mmproj-F16.gguf").read_bytes()
    recipe = json.loads((run / "recipe.json").read_text())
    assert list(recipe["commands"]) == ["quantize"]
    assert "--allow-requantize" in recipe["commands"]["quantize"]
    assert recipe["checkpoint"]["sha256"] == shards.sha256(published / "Little.Q8_0.gguf")


@of_tiny
def test_the_folder_is_verified_and_nothing_is_made_again(cli, requantized):
    run, _, result, _ = requantized
    before = json.loads((run / "run.json").read_text())["stages"]
    again = cli("quantize", run, "--threads", 1, "--json")
    assert json.loads(again.stdout) == result
    assert json.loads((run / "run.json").read_text())["stages"] == before
    done = cli("verify", run, "--threads", 1)
    assert done.returncode == 0, done.stdout


@of_tiny
@pytest.mark.parametrize("command", [("report",), ("upload", "--repo", "me/little", "--dry-run")])
def test_what_describes_a_profile_says_that_there_is_none(cli, requantized, command):
    done = cli(command[0], requantized[0], *command[1:])
    assert done.returncode == 2
    assert "was made from a GGUF file and not profiled, so luq-gguf" in done.stderr


@of_tiny
def test_shards_give_the_same_file(cli, published, requantized, low, tmp_path):
    _, planned, result, _ = requantized
    named, given = ",".join(map(str, reversed(low))), ("--imatrix", published / "Little.imatrix.gguf")
    first = sorted((published / "parts").iterdir())[0]
    done = plan(cli, tmp_path / "run", first, *given, "--low-only", named, "--low-layers", 6, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predicted_file_bytes"] == planned["predicted_file_bytes"]
    made = cli("quantize", tmp_path / "run", "--threads", 1, "--json")
    assert made.returncode == 0, made.stderr
    ours, theirs = (reader.read(Path(path)) for path in (json.loads(made.stdout)["model"], result["model"]))
    assert ours.path.name == theirs.path.name
    assert ours.path.read_bytes()[ours.header_bytes :] == theirs.path.read_bytes()[theirs.header_bytes :]


@of_tiny
def test_types_lower_than_q8_0_are_told_of(cli, published, tmp_path):
    given = ("--imatrix", published / "Little.imatrix.gguf", "--low-only", "0-5", "--low-layers", 2)
    done = plan(cli, tmp_path / "run", published / "Little.Q4_K_M.gguf", *given)
    assert done.returncode == 0, done.stderr
    assert "Little.Q4_K_M.gguf is quantized already (" in done.stderr
    assert "tensors in Q4_K" in done.stderr


@of_tiny
def test_a_profile_that_is_there_gives_the_order(cli, published, small, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("profile.json", "imatrix.gguf"):
        shutil.copyfile(small.folder / name, run / name)
    done = plan(cli, run, published / "Little.F16.gguf", "--low-layers", 6, "--json")
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout), json.loads((small.folder / "plan.json").read_text())
    assert (ours["low_layers"], ours["tensor_types"]) == (theirs["low_layers"], theirs["tensor_types"])
    assert ours["ranking"] == "entropy"
    assert ours["imatrix"]["file"] == "imatrix.gguf"


@of_tiny
def test_layers_are_measured_where_nothing_is_known_of_them(cli, requantized, questions, published, tmp_path):
    """In the folder that has importance already; then a sweep, which says what it leaves out."""
    run = shutil.copytree(requantized[0], tmp_path / "run")
    file, asked = published / "Little.Q8_0.gguf", ("--eval", questions, "--threads", 1, "--json")
    done = plan(cli, run, file, "--rank", "kld", "--low-layers", 2, *asked)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert (measured["ranking"], len(measured["low_layers"])) == ("kld", 2)
    assert measured["measured_kld"]["on"]["reference"] == "Little.Q8_0.gguf"
    orders = ("--order", "entropy", "--order", "kld", "--low-layers", "0,2", "--uniform", "none", "--low", "Q2_K")
    done = cli("sweep", run, *orders, "--data", questions, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert "no profile.json with the entropies of the layers: the order entropy is left out" in done.stderr
    points = json.loads(done.stdout)["points"]
    assert [(point["order"], point["n_low"]) for point in points] == [
        ("kld", 0),
        ("kld", 2),
        ("uniform F16", None),
    ]
    assert points[2]["n_bytes"] == file.stat().st_size
    assert sorted(points[1]["low_layers"]) == measured["low_layers"]
    assert points[1]["n_bytes"] == measured["predicted_file_bytes"]


@of_tiny
@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("Little.F16.gguf", ("--low-only", "0-5"), "Little.F16.gguf is a GGUF file, which cannot be calibrated, and"),
        ("Little.F16.gguf", ("--imatrix", "Little.imatrix.gguf"), "--rank entropy needs the entropies of the layers"),
        ("Little.mmproj-F16.gguf", ("--low-only", "0-5"), "Little.mmproj-F16.gguf is not a text model."),
        ("Little.imatrix.gguf", ("--low-only", "0-5"), "Little.imatrix.gguf is not a text model."),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_left(cli, published, tmp_path, file, options, words):
    options = [published / part if str(part).endswith(".gguf") else part for part in options]
    done = plan(cli, tmp_path / "run", published / file, "--low-layers", 3, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@of_tiny
def test_a_folder_of_something_else_is_left_alone(cli, published):
    before = sorted(published.iterdir())
    done = plan(cli, published, published / "Little.F16.gguf", "--low-layers", 3, "--low-only", "0-5")
    assert done.returncode == 2
    assert "is not empty and is not a run folder" in done.stderr
    assert sorted(published.iterdir()) == before


@of_tiny
def test_convert_says_which_commands_take_a_gguf_file(cli, published, tmp_path):
    done = cli("convert", published / "Little.F16.gguf", "--out", tmp_path / "out", "--low-layers", 3)
    assert done.returncode == 2
    assert "is a file, not a checkpoint folder" in done.stderr
    assert "A GGUF file is quantized by luq-gguf plan RUN --model FILE, and luq-gguf quantize RUN." in done.stderr


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Little-7B-BF16.gguf", "Little-7B"),
        ("little.q4_k_m.gguf", "little"),
        ("Little-F16-00001-of-00003.gguf", "Little"),
        ("Little-7B.gguf", "Little-7B"),
        ("F16.gguf", "F16"),
    ],
)
def test_a_models_name_is_its_files_without_the_type(file, name):
    assert gguf_source._name(Path(file)) == name
