"""Plans against llama-quantize's own words."""

import re
import subprocess

import gguf
import numpy as np
import pytest

from luq_gguf.core.errors import ConversionError, TypeNameError, VerificationError
from luq_gguf.core.types import Budget
from luq_gguf.llamacpp import quantize
from luq_gguf.llamacpp.gguf import imatrix, reader
from luq_gguf.method import importance, tensor_types, two_type_plan

MIB = 1024**2


@pytest.fixture(scope="module")
def spec(tmp_path_factory, tiny_model):
    from luq_gguf.run.folder import RunFolder
    from luq_gguf.run.preflight import load_model_spec

    with RunFolder(tmp_path_factory.mktemp("door") / "run", create=True) as run:
        yield load_model_spec(run, str(tiny_model))


@pytest.mark.parametrize("count", [0, 1, 6, 12])
def test_predicted_bytes_are_those_of_the_dry_run_for_the_same_map(spec, tmp_path, count):
    plan = two_type_plan.make_plan(spec.tensors, range(12), Budget(low_layers=count), "entropy")
    types = tmp_path / "types.txt"
    types.write_text(tensor_types.to_text(quantize.overrides(spec.source, plan)))
    command = [spec.llama.tool("llama-quantize"), "--dry-run", "--tensor-type-file", types, spec.source.path, "Q4_K_M"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    size = re.search(r"quant size\s*=\s*([\d.]+) MiB \(([\d.]+) BPW\)", told.stdout + told.stderr)
    assert size
    assert float(size[1]) == pytest.approx(plan.predicted_bytes / MIB, abs=0.005)
    assert float(size[2]) == pytest.approx(plan.bpw, abs=0.005)
    assert quantize.dry_run(spec.llama, spec.source.path, "Q4_K_M", quantize.overrides(spec.source, plan)) == dict(
        plan.tensor_types
    )


def test_without_low_layers_every_tensor_has_its_stock_type(spec):
    plan = two_type_plan.make_plan(spec.tensors, range(12), Budget(low_layers=0), "entropy")
    assert dict(plan.tensor_types) == quantize.dry_run(spec.llama, spec.source.path, "Q4_K_M")
    assert "Q6_K" in plan.tensor_types.values()


@pytest.mark.parametrize("ftype", ["IQ3_XXS", "IQ4_XS", "IQ4_NL", "Q4_0", "Q5_0"])
def test_uniform_files_are_llama_quantize_s_own_with_an_importance_matrix(spec, converted, tmp_path, ftype):
    """The mixes of these five are others without one. Two are written, as that takes a second; the others by size."""
    types, _ = quantize.stock_types(spec.llama, spec.source, ftype, spec.has_imatrix)
    written = [] if ftype in ("Q4_0", "Q5_0") else ["--dry-run"]
    command = [spec.llama.tool("llama-quantize"), *written, "--imatrix", converted.folder / "imatrix.gguf"]
    told = subprocess.run(
        [*command, converted.f16, tmp_path / "own.gguf", ftype], capture_output=True, text=True, check=True
    )
    size = re.search(r"quant size\s*=\s*([\d.]+) MiB", told.stdout + told.stderr)
    n_bytes = sum(reader.type_bytes(types[tensor.name], tensor.n_weights) for tensor in spec.source.tensors)
    assert size
    assert float(size[1]) == pytest.approx(n_bytes / MIB, abs=0.005)
    if not written:
        assert reader.read(tmp_path / "own.gguf").types == types
    assert list(spec.source.path.parent.glob("dry-run*")) == []


def test_columns_without_importance_are_not_erased(spec, converted, tmp_path):
    """llama-quantize writes zeros in Q3_K where the importance of a block is 0."""
    matrix = imatrix.read(converted.folder / "imatrix.gguf")
    for sums in matrix.in_sum2.values():
        sums[:, 16:48] = 0
    imatrix.write(tmp_path / "imatrix.gguf", importance.floored(matrix), ["set"], 512)
    command = [spec.llama.tool("llama-quantize"), "--imatrix", tmp_path / "imatrix.gguf", converted.f16]
    subprocess.run([*command, tmp_path / "out.gguf", "Q3_K_S"], capture_output=True, check=True)
    before, after = (
        {t.name: t for t in reader.open_reader(path).tensors} for path in (converted.f16, tmp_path / "out.gguf")
    )
    name = "blk.0.attn_q.weight"
    columns, quantized = before[name].data[:, 16:48].astype(np.float32), after[name]
    assert quantized.tensor_type.name == "Q3_K"
    error = gguf.quants.dequantize(quantized.data, quantized.tensor_type)[:, 16:48] - columns
    assert np.square(error).sum() < 0.1 * np.square(columns).sum()


def test_low_layers_take_the_low_type_for_all_their_matrices(spec):
    plan = two_type_plan.make_plan(spec.tensors, range(12), Budget(low_layers=2), "entropy")
    for name, kind in plan.tensor_types.items():
        matrix = name.endswith(".weight") and "norm" not in name
        if tensor_types.layer_of(name) in (0, 1) and matrix:
            assert kind == "IQ1_M", name


def test_the_header_only_file_has_no_data_on_disk_and_the_right_size(spec):
    status = spec.source.path.stat()
    assert status.st_size > 10 * MIB
    assert status.st_blocks * 512 < MIB


def test_unknown_types_are_refused(spec):
    with pytest.raises(TypeNameError, match="Q4_K_M"):
        try:
            quantize.check_ftype(spec.llama, "Q7_Z")
        except TypeNameError as error:
            raise TypeNameError(error.hint) from None
    with pytest.raises(TypeNameError, match="no quantized type of this name"):
        reader.check_type("F16", "--low")


def test_a_failing_tool_is_reported_with_its_own_words(spec, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ConversionError, match="llama-quantize"):
        quantize.dry_run(spec.llama, tmp_path / "broken.gguf", "Q4_K_M")


def test_a_file_that_differs_from_its_plan_is_told_tensor_by_tensor(spec, converted):
    plan = two_type_plan.make_plan(spec.tensors, range(12), Budget(low_layers=12), "entropy")
    with pytest.raises(VerificationError, match=r"blk\.\d+\.\w+\.weight: planned IQ1_M, found Q"):
        quantize.verify(converted.model, plan)
