"""What a measured file costs beside llama.cpp: its header is not read again, its model is loaded once, and only what
has changed is written; its figures are those of a file that is spliced anew."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from msgspec import UNSET

from luq_gguf.core import atomic
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.llamacpp.gguf import reader, splice, validate
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.planning import meter as meters
from luq_gguf.planning import variants
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_session
from luq_gguf.workflows import easy_vqa

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def metering(small, tiny_model, tmp_path_factory):
    """A meter in a copy of a converted run, and plans of which tensors are those of its file (the last layers) or of
    its 16-bit file, which take the place of a bank."""
    folder = tmp_path_factory.mktemp("meter")
    source = easy_vqa.write_set(folder / "questions", "test", 3)
    copied = small.copy(folder / "run")
    with RunFolder(copied.folder) as run:
        session = open_session(run, str(tiny_model), low="Q2_K")
        files = (copied.folder / copied.f16.name, copied.model)
        wide, low = (reader.read(file).types for file in files)

        def plan(first: int):
            types = {name: low[name] if _layer(name) >= first else kind for name, kind in wide.items()}
            return variants.plan_of(session.spec, types, "best")

        questions = QuestionSet(source=source, max_tokens=3, metric="none")
        meter = meters.make_meter(session, questions)()
        yield SimpleNamespace(meter=meter, files=files, plan=plan, run=run, folder=folder)
    assert not list((run.work).glob("*" + atomic.SUFFIX)), "the point ends with the run"


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


@pytest.fixture
def spied(monkeypatch):
    """Counts what is asked: headers that are read, by file, models that are loaded, and questions, by model."""
    counts = SimpleNamespace(headers=Counter(), loaded=Counter(), asked=Counter())
    checked, start, measure = validate._checked, LlamaClient.__enter__, LlamaClient.measure

    def spy(counter, call):
        def called(first, *args, **how):
            counter[first.name if hasattr(first, "name") else first._name] += 1
            return call(first, *args, **how)

        return called

    monkeypatch.setattr(validate, "_checked", spy(counts.headers, checked))
    monkeypatch.setattr(LlamaClient, "__enter__", spy(counts.loaded, start))
    monkeypatch.setattr(LlamaClient, "measure", spy(counts.asked, measure))
    return counts


def test_a_measurement_reads_no_header_and_loads_its_model_once(metering, spied):
    metering.meter.spliced(metering.plan(11), metering.files)
    f16 = metering.files[0].name
    assert spied.asked == {f16: 3, "point.gguf": 3}
    assert spied.loaded[f16] == spied.loaded["point.gguf"] == 1
    spied.headers.clear(), spied.loaded.clear(), spied.asked.clear()
    metering.meter.spliced(metering.plan(10), metering.files)
    assert not spied.headers
    assert (spied.loaded, spied.asked) == ({"point.gguf": 1}, {"point.gguf": 3})
    spied.loaded.clear(), spied.asked.clear()
    metering.meter.spliced(metering.plan(10), metering.files)
    assert not spied.loaded, "what was measured is kept"


def test_the_16_bit_file_is_asked_once(metering, spied):
    metering.meter.spliced(metering.plan(11), metering.files)
    spied.asked.clear()
    figures = metering.meter.sixteen_bit()
    assert not spied.asked
    kld = figures.metrics.divergence
    assert (kld.mean, figures.metrics.same_top, kld.n_positions > 30) == (0, 1, True)
    assert 0 < kld.floor < 1e-4


def test_figures_are_those_of_a_file_that_is_spliced_anew(metering):
    meter, plan = metering.meter, metering.plan(9)
    meter.spliced(metering.plan(11), metering.files)
    figures = meter.spliced(plan, metering.files)
    anew = metering.folder / "anew.gguf"
    splice.splice(metering.files, plan.tensor_types, anew)
    work = metering.folder / "work"
    work.mkdir()
    reference = meter._reference
    told = evaluation.evaluate(replace(reference, model=anew), reference, meter._data, work, metric="none").result
    assert told.metrics == figures.metrics
    assert anew.stat().st_size == figures.n_bytes
    assert told.kld.mean > 0


def test_a_point_that_was_being_written_is_written_anew(metering, monkeypatch):
    meter, files = metering.meter, metering.files
    meter.spliced(metering.plan(11), files)
    with monkeypatch.context() as patch:
        patch.setattr(splice.file_ranges, "copy", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="the disk is full"):
            meter.spliced(metering.plan(7), files)
    plan = metering.plan(7)
    meter.spliced(plan, files)
    assert reader.read(meter._point.path).types == dict(plan.tensor_types)


def test_what_is_left_of_a_killed_run_is_not_believed(metering):
    meter, plan = metering.meter, metering.plan(11)
    path = meter._point.path
    path.write_bytes(b"left by another process")
    point = splice.Point(path)
    assert point.become(metering.files, plan.tensor_types) == path.stat().st_size
    assert reader.read(path).types == dict(plan.tensor_types)
    meter.close()
    assert not path.exists()


def test_splits_are_those_that_the_set_has_now_and_points_of_before_stay(metering, spied):
    """A set gets splits after points were measured on it, and then others: nothing is asked again for them."""
    meter, plan, files = metering.meter, metering.plan(8), metering.files
    reference = replace(meter._reference, answers=True)

    def with_splits(*names):
        samples = tuple(replace(s, split=name) for s, name in zip(meter._data.samples, names, strict=True))
        return meters.Meter(meter._session, reference, replace(meter._data, samples=samples), "exact")

    plain = with_splits(None, None, None).spliced(plan, files)
    assert plain.metrics.splits is UNSET
    asked = dict(spied.asked)
    found = with_splits("read", "count", "read").spliced(plan, files)
    assert replace(found, metrics=replace(found.metrics, splits=UNSET)) == plain
    scores = plain.metrics.scores.split()
    assert {name: part.scores for name, part in found.metrics.splits.items()} == {
        "read": f"{scores[0]} {scores[2]}",
        "count": scores[1],
    }
    assert found.metrics.splits["read"].accuracy_change.n_questions == 2
    others = with_splits("a", "a", "a").spliced(plan, files)
    assert list(others.metrics.splits) == ["a"]
    wide = with_splits("read", "count", "read").sixteen_bit().metrics.splits["read"]
    assert (wide.accuracy_change.value, wide.kld) == (0, UNSET)
    assert dict(spied.asked) == asked


def test_a_point_of_before_scores_were_kept_is_measured_again_only_for_splits(metering, spied):
    meter, plan, files = metering.meter, metering.plan(6), metering.files
    reference = replace(meter._reference, answers=True)
    samples = tuple(replace(sample, split="read") for sample in meter._data.samples)
    plain = meters.Meter(meter._session, reference, meter._data, "exact")
    data = replace(meter._data, samples=samples)
    split = meters.Meter(meter._session, reference, data, "exact", with_splits=True)
    measured = plain.spliced(plan, files)
    kept = plain._points / f"{plain._key(plan)}.json"
    content = json.loads(kept.read_text())
    del content["figures"]["metrics"]["scores"]
    kept.write_text(json.dumps(content))
    spied.asked.clear()
    assert plain.spliced(plan, files).metrics.scores is UNSET
    assert meters.Meter(meter._session, reference, data, "exact").spliced(plan, files).metrics.splits is UNSET
    assert not spied.asked
    assert split.spliced(plan, files).metrics.splits["read"].scores == measured.metrics.scores
    assert spied.asked == {"point.gguf": 3}
