"""`luq-gguf eval` on real files, against llama.cpp's own figures where it has them."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from gguf import GGUFReader

from luq_gguf.workflows import easy_vqa

one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 48)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text("\n".join(f"{q.text} {q.answer}" for q in easy_vqa.questions("train")[:500]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(converted, tmp_path_factory):
    """A copy of the converted run, so that what eval writes there disturbs no other test."""
    return converted.copy(tmp_path_factory.mktemp("eval") / "run").folder


@pytest.fixture(scope="module")
def evaluated(cli, run, converted, questions, book):
    arguments = ("--reference", run / converted.f16.name, "--data", questions, "--text", book, "--max-tokens", 4)
    done = cli("eval", run / converted.model.name, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_contract_and_the_run_folder_hold_the_same(evaluated, run, converted):
    assert {"file", "reference", "n_samples", "accuracy", "kld", "same_top", "perplexity"} <= set(evaluated)
    assert (evaluated["file"], evaluated["n_samples"]) == (converted.model.name, 48)
    assert {"mean", "median", "p90", "p99", "floor"} <= set(evaluated["kld"])
    assert 0 < evaluated["kld"]["mean"] < 0.05
    assert evaluated["kld"]["low"] <= evaluated["kld"]["mean"] <= evaluated["kld"]["high"]
    assert evaluated["accuracy"]["value"] > 0.9
    assert evaluated["same_top"] > 0.9
    saved = json.loads((run / "eval.json").read_text())
    assert {key: value for key, value in saved.items() if key != "others"} == evaluated


def test_the_16_bit_file_against_itself_is_within_the_noise(cli, run, converted, questions, evaluated):
    f16 = run / converted.f16.name
    done = cli("eval", f16, "--reference", f16, "--data", questions, "--max-tokens", 4, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 <= found["kld"]["mean"] <= found["kld"]["floor"] < 1e-4
    assert found["same_top"] == 1
    assert found["accuracy"] == found["reference_accuracy"]
    assert found["accuracy_change"]["value"] == 0
    saved = json.loads((run / "eval.json").read_text())
    assert [entry["file"] for entry in (saved, *saved["others"])] == [f16.name, converted.model.name]


def test_perplexity_and_text_divergence_are_llama_perplexitys(llama, run, converted, book, evaluated, tmp_path):
    chunks = str(evaluated["n_chunks"])
    command = [llama.tool("llama-perplexity"), "-f", book, "-c", "512", "--chunks", chunks]
    base = tmp_path / "base.kld"
    subprocess.run(
        [*command, "-m", run / converted.f16.name, "--kl-divergence-base", base], capture_output=True, check=True
    )
    compared = [*command, "-m", run / converted.model.name, "--kl-divergence-base", base, "--kl-divergence"]
    for _ in range(8):  # it may end without waiting for its log's thread, and then leaves out the last lines
        told = subprocess.run(compared, capture_output=True, text=True, check=True)
        said = told.stdout + told.stderr
        perplexity = re.search(r"Mean PPL\(Q\)\s*:\s*([\d.]+)", said)
        divergence = re.search(r"Mean\s+KLD:\s*([\d.]+)", said)
        if perplexity and divergence:
            break
    assert perplexity, said[-1500:]
    assert divergence
    assert evaluated["perplexity"] == pytest.approx(float(perplexity[1]), rel=1e-3)
    # its base file holds log-probabilities in 16 bits, cut at e^-16 below the largest
    assert evaluated["kld_text"]["mean"] == pytest.approx(float(divergence[1]), rel=0.05, abs=1e-4)


@one_model
def test_the_noise_floor_is_what_the_file_s_own_types_do_with_other_batches(run, converted, evaluated, book):
    from luq_gguf.llamacpp.runtime.client import LlamaClient
    from luq_gguf.method.metrics import kld

    floors = []
    for name in (converted.model.name, converted.f16.name):
        with (
            LlamaClient(run / name, n_ctx=96, n_batch=96) as whole,
            LlamaClient(run / name, n_ctx=96, n_batch=16) as cut,
        ):
            tokens = whole.tokenize(book.read_text())[0][:96]
            together, apart = whole.score_tokens(tokens, 0), cut.score_tokens(tokens, 0)
            assert np.array_equal(whole.score_tokens(tokens, 0, 16), apart)
            assert np.array_equal(whole.score_tokens(tokens, 0), together)
            assert np.array_equal(whole.score_tokens(tokens, 0, 96, last=32), together[-32:])
            assert np.array_equal(whole.score_tokens(tokens, 64, 16), apart[-32:])
        floors.append(kld.kl_divergence(together, apart)[-32:].mean())
    assert floors[0] == pytest.approx(evaluated["kld"]["floor"], rel=1e-3, abs=1e-9)
    assert floors[0] > floors[1]


@one_model
def test_the_same_again_measures_nothing(cli, run, converted, questions, book, evaluated):
    arguments = ("--reference", run / converted.f16.name, "--data", questions, "--text", book, "--max-tokens", 4)
    done = cli("eval", run / converted.model.name, *arguments)
    assert done.returncode == 0, done.stderr
    assert "against" in done.stdout
    assert "48/48" not in done.stderr  # no bar: nothing was asked


@one_model
def test_a_measurement_goes_on_at_the_part_that_is_missing(cli, run, converted, questions, book, evaluated):
    folder = next((run / ".work" / "eval").glob("file-reference-*/t0.safetensors")).parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {"q0.safetensors", "q16.safetensors", "q32.safetensors"} <= set(before)
    (folder / "q16.safetensors").unlink()
    arguments = ("--reference", run / converted.f16.name, "--data", questions, "--text", book, "--max-tokens", 4)
    done = cli("eval", run / converted.model.name, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == evaluated
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"q16.safetensors"}


@pytest.fixture
def line():
    return {"prompt": "is there a circle?", "answers": ["yes"]}


@one_model
def test_a_missing_image_is_refused(cli, run, converted, tmp_path, line):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(line | {"image": "nowhere.png"}))
    done = cli("eval", run / converted.model.name, "--data", data)
    assert done.returncode == 2
    assert "nowhere.png cannot be read" in done.stderr


@one_model
def test_a_metric_without_answers_is_refused(cli, run, converted, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "is there a circle?"}))
    done = cli("eval", run / converted.model.name, "--data", data, "--metric", "vqa")
    assert done.returncode == 2
    assert "1 of 1 questions have no answers" in done.stderr


@one_model
@pytest.mark.parametrize("answers", [None, [], ""])
def test_questions_without_answers_and_without_a_reference_are_refused(cli, run, converted, tmp_path, line, answers):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(line | {"answers": answers}))
    done = cli("eval", run / converted.model.name, "--data", data)
    assert done.returncode == 2
    assert "None of the questions of data.jsonl has an answer" in done.stderr
    assert "calibration" not in done.stderr


@one_model
def test_one_question_without_an_answer_is_told(cli, run, converted, tmp_path, line):
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps(line | more) + "\n" for more in ({}, {"answers": []}, {"answers": ["yes"] * 10}))
    )
    done = cli("eval", run / converted.model.name, "--data", data, "--max-tokens", 2)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 questions have no answers" in done.stderr
    assert "accuracy (vqa and exact, 2 questions)" in done.stdout


@one_model
def test_a_byte_order_mark_changes_no_perplexity(cli, run, converted, book, tmp_path):
    text = book.read_bytes()[:8000]
    results = []
    for name, start in (("plain.txt", b""), ("marked.txt", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(start + text)
        done = cli("eval", run / converted.model.name, "--text", tmp_path / name, "--chunks", 1, "--json")
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0]["perplexity"] == results[1]["perplexity"]
    assert results[0]["conditions"]["data_sha256"] == results[1]["conditions"]["data_sha256"]
    (tmp_path / "utf16.txt").write_bytes(text.decode().encode("utf-16"))
    done = cli("eval", run / converted.model.name, "--text", tmp_path / "utf16.txt")
    assert done.returncode == 2
    assert "utf16.txt is in UTF-16" in done.stderr


@one_model
@pytest.mark.parametrize("damaged_one", ["file", "reference"])
@pytest.mark.parametrize("asked", ["questions", "text"])
def test_weights_that_are_not_finite_end_in_a_sentence(
    cli, run, converted, questions, book, tmp_path, damaged_one, asked
):
    damaged = tmp_path / "damaged.gguf"
    shutil.copy(run / converted.f16.name, damaged)
    norm = next(t for t in GGUFReader(damaged, "r+").tensors if t.name == "blk.5.ffn_norm.weight")
    norm.data[3] = np.nan
    norm.data.flush()
    pair = (damaged, run / converted.f16.name)
    file, reference = pair if damaged_one == "file" else pair[::-1]
    data = ("--data", questions, "--samples", 2) if asked == "questions" else ("--text", book, "--chunks", 1)
    mmproj = ("--mmproj", run / converted.mmproj.name)
    done = cli("eval", file, "--reference", reference, *data, *mmproj, "--max-tokens", 2, "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "The logits of damaged.gguf are not finite: its weights are damaged." in done.stderr


@one_model
def test_the_reference_of_another_model_is_refused(cli, run, converted, questions):
    done = cli("eval", run / converted.model.name, "--reference", run / converted.mmproj.name, "--data", questions)
    assert done.returncode == 2
    assert "are not the same model (different architecture" in done.stderr


@one_model
def test_nothing_to_measure_on_is_refused(cli, run, converted):
    done = cli("eval", run / converted.model.name)
    assert done.returncode == 2
    assert "--data SET" in done.stderr


@one_model
def test_the_top_part_of_the_vocabulary_states_what_it_misses(run, converted, questions, tmp_path, evaluated):
    from dataclasses import replace

    from luq_gguf.evaluation import evaluate as evaluation
    from luq_gguf.evaluation.target import EvalTarget

    data = evaluation.read_data(
        str(questions), None, run / converted.f16.name, n_samples=None, n_chunks=0, seed=0, cache=tmp_path
    )
    target = EvalTarget(run / converted.model.name, run / converted.mmproj.name, max_tokens=4, top=8, n_ctx=512)
    reference = replace(target, model=run / converted.f16.name)
    part = evaluation.evaluate(target, reference, data, tmp_path / "work").result.kld
    whole = evaluated["kld"]["mean"]
    assert part.mean <= whole * (1 + 1e-5)
    assert part.missing_beyond_kept >= 0
    assert np.isfinite(part.missing_beyond_kept)


@one_model
def test_a_context_of_fewer_tokens_than_the_noise_floor_takes_is_enough(cli, run, converted, tmp_path):
    (tmp_path / "set.jsonl").write_text('{"prompt": "what is it?"}\n')
    how = ("--data", tmp_path / "set.jsonl", "--reference", run / converted.f16.name, "--max-tokens", 1, "--ctx", 32)
    done = cli("eval", run / converted.model.name, *how, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kld"]["floor"] > 0


@one_model
def test_the_same_question_many_times_is_one_and_has_no_interval(cli, run, converted, tmp_path):
    line = '{"prompt": "what is it?", "answers": ["a circle"]}\n'
    (tmp_path / "set.jsonl").write_text(line * 20 + line.replace("a circle", "a square"))
    f16 = run / converted.f16.name
    how = ("--data", tmp_path / "set.jsonl", "--max-tokens", 1)
    done = cli("eval", run / converted.model.name, "--reference", f16, *how, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_samples"] == 2  # another answer is another question, with the same divergence
    assert found["kld"]["low"] is found["kld"]["high"] is found["kld_answer"]["low"] is None
    (tmp_path / "one.jsonl").write_text(line)
    alone = cli(
        "eval", run / converted.model.name, "--reference", f16, "--data", tmp_path / "one.jsonl", *how[2:], "--json"
    )
    assert json.loads(alone.stdout)["kld"]["n_positions"] == found["kld"]["n_positions"]
    assert "19 of 21 questions repeat others: each counts once" in done.stderr
    shown = cli("eval", run / converted.model.name, "--reference", f16, *how)
    assert "no interval: fewer than 8 samples" in shown.stdout


@one_model
def test_a_picture_that_the_processor_rejects_is_refused_before_anything_is_asked(cli, run, converted, tmp_path):
    from PIL import Image

    Image.new("RGB", (2275, 10)).save(tmp_path / "long.png")
    (tmp_path / "set.jsonl").write_text('{"image": "long.png", "prompt": "what is it?", "answers": ["a"]}')
    done = cli("eval", run / converted.model.name, "--data", tmp_path / "set.jsonl")
    assert done.returncode == 2
    assert "long.png is too long for this model's processor" in done.stderr
