"""Our importance matrix against llama-imatrix's, on the same text, model and chunks."""

import subprocess

import numpy as np
import pytest

from luq_gguf.imatrix import mean_squares
from luq_gguf.llamacpp import imatrix_file


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Enough text for several chunks of 512 tokens, of the kind the model knows."""
    from luq_gguf import easy_vqa

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


def test_show_statistics_reads_it(llama, ours, converted):
    command = [llama.tool("llama-imatrix"), "-m", converted.f16, "--in-file", ours, "--show-statistics"]
    said = ""
    for _ in range(5):  # it ends without waiting for its log's thread, so the end of what it says may be missing
        told = subprocess.run(command, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        said += told.stdout + told.stderr
        if "ffn_down" in said:
            break
    assert "(84 tensors)" in said
    assert "attn_k" in said


def test_values_agree_with_llama_imatrix(llama, ours, converted, text, tmp_path):
    theirs = tmp_path / "theirs.gguf"
    command = [llama.tool("llama-imatrix"), "-m", converted.f16, "-f", text, "-o", theirs]
    command += ["--chunks", "4", "-c", "512", "--output-format", "gguf", "--no-ppl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = imatrix_file.read(ours), imatrix_file.read(theirs)
    names = [name for name in b.in_sum2 if name.startswith("blk.")]
    assert set(names) == set(a.in_sum2)
    assert len(names) == 12 * 7
    for name in names:
        x, y = mean_squares(a, name), mean_squares(b, name)
        cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        assert cosine > 0.999, name
        assert x.mean() == pytest.approx(y.mean(), rel=0.02), name
        assert a.counts[name] == 4 * 512
