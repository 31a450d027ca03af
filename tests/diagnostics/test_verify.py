"""verify, on what convert really writes: whole, and with each kind of damage."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from luq_gguf.core.errors import GGUFFileError, InputError, VerificationError
from luq_gguf.core.hashing import sha256_of
from luq_gguf.diagnostics import verify
from luq_gguf.llamacpp.gguf import validate
from luq_gguf.publishing import artifacts
from luq_gguf.run.folder import RunFolder

one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture
def run(small, tmp_path) -> Path:
    return small.copy(tmp_path / "run").folder


def wrong(target: Path, mmproj: Path | None = None) -> dict[str, str]:
    """Checks that failed: name, and what was found. Each says what to do."""
    checks = verify.verify(target, mmproj, threads=1).checks
    assert all(check.hint for check in checks if not check.ok)
    return {check.name: check.found for check in checks if not check.ok}


def luq_file(run: Path) -> Path:
    return next(run.glob("*LUQ*.gguf"))


def spoil(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at if at >= 0 else path.stat().st_size + at)
        file.write(content)


def record_again(run: Path, name: str) -> None:
    """As somebody would who hides a change: run.json tells of the changed file."""
    content = json.loads((run / "run.json").read_text())
    for record in content["stages"].values():
        if name in record["outputs"]:
            record["outputs"][name] |= {"n_bytes": (run / name).stat().st_size, "sha256": sha256_of(run / name)}
    (run / "run.json").write_text(json.dumps(content))


def test_a_whole_run_is_well_and_stays_as_it_was(cli, run):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}
    (run / "half.gguf.part").write_bytes(b"of another process")
    done = cli("verify", run, "--threads", 1, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"]
    assert all(set(check) == {"name", "ok", "found", "hint"} for check in told["checks"])
    names = " ".join(check["name"] for check in told["checks"])
    for what in ("run.json", "plan.json", "structure", "weights", "types", "belongs", "loads", "logits", "image"):
        assert what in names
    assert (run / "half.gguf.part").exists()
    (run / "half.gguf.part").unlink()
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}


@one_model
def test_the_table_says_what_is_wrong_and_what_to_do(cli, run):
    (run / "profile.json").unlink()
    done = cli("verify", run, "--threads", 1)
    assert done.returncode == 1
    assert "is missing" in done.stdout
    assert "Traceback" not in done.stderr


def test_each_file_alone(small):
    assert wrong(small.model) == {}
    assert wrong(small.f16) == {}
    assert wrong(small.mmproj) == {}
    assert wrong(small.model, small.mmproj) == {}
    assert wrong(small.folder / "imatrix.gguf") == {}


@one_model
def test_a_flipped_byte(run):
    path = luq_file(run)
    spoil(path, -1000, bytes([path.read_bytes()[-1000] ^ 1]))
    found = wrong(run)
    assert "sha256" in found[path.name]


@one_model
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file(run, share):
    path = luq_file(run)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    found = wrong(run)
    assert "was written with" in found[path.name]
    assert f"{path.name}: structure" in found


@one_model
def test_missing_files_that_must_be_there_and_that_need_not(run, small):
    (run / small.f16.name).unlink()
    assert wrong(run) == {}
    (run / small.mmproj.name).unlink()
    assert wrong(run) == {small.mmproj.name: "is missing"}


@one_model
def test_types_that_are_not_the_plans(run):
    content = json.loads((run / "plan.json").read_text())
    content["tensor_types"]["blk.0.ffn_down.weight"] = "Q8_0"
    (run / "plan.json").write_text(json.dumps(content))
    record_again(run, "plan.json")
    assert "planned Q8_0" in wrong(run)[f"{luq_file(run).name}: types"]


@one_model
def test_a_run_folder_that_names_a_file_outside(run, cli):
    content = json.loads((run / "run.json").read_text())
    outputs = content["stages"]["quantize"]["outputs"]
    outputs["../secret.gguf"] = outputs.pop(next(iter(outputs)))
    (run / "run.json").write_text(json.dumps(content))
    (run.parent / "secret.gguf").write_bytes(b"GGUF")
    assert "outside" in wrong(run)["run.json"]
    for command in (["quantize", run], ["report", run]):
        done = cli(*command)
        assert done.returncode == 2
        assert "outside" in done.stderr
    assert (run.parent / "secret.gguf").read_bytes() == b"GGUF"


def test_an_mmproj_of_another_width(run, small):
    path = run / small.mmproj.name
    reader = gguf.GGUFReader(path)
    at = int(reader.fields["clip.vision.projection_dim"].offset)
    raw = path.read_bytes()
    value = raw.index(b"projection_dim", at) + len(b"projection_dim") + 4
    spoil(path, value, struct.pack("<I", 512))
    record_again(run, path.name)
    assert "made for a text model of width 512" in wrong(run)[f"{path.name}: belongs"]


@one_model
def test_an_mmproj_of_another_checkpoint_is_refused_wherever_two_halves_meet(run, small, cli, calibration_file):
    """Of the same width and the same projector: llama.cpp would load it."""
    path, model = run / small.mmproj.name, luq_file(run)
    key = validate.check(path).ours["luq.checkpoint"].encode()
    spoil(path, path.read_bytes().index(key), b"0" * len(key))
    record_again(run, path.name)
    assert wrong(run) == {f"{path.name}: belongs": f"it was made from another checkpoint than {model.name}"}
    asked = ("--data", calibration_file, "--samples", 1, "--threads", 1)
    for command in (["eval", model, *asked], ["eval", model, "--mmproj", path, *asked], ["bench", model]):
        done = cli(*command)
        assert done.returncode == 2
        assert f"{path.name} was made from another checkpoint than {model.name}" in done.stderr
    with pytest.raises(GGUFFileError, match="made from another checkpoint"):
        artifacts.collect(RunFolder(run))
    assert wrong(small.f16, path) == {}, "the converter's own file names no checkpoint"


@one_model
def test_something_else_as_mmproj(small):
    found = wrong(small.model, small.f16)
    assert "not an mmproj" in found[f"{small.f16.name}: belongs"]


def _overwrite(path: Path, tensor: str, value: float) -> None:
    """The first elements of a 16- or 32-bit tensor."""
    found = next(t for t in gguf.GGUFReader(path).tensors if t.name == tensor)
    kind = {"F16": np.float16, "F32": np.float32}[found.tensor_type.name]
    spoil(path, int(found.data_offset), np.full(4, value, kind).tobytes())


@one_model
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(run, small, value):
    path = run / small.f16.name
    _overwrite(path, "blk.3.ffn_up.weight", value)
    found = wrong(path)
    assert "blk.3.ffn_up.weight" in found[f"{path.name}: weights"]
    assert "cannot load" in found[f"{path.name}: loads"]


@one_model
def test_a_scale_that_is_no_number_in_a_quantized_matrix(run):
    """libllama has to look for it: where activations are quantized, what is no number becomes 0."""
    path = luq_file(run)
    found = next(t for t in gguf.GGUFReader(path).tensors if t.tensor_type.name == "Q4_K" and "ffn" in t.name)
    spoil(path, int(found.data_offset) + 144 * 100, struct.pack("<e", float("nan")))  # of the hundredth block
    told = wrong(path)[f"{path.name}: loads"]
    assert "cannot load" in told
    assert found.name in told, "libllama's own reason"


@one_model
def test_weights_that_become_no_numbers_on_the_way(run, small):
    path = run / small.f16.name
    _overwrite(path, "output_norm.weight", 3e38)
    _overwrite(path, "token_embd.weight", 6e4)
    found = wrong(path)
    assert set(found) == {f"{path.name}: logits"}
    assert "not finite" in found[f"{path.name}: logits"]


@one_model
def test_metadata_that_llama_cpp_cannot_load(run, small):
    path = run / small.f16.name
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"attention.head_count_kv", b"attention.head_count_xx", 1).replace(
        b"blk.5.attn_q.weight", b"blk.5.attn_z.weight", 1))  # fmt: skip
    told = wrong(path)[f"{path.name}: loads"]
    assert "blk.0.attn_k.weight' has wrong shape" in told, "libllama's own reason"
    with pytest.raises(VerificationError, match="cannot be used.*loads"):  # what convert asks before it says done
        verify.check_runs(path, None)
    verify.check_runs(small.model, small.mmproj)


@one_model
def test_an_imatrix_of_no_numbers(run):
    path = run / "imatrix.gguf"
    name = next(t.name for t in gguf.GGUFReader(path).tensors if t.name.endswith(".in_sum2"))
    _overwrite(path, name, float("nan"))
    assert set(wrong(run)) == {"imatrix.gguf", "imatrix.gguf: importance"}


def test_what_is_no_gguf_and_what_is_not_there(cli, tmp_path):
    (tmp_path / "a.gguf").write_text("<html>404</html>")
    done = cli("verify", tmp_path / "a.gguf")
    assert done.returncode == 1
    assert "not a GGUF file" in " ".join(done.stdout.split())
    for target in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(InputError):
            verify.verify(target)
        done = cli("verify", target)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
