"""Measured values as files on disk have them."""

import json
from dataclasses import replace

import msgspec
import pytest
from builders import eval_of

from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.measurements import (
    Divergence,
    Estimate,
    EvalConditions,
    EvalResult,
    Figures,
    Metrics,
    Spread,
    largest,
)
from luq_gguf.core.profile_facts import CalibrationFacts
from luq_gguf.core.speeds import BenchRow, Ratio, Samples
from luq_gguf.core.sweeps import CalibrationMix, MeterConditions, MixConditions, MixPoint, MixRanking, Sweep, SweepPoint
from luq_gguf.method.metrics import intervals
from luq_gguf.reporting import page
from luq_gguf.run import serialization

# A point of a sweep as luq-gguf 0.x keeps it in .work/points.
POINT = """{
 "n_bytes": 4306656,
 "bpw": 5.1,
 "metrics": {
  "accuracy": {
   "value": 0.5,
   "low": 0.25,
   "high": 0.75
  },
  "accuracy_change": null,
  "kld": {
   "mean": 0.001,
   "low": 0.0005,
   "high": 0.002,
   "median": 1e-05,
   "p90": 0.003,
   "p99": 0.01,
   "n_positions": 120,
   "floor": 1e-09,
   "missing_beyond_kept": 0.0
  },
  "kld_answer": null,
  "kld_text": null,
  "same_top": 0.975,
  "perplexity": null,
  "metric": "exact"
 }
}
"""
FIGURES = Figures(
    4306656,
    5.1,
    Metrics(
        Estimate(0.5, 0.25, 0.75),
        None,
        Divergence(0.001, 0.0005, 0.002, 1e-5, 0.003, 0.01, 120, floor=1e-9, missing_beyond_kept=0.0),
        None,
        None,
        0.975,
        None,
        "exact",
    ),
)


def test_a_kept_point_reads_as_it_was_written_and_is_written_to_the_same_bytes(tmp_path):
    (tmp_path / "point.json").write_text(POINT)
    assert serialization.read_value(tmp_path / "point.json", Figures, "sweep") == FIGURES
    serialization.write_json(tmp_path / "again.json", FIGURES.to_json())
    assert (tmp_path / "again.json").read_text() == POINT


def test_keys_that_another_version_added_are_ignored(tmp_path):
    (tmp_path / "point.json").write_text(json.dumps(json.loads(POINT) | {"joules": 3}))
    assert serialization.read_value(tmp_path / "point.json", Figures, "sweep") == FIGURES


def test_what_a_metric_or_no_reference_leaves_out_is_no_key_and_what_was_not_asked_is_null():
    conditions = EvalConditions("easy", "0f", 32, None, None, "95%")
    spread = Spread(0.1, 0.0, 0.2, 0.1, 0.1, 0.1, 3)
    alone = EvalResult(
        file="f", file_sha256="0a", reference=None, n_samples=3, metric=None, accuracy=None, kld=None,
        kld_prompt=spread, kld_answer=None, kld_text=None, same_top=None, perplexity=None, n_chunks=0,
        conditions=conditions,
    )  # fmt: skip
    content = alone.to_json()
    assert list(content) == [
        *("file", "file_sha256", "reference", "n_samples", "metric", "accuracy", "kld", "kld_prompt", "kld_answer"),
        *("kld_text", "same_top", "perplexity", "n_chunks", "conditions"),
    ]
    assert list(content["conditions"]) == [
        *("data", "data_sha256", "max_tokens", "threads", "kept_tokens_per_position", "interval")
    ]
    assert content["kld"] is None
    assert list(content["kld_prompt"]) == ["mean", "low", "high", "median", "p90", "p99", "n_positions"]
    assert alone.metrics == Metrics(None, None, None, None, None, None, None, None)


def test_points_of_a_sweep_have_the_contracts_keys_in_their_order():
    figures = replace(FIGURES, average_bits=4.5)
    measured = json.loads(POINT) | {"average_bits": 4.5}
    point = SweepPoint.of("random", figures, seed=3, low_layers=(7, 2)).to_json()
    expected = {"order": "random", "seed": 3, "n_low": 2, "low_layers": [2, 7]} | measured
    assert json.dumps(point) == json.dumps(expected)
    best = SweepPoint.of("best", figures, budget_bytes=5_000_000).to_json()
    told = {"order": "best", "seed": 0, "n_low": None, "low_layers": [], "budget_bytes": 5_000_000}
    assert json.dumps(best) == json.dumps(told | measured)


def test_a_row_of_bench_has_the_contracts_keys_in_their_order():
    one = Samples(2.0, 0.0, 2.0, (2.0,))
    told = {"mean": 2.0, "std": 0.0, "median": 2.0, "samples": [2.0]}
    row = BenchRow(
        "f.gguf", 10, 4.5, 2, one, one, {"64": one}, Ratio(1.0, None, None), None, 99, True,
        {"first_token": one, "peak_rss_bytes": 7},
    )  # fmt: skip
    expected = {
        "file": "f.gguf",
        "sha256": None,
        "kernels": False,
        "n_bytes": 10,
        "bpw": 4.5,
        "threads": 2,
        "decode_tps": told,
        "prefill_tps": told,
        "prefill": {"64": told},
        "decode_ratio": {"value": 1.0, "low": None, "high": None},
        "prefill_ratio": None,
        "peak_rss_bytes": 99,
        "fits_memory": True,
        "image": {"first_token": told, "peak_rss_bytes": 7},
    }
    assert json.dumps(row.to_json()) == json.dumps(expected)


CALIBRATION = CalibrationFacts(
    sources=("easy",), alpha=0.5, n_multimodal=4, n_text=4, n_tokens=90, seed=0, sha256="0f", skipped_images=()
)
CONDITIONS = MeterConditions("f16.gguf", "easy", "0f", 8, 0, "auto", 4, "IQ1_M", "Q4_K_M")
MIX = CalibrationMix(
    0.5,
    (MixPoint(0.0, "ranking", 1, (3,), **vars(replace(FIGURES, average_bits=4.5))),),
    (MixRanking(0.0, -0.5),),
    MixConditions(**vars(CONDITIONS), calibration=CALIBRATION),
)


def test_a_sweep_and_its_calibration_mix_read_as_they_were_written(tmp_path):
    figures = replace(FIGURES, average_bits=16.0)
    points = (SweepPoint.of("entropy", FIGURES, low_layers=(1,)), SweepPoint.of("uniform F16", figures))
    swept = Sweep(points, CONDITIONS)
    serialization.write_json(tmp_path / "sweep.json", swept.to_json())
    serialization.write_json(tmp_path / "alpha.json", MIX.to_json())
    assert serialization.read_sweep(tmp_path / "sweep.json") == swept
    assert serialization.read_mix(tmp_path / "alpha.json") == MIX
    content = replace(swept, alpha=MIX).to_json()
    assert list(content) == ["points", "conditions", "alpha"]
    keys = ["order", "seed", "n_low", "low_layers", "n_bytes", "bpw"]
    assert [list(point) for point in content["points"]] == [[*keys, "metrics"], [*keys, "average_bits", "metrics"]]
    keys = ["alpha", "changes", "n_low", "low_layers", "n_bytes", "bpw", "metrics", "average_bits"]
    assert list(content["alpha"]["points"][0]) == keys
    assert list(content["alpha"]["conditions"]) == [*CONDITIONS.to_json(), "calibration"]


# What eval in the first and in a later version writes of a file, and what bench in the first one did.
EVAL = {
    "file": "f.gguf", "reference": None, "n_samples": 3, "metric": "exact",
    "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75},
    "kld": None, "kld_prompt": None, "kld_answer": None, "kld_text": None, "same_top": None, "perplexity": None,
    "n_chunks": 0, "conditions": {"data": "easy", "data_sha256": "0f", "max_tokens": 32, "threads": None,
                                  "kept_tokens_per_position": None, "interval": "95%"},
}  # fmt: skip
LATER = {"file_sha256": "0a", "f1": 0.5, "benchmarks": None, "joules": 3}
MACHINE = {
    "cpu": "c", "features": ["avx2"], "physical_cores": 2, "logical_cores": 4, "memory_bytes": 2**30, "governor": None,
    "system": "Linux", "busy_share_before": 0.1, "build": {"package": "p 1", "flags": []},
}  # fmt: skip
BENCH = {
    "machine": MACHINE,
    "conditions": {
        "repetitions": 2, "prompt_tokens": [64], "generated_tokens": 8, "threads": [1, 2], "image": "made",
        "order": "o", "ratio": "r", "baseline": None,
    },
    "rows": [],
}  # fmt: skip


def test_evaluations_of_all_versions_are_read_and_those_of_others_stay_as_they_are(tmp_path):
    path = tmp_path / "eval.json"
    serialization.write_json(path, EVAL | LATER | {"others": [EVAL]})
    later, first = serialization.read_evals(path)
    assert (later.file_sha256, later.f1, later.benchmarks) == ("0a", 0.5, None)
    assert first.to_json() == EVAL
    serialization.add_eval(path, replace(first, file="g.gguf"))
    assert json.loads(path.read_text()) == EVAL | {"file": "g.gguf", "others": [EVAL | LATER, EVAL]}


def test_speeds_of_the_first_version_are_read(tmp_path):
    spread = {"mean": 2.0, "std": 0.0, "median": 2.0, "samples": [2.0]}
    row = {
        "file": "f.gguf", "n_bytes": 10, "bpw": 4.5, "threads": 2, "decode_tps": spread, "prefill_tps": None,
        "prefill": {}, "decode_ratio": None, "prefill_ratio": None, "peak_rss_bytes": 9, "fits_memory": True,
        "image": None,
    }  # fmt: skip
    rows = [row, row | {"threads": 1}]
    serialization.write_json(tmp_path / "bench.json", BENCH | {"rows": rows})
    bench = serialization.read_bench(tmp_path / "bench.json")
    assert [(row.sha256, row.name) for row in bench.rows_of_most_threads] == [(None, "f.gguf")]
    assert bench.machine.to_json() == MACHINE


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval", EVAL | {"accuracy": {"value": "x", "low": 0, "high": 1}}),
        ("eval", EVAL | {"others": 5}),
        ("eval", []),
        ("bench", BENCH | {"rows": [{"file": "f"}]}),
        ("bench", {"rows": []}),
        ("sweep", {"points": [], "conditions": {"low": "IQ1_M"}}),
        ("alpha", {"points": [5]}),
    ],
)
def test_damaged_measurements_name_the_command_that_makes_them(tmp_path, name, content):
    serialization.write_json(tmp_path / f"{name}.json", content)
    read = {"eval": serialization.read_evals, "bench": serialization.read_bench, "sweep": serialization.read_sweep,
            "alpha": serialization.read_mix}[name]  # fmt: skip
    with pytest.raises(RunFolderError, match=f"is not a valid luq-gguf {name}") as caught:
        read(tmp_path / f"{name}.json")
    assert caught.value.hint == f"Run luq-gguf {name} again."


def measured(**changes):
    conditions = {name: changes.pop(name) for name in ("data_sha256", "max_tokens") if name in changes}
    content = EVAL | {"file_sha256": "0a"} | changes
    return msgspec.convert(content | {"conditions": EVAL["conditions"] | conditions}, EvalResult)


def test_evaluations_of_a_file_are_kept_by_all_their_conditions_and_the_largest_is_shown(tmp_path):
    path = tmp_path / "eval.json"
    whole = measured(n_samples=100)
    added = [whole, measured(n_samples=100, max_tokens=1), measured(n_samples=1, data_sha256="0e")]
    for result in added:
        serialization.add_eval(path, result)
    kept = serialization.read_evals(path)
    assert list(kept) == added[::-1]
    assert largest(kept) == whole
    serialization.add_eval(path, whole)
    assert len(serialization.read_evals(path)) == 3, "the same measurement again takes its own place"
    section = page.eval_section(serialization.read_evals(path))
    assert [row[-2] for row in section.rows] == ["100"]
    assert section.texts == ["Of every file, the measurement on the most samples is shown.", "eval.json has 2 more."]


def test_evaluations_of_a_former_file_of_the_same_name_go(tmp_path):
    path = tmp_path / "eval.json"
    for result in (measured(), measured(n_samples=1), measured(file="g.gguf"), measured(file_sha256="0b")):
        serialization.add_eval(path, result)
    assert [(r.file, r.file_sha256) for r in serialization.read_evals(path)] == [("f.gguf", "0b"), ("g.gguf", "0a")]


def test_splits_and_scores_read_as_they_were_written_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "eval.json"
    result = eval_of("f.gguf", [1, 0, 0.3, 1], {"read": [0, 1], "count": [2, 3]}, [1, 1, 1, 1])
    serialization.add_eval(path, result)
    assert serialization.read_evals(path) == (result,)
    content = json.loads(path.read_text())
    assert content["scores"] == "1 0 0.3 1"
    assert list(content["splits"]) == ["read", "count"]
    keys = ["n_samples", "accuracy", "reference_accuracy", "accuracy_change", "scores"]
    assert [list(part) for part in content["splits"].values()] == [keys, keys]
    assert list(content["accuracy_change"]) == ["value", "low", "high", "n_questions"]
    for key, bad in (("scores", "1 x"), ("scores", 1), ("splits", ["read"]), ("splits", {"read": {"n_samples": "1"}})):
        serialization.write_json(path, content | {key: bad})
        with pytest.raises(RunFolderError, match="is not a valid luq-gguf eval"):
            serialization.read_evals(path)


def test_the_same_questions_with_splits_take_the_place_of_those_without(tmp_path):
    path = tmp_path / "eval.json"
    serialization.add_eval(path, eval_of("f.gguf", [1, 0]))
    split = eval_of("f.gguf", [1, 0], {"read": [0], "count": [1]})
    serialization.add_eval(path, split)
    assert serialization.read_evals(path) == (split,)


def test_a_change_of_an_older_file_has_no_number_of_questions():
    older = msgspec.convert(EVAL | {"accuracy_change": {"value": -0.02, "low": -0.05, "high": 0.01}}, EvalResult)
    assert intervals.in_points(older.accuracy_change) == "-2.0 points (-5.0 to +1.0)"
    assert page.eval_section([older]).rows[0][5] == "-2.0 points (-5.0 to +1.0)"
