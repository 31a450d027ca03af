"""--imatrix: another publisher's importance, from its file to ours."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from luq_gguf.core.errors import CalibrationError, GGUFFileError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.llamacpp.gguf import imatrix, reader
from luq_gguf.publishing import artifacts, card, card_content
from luq_gguf.run import given_imatrix
from luq_gguf.run.folder import RunFolder

qwen = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
MISSING = "blk.3.ffn_down.weight"


def write(path, sums, datasets=("wiki.train.raw",)):
    """An importance matrix with these sums [n_mat, n_in] over 64 tokens."""
    counts = {name: np.full(len(rows), 64, np.int64) for name, rows in sums.items()}
    imatrix.write(path, ImportanceMatrix(sums, counts, 7), list(datasets), 256)
    return path


@pytest.fixture(scope="session")
def theirs(small, tmp_path_factory):
    """An importance matrix for the model of `small`: without one matrix, with one that the model does not have, and
    made from a file that its publisher had in a folder."""
    ours, rng = imatrix.read(small.folder / "imatrix.gguf").in_sum2, np.random.default_rng(0)
    sums = {name: rng.uniform(1, 100, rows.shape) for name, rows in ours.items() if name != MISSING}
    path = tmp_path_factory.mktemp("theirs") / "Little-VL.imatrix.gguf"
    return write(path, sums | {"blk.99.attn_q.weight": np.ones((1, 256))}, ["/home/mira/wiki.train.raw"])


@pytest.fixture(scope="session")
def run(cli, small, theirs, tmp_path_factory):
    """A run folder whose file was quantized with it."""
    folder = small.copy(tmp_path_factory.mktemp("given") / "run").folder
    done = cli("quantize", folder, "--imatrix", theirs, "--threads", 1, "--keep-f16", "--json")
    assert done.returncode == 0, done.stderr
    assert "1 of the 84 entries of Little-VL.imatrix.gguf are not for matrices of tiny-qwen2.5-vl" in done.stderr
    assert "blk.99.attn_q.weight" in done.stderr
    return folder


def model_of(run):
    return next(run.glob("*_LUQ.gguf"))


@qwen
def test_only_the_importance_is_theirs(run, small, theirs, llama, tmp_path):
    """The tensors are those that llama-quantize writes with their file itself."""
    plan, before = (json.loads((folder / "plan.json").read_text()) for folder in (run, small.folder))
    assert plan["imatrix"]["file"] == theirs.name
    assert plan["tensor_types"] == before["tensor_types"]
    assert "imatrix" not in before
    types = run / "tensor-types.txt"
    command = [llama.tool("llama-quantize"), "--imatrix", theirs, "--tensor-type-file", types, small.f16]
    subprocess.run([*command, tmp_path / "by-hand.gguf", "Q4_K_M"], check=True, stdout=subprocess.DEVNULL)
    by_hand, ours = reader.read(tmp_path / "by-hand.gguf"), reader.read(model_of(run))
    assert by_hand.path.read_bytes()[by_hand.header_bytes :] == ours.path.read_bytes()[ours.header_bytes :]
    assert (
        ours.path.read_bytes()[ours.header_bytes :] != small.model.read_bytes()[-(ours.n_bytes - ours.header_bytes) :]
    )


@qwen
def test_the_header_names_their_data_set_without_a_folder_and_its_size_was_predicted(run):
    info, plan = reader.read(model_of(run)), json.loads((run / "plan.json").read_text())
    assert info.metadata["quantize.imatrix.dataset"] == "wiki.train.raw"
    assert info.metadata["quantize.imatrix.file"] == "imatrix-given.gguf"
    assert info.n_bytes == plan["predicted_file_bytes"]
    assert reader.read(run / "imatrix-given.gguf").metadata["imatrix.chunk_size"] == 256


@qwen
def test_the_contents_are_recorded_and_the_calibrations_own_importance_stays(run, small, theirs):
    digest = given_imatrix.load(theirs).facts.sha256
    assert json.loads((run / "run.json").read_text())["imatrix"]["sha256"] == digest
    assert json.loads((run / "recipe.json").read_text())["imatrix"]["sha256"] == digest
    assert (run / "imatrix.gguf").read_bytes() == (small.folder / "imatrix.gguf").read_bytes()


@qwen
def test_the_folder_is_verified_and_nothing_is_made_again(cli, run):
    before = json.loads((run / "run.json").read_text())["stages"]
    done = cli("quantize", run, "--threads", 1, "--keep-f16")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["stages"] == before
    done = cli("verify", run, "--threads", 1)
    assert done.returncode == 0, done.stdout


@qwen
def test_the_card_says_whose_it_is(run):
    content = card_content.make_card_content(
        artifacts.collect(RunFolder(run)), "lab/little", ["a-LUQ6.gguf"], card.BaseCard({}, None, None), None, {}
    )
    assert "of columns is that of `Little-VL.imatrix.gguf`, which another publisher made" in content.calibration
    assert "--imatrix Little-VL.imatrix.gguf" in content.command
    assert any("imatrix-given.gguf" in row.name for row in content.files)


@qwen
def test_a_plan_leaves_high_what_they_did_not_measure_and_another_takes_the_calibrations_again(
    cli, run, small, theirs, tmp_path
):
    copied = small.copy(tmp_path / "run").folder
    done = cli("plan", copied, "--low", "Q2_K", "--low-layers", 12, "--imatrix", theirs)
    assert done.returncode == 0, done.stderr
    assert "as Little-VL.imatrix.gguf has no entries for them, and never become low: ffn_down" in done.stderr
    plan = json.loads((copied / "plan.json").read_text())
    assert plan["without_importance"] == [MISSING]
    assert plan["tensor_types"][MISSING] in ("Q4_K", "Q6_K")
    assert plan["tensor_types"]["blk.3.ffn_up.weight"] == "Q2_K"
    done = cli("plan", copied, "--low", "Q2_K", "--low-layers", 6)
    assert done.returncode == 0, done.stderr
    assert (copied / "plan.json").read_bytes() == (small.folder / "plan.json").read_bytes()


@qwen
def test_convert_takes_it_with_rules_and_keeps_the_profile_that_it_made(cli, small, theirs, tmp_path):
    copied = small.copy(tmp_path / "run")
    done = cli(*copied.arguments, "--imatrix", theirs, "--keep", "0,-1", "--output-type", "Q8_0", "--threads", 1)
    assert done.returncode == 0, done.stderr
    plan = json.loads((copied.folder / "plan.json").read_text())
    assert not {0, 11} & set(plan["low_layers"])
    assert len(plan["low_layers"]) == 6
    assert (plan["imatrix"]["file"], plan["rules"]["output_type"]) == (theirs.name, "Q8_0")
    assert reader.read(Path(json.loads(done.stdout)["model"])).types == plan["tensor_types"]
    stages = [json.loads((folder / "run.json").read_text())["stages"] for folder in (copied.folder, small.folder)]
    assert stages[0]["profile"] == stages[1]["profile"]


@qwen
def test_a_copy_that_was_changed_is_refused(cli, small, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "imatrix-given.gguf").write_bytes((small.folder / "imatrix.gguf").read_bytes())
    done = cli("quantize", copied)
    assert done.returncode == 2
    assert "plan.json takes importance from Little-VL.imatrix.gguf, but its copy imatrix-given.gguf is" in done.stderr


@qwen
def test_the_older_format_is_refused_with_the_command_that_converts_it(small, llama, tmp_path):
    ours, old = small.folder / "imatrix.gguf", tmp_path / "old.dat"
    tool = llama.tool("llama-imatrix")
    made = [tool, "-m", "none.gguf", "--in-file", ours, "--output-format", "dat", "-o", old]
    subprocess.run(made, check=True, capture_output=True)
    with pytest.raises(GGUFFileError, match="older .dat format") as refused:
        given_imatrix.load(old)
    command = shlex.split(re.search("`(.*)`", refused.value.hint)[1])
    assert command[0] == tool.name
    subprocess.run([tool, *command[1:]], check=True, capture_output=True, cwd=tmp_path)
    given = given_imatrix.load(tmp_path / "old.gguf")
    assert given.matrix.in_sum2.keys() == imatrix.read(ours).in_sum2.keys()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\x01\x00\x00\x00\xff", b"no importance matrix at all"])
def test_what_is_no_importance_matrix_is_refused_as_such(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(GGUFFileError) as refused:
        given_imatrix.load(tmp_path / "file")
    assert "older" not in refused.value.message
    assert refused.value.hint == "Give a GGUF file that llama-imatrix has written."


@qwen
@pytest.mark.parametrize(
    ("sums", "words"),
    [
        ({"a.weight": np.ones((1, 8)), "b.weight": np.ones((1, 8))}, "no entry for any .* 2 entries are a.weight, b.w"),
        ({"blk.0.attn_q.weight": np.ones((1, 512))}, "it has 512 columns of blk.0.attn_q.weight, which has 256"),
        ({"blk.0.attn_q.weight": np.ones((4, 256))}, "it has 4 x 256 columns of .*, which has 1 x 256"),
    ],
)
def test_the_importance_of_another_model_is_refused(small, sums, words, tmp_path):
    given = given_imatrix.load(write(tmp_path / "other.gguf", sums))
    with pytest.raises(CalibrationError, match=words):
        given_imatrix.fitted(given, reader.read(small.model), "little", Reporter())


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        (["C:\\Users\\mira\\wiki.txt"], ("wiki.txt",)),
        (["~/calibration/"], ("calibration",)),
        (["bartowski/calibration_datav3.txt"], ("bartowski/calibration_datav3.txt",)),
        ([""], ("given.gguf",)),
    ],
)
def test_data_sets_are_named_without_local_folders(listed, shown, tmp_path):
    path = write(tmp_path / "given.gguf", {"blk.0.attn_q.weight": np.ones((1, 256))}, listed)
    assert given_imatrix.load(path).facts.datasets == shown
