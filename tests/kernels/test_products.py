"""Every path of the kernels against ggml's own product, the dequantized product, and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_programs import FORMS, Program, aarch64, compile_program, sanitized, write_grid

from luq_gguf.llamacpp import ggml_products as ggml
from luq_gguf.llamacpp.gguf import reader

COLUMNS = (1, 2, 3, 4, 7, 8, 33, 64, 130)


@pytest.fixture(scope="session")
def stock(llama):
    return ggml.Ggml(llama.tools.parent / "lib")


@pytest.fixture(scope="session")
def grid(stock, tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("grid") / "grid.bin", stock)


@pytest.fixture(scope="session")
def program(grid, tmp_path_factory):
    running = Program(compile_program(tmp_path_factory.mktemp("kernels") / "build"), grid)
    yield running
    assert running.close() == 0


def activations_of(rng, n, n_columns, kind):
    rows = rng.standard_normal((n, n_columns)).astype(np.float32)
    if kind == "outliers":
        rows *= np.where(rng.random(rows.shape) < 0.01, 100, 1).astype(np.float32)
    if kind == "extremes":  # every byte of a block -127 or 127
        rows = np.sign(rows) * np.float32(3)
    if kind == "zeros":
        rows[:, : ggml.BLOCK] = 0
    return rows


def blocks_of(rng, n_rows, n_columns, weights, kind=ggml.IQ1_M):
    blocks = ggml.random_blocks(rng, n_rows, n_columns, kind)
    if weights == "largest":  # scales of 7 and one sign of delta everywhere: the largest sums there are
        parts = blocks.reshape(n_rows, -1, kind.n_bytes)
        if kind == ggml.IQ1_S:
            parts[..., 35::2] |= 0xF0
            return blocks
        parts[..., 48::2] = 0xFF
        parts[..., 49::2] |= 0x0F
        parts[..., 32:48] |= 0x88
    return blocks


def bound(stock, rows, q8, weights):
    """The most that rounding activations to 8 bits can change a product by: half a step for each."""
    steps = np.abs(q8.reshape(len(q8), -1, ggml.Q8_BYTES)[..., :4].copy().view(np.float32)[..., 0])
    sums = np.abs(weights).reshape(len(weights), -1, ggml.BLOCK).sum(-1)
    largest = np.abs(rows).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    return 0.5001 * steps.astype(np.float64) @ sums.astype(np.float64).T + 1e-5 * largest


def check(stock, running, blocks, rows, threads, form, kind=ggml.IQ1_M):
    """Every path's product, each of them held against ggml's, the dequantized and the portable one."""
    q8, weights = stock.quantize(rows), stock.dequantize(blocks, kind)
    expected = rows.astype(np.float64) @ weights.astype(np.float64).T
    own = stock.dot(blocks, q8, kind)
    size = np.abs(rows).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    found = {path: running.compute(path, blocks, q8, threads, form, kind) for path in running.paths}
    for path, product in found.items():
        assert (np.abs(product - expected) <= bound(stock, rows, q8, weights)).all(), path
        assert (np.abs(product - own) <= 2e-6 * size).all(), path
        np.testing.assert_array_equal(product, found["portable"], err_msg=path)
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rowgroups=st.integers(1, 9),
    superblocks=st.integers(1, 5),
    n=st.sampled_from(COLUMNS),
    threads=st.integers(1, 5),
    form=st.sampled_from(sorted(FORMS.values())),
    weights=st.sampled_from(["random", "largest"]),
    activations=st.sampled_from(["normal", "outliers", "extremes", "zeros"]),
    kind=st.sampled_from([ggml.IQ1_M, ggml.IQ1_S]),
)
def test_every_path_is_the_product(
    stock, program, seed, rowgroups, superblocks, n, threads, form, weights, activations, kind
):
    rng = np.random.default_rng(seed)
    blocks = blocks_of(rng, 16 * rowgroups, 256 * superblocks, weights, kind)
    rows = activations_of(rng, n, 256 * superblocks, activations)
    found = check(stock, program, blocks, rows, threads, form, kind)
    assert {"portable", "portable-t5"} <= set(found) == set(program.paths)
    assert all(product.shape == (n, 16 * rowgroups) for product in found.values())


def test_the_paths_of_this_cpu_are_run(program):
    from luq_gguf.core import machine

    features = set(machine.cpu_features())
    expected = {"portable", "portable-t5"} | ({"avx2"} if {"avx2", "fma", "f16c"} <= features else set())
    expected |= {"avx512", "avx512vl"} if "avx512_vnni" in features else set()
    expected |= {"avxvnni"} if "avx_vnni" in features else set()
    expected |= {"neon"} if "asimddp" in features else set()
    assert set(program.paths) == expected


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_real_blocks(stock, program, converted):
    rng = np.random.default_rng(1)
    info = reader.read(converted.model)
    low = [tensor.name for tensor in info.tensors if tensor.type == "IQ1_M"]
    assert len(low) > 20
    import gguf

    data = {tensor.name: tensor.data for tensor in gguf.GGUFReader(converted.model).tensors}
    for name in low:
        blocks = np.ascontiguousarray(data[name]).view(np.uint8)
        blocks = blocks.reshape(len(data[name]), -1)
        rows = activations_of(rng, 3, ggml.IQ1_M.columns(blocks), "outliers")
        check(stock, program, blocks, rows, 2, FORMS["as in use"])


def _cases(stock):
    rng = np.random.default_rng(2)
    for n in (1, 2, 3, 9, 40):
        for n_rows, n_columns, kind in ((16, 256, ggml.IQ1_M), (80, 512, ggml.IQ1_S), (208, 1280, ggml.IQ1_M)):
            blocks = blocks_of(rng, n_rows, n_columns, "random", kind)
            yield blocks, stock.quantize(activations_of(rng, n, n_columns, "normal")), kind


@pytest.mark.parametrize("sanitizers", [("address", "undefined"), ("thread",)], ids="+".join)
def test_sanitizers_find_nothing(stock, program, grid, tmp_path, sanitizers):
    running = Program(compile_program(tmp_path / "build", sanitized(*sanitizers)), grid)
    assert running.paths == program.paths
    for blocks, q8, kind in _cases(stock):
        for path in running.paths:
            for form in FORMS.values():
                found = running.compute(path, blocks, q8, 3, form, kind)
                np.testing.assert_array_equal(found, program.compute("portable", blocks, q8, kind=kind))
    assert running.close() == 0


def test_neon_under_an_emulator(stock, program, grid, tmp_path):
    arm = aarch64(tmp_path)
    if arm is None:
        pytest.skip("needs qemu-aarch64, and aarch64-linux-gnu-g++ or the package ziglang")
    running = Program(compile_program(tmp_path / "build", *arm[0]), grid, arm[1])
    assert running.paths == ["neon", "portable", "portable-t5"]
    for blocks, q8, kind in _cases(stock):
        for path in running.paths:
            for form in FORMS.values():
                found = running.compute(path, blocks, q8, 2, form, kind)
                expected = program.compute("portable", blocks, q8, kind=kind)
                np.testing.assert_array_equal(found, expected, err_msg=path)
    assert running.close() == 0
