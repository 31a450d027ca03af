"""Our importance matrix against llama-imatrix's, on the same text, model and chunks."""

import os
import subprocess

import numpy as np
import pytest
from families import LINES, any_tokenizer_environment, by_name

from luq_gguf.llamacpp.gguf import imatrix
from luq_gguf.method.importance import mean_squares


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Enough text for several chunks of 512 tokens, of the kind the model knows."""
    from luq_gguf.workflows import easy_vqa

    path = tmp_path_factory.mktemp("text") / "questions.txt"
    lines = [f"{q.text} {q.answer}" for q in easy_vqa.questions("train")[:600]]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory, cli, tiny_model, text):
    folder = tmp_path_factory.mktemp("profile") / "run"
    done = cli("profile", tiny_model, "--out", folder, "--calib-text", text, "--alpha", 0, "--samples", 4)
    assert done.returncode == 0, done.stderr
    return folder / "imatrix.gguf"


def llama_imatrix(llama, *arguments):
    return subprocess.run([llama.tool("llama-imatrix"), *arguments], capture_output=True, text=True)


def test_show_statistics_reads_it(llama, ours, small, tmp_path):
    """By its exit code: it ends without waiting for its log's thread, so any part of what it says may be missing."""
    statistics = ("-m", small.f16, "--show-statistics", "--in-file")
    told = llama_imatrix(llama, *statistics, ours)
    assert told.returncode == 0, told.stderr
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(ours.read_bytes()[:-1000])
    assert llama_imatrix(llama, *statistics, cut).returncode == 1


def test_llama_imatrix_reads_and_writes_the_same(llama, ours, small, tmp_path):
    copied = tmp_path / "copied.gguf"
    told = llama_imatrix(llama, "-m", small.f16, "--in-file", ours, "-o", copied, "--output-format", "gguf")
    assert told.returncode == 0, told.stderr
    a, b = imatrix.read(ours), imatrix.read(copied)
    assert set(a.in_sum2) == set(b.in_sum2)
    assert len(a.in_sum2) == 12 * 7
    for name in a.in_sum2:
        np.testing.assert_array_equal(a.in_sum2[name].astype(np.float32), b.in_sum2[name].astype(np.float32))
        np.testing.assert_array_equal(a.counts[name], b.counts[name])


def of_llama_imatrix(llama, model, text, out, *more):
    command = [llama.tool("llama-imatrix"), "-m", model, "-f", text, "-o", out]
    command += ["--chunks", "4", "-c", "512", "--output-format", "gguf", "--no-ppl", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return imatrix.read(out)


def cosine(x, y):
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_values_agree_with_llama_imatrix(llama, ours, small, text, tmp_path):
    a, b = imatrix.read(ours), of_llama_imatrix(llama, small.f16, text, tmp_path / "theirs.gguf")
    names = [name for name in b.in_sum2 if name.startswith("blk.")]
    assert set(names) == set(a.in_sum2)
    assert len(names) == 12 * 7
    for name in names:
        x, y = mean_squares(a, name)[0], mean_squares(b, name)[0]
        assert cosine(x, y) > 0.999, name
        assert x.mean() == pytest.approx(y.mean(), rel=0.02), name
        assert a.counts[name] == 4 * 512


@pytest.mark.parametrize(
    "family", [by_name(name) for name in ("mixtral", "qwen3-moe", "granite-4-h", "qwen3.5")], ids=lambda f: f.name
)
def test_experts_and_linear_attention_agree_with_llama_imatrix(family, cli, llama, tmp_path):
    """Random models are sensitive: a token may go to another expert for a rounding error, so the bounds are wider."""
    model = family.build(tmp_path / family.name)
    more = any_tokenizer_environment(tmp_path / "llama.cpp", llama) if family.byte_level else {}
    book = tmp_path / "book.txt"
    lines = [line.split()[::step] for line in LINES for step in (1, 2, 3)]
    rng = np.random.default_rng(0)
    book.write_text("\n".join(" ".join(lines[n]) for n in rng.integers(0, len(lines), 400)) + "\n")
    run = tmp_path / "run"
    arguments = (model, "--out", run, "--calib-text", book, "--alpha", 0, "--samples", 4, "--low-layers", 0)
    done = cli("convert", *arguments, "--keep-f16", env=os.environ | more)
    assert done.returncode == 0, done.stderr
    a = imatrix.read(run / "imatrix.gguf")
    b = of_llama_imatrix(llama, run / f"{family.name}-F16.gguf", book, tmp_path / "theirs.gguf")
    assert set(a.in_sum2) <= set(b.in_sum2)
    expert_tensors = [name for name in a.in_sum2 if "_exps" in name]
    assert len(expert_tensors) == {"qwen3.5": 0, "granite-4-h": 4 * 3}.get(family.name, 2 * 3)
    for name in a.in_sum2:
        assert a.counts[name].sum() == b.counts[name].sum(), name
        assert np.abs(a.counts[name] - b.counts[name]).sum() <= 0.02 * b.counts[name].sum(), name
        for x, y, seen in zip(mean_squares(a, name), mean_squares(b, name), b.counts[name], strict=True):
            if seen >= 64:
                assert cosine(x, y) > 0.995, name
                assert x.mean() == pytest.approx(y.mean(), rel=0.05), name
