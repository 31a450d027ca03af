"""What is expected to take how long, and where the time went: products and sums, and what a machine teaches."""

import json
import time

import pytest

from luq_gguf.run import durations
from luq_gguf.run.folder import RunFolder

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_work_is_weights_times_what_one_takes_by_types():
    work = durations.quantize_work({"a": 10**9, "b": 10**9}, {"a": "IQ1_M", "b": "Q4_K"})
    assert work == pytest.approx(0.202 * 1000 + 0.143 * 1000)
    assert durations.token_work(10**9, 1000) == pytest.approx(1000 * durations.token_work(10**9, 1))


def test_what_a_machine_took_is_expected_the_next_time():
    work = {durations.PROFILE: 100.0, durations.QUANTIZE: 50.0}
    first = durations.expected(work, threads=2)
    assert first.seconds == {durations.PROFILE: 50.0, durations.QUANTIZE: 25.0}
    assert "a guess until this machine has made a file" in first.sentence()
    durations.learn(work, durations.Durations({durations.PROFILE: 200.0, durations.QUANTIZE: 1.0}), threads=2)
    again = durations.expected({durations.PROFILE: 10.0}, threads=2)
    assert again.seconds == {durations.PROFILE: pytest.approx(20.0)}
    assert durations.expected(work, threads=2).seconds[durations.QUANTIZE] == 25.0, "a second consists of loading"
    little = {durations.PROFILE: 1.0}
    durations.learn(little, durations.Durations({durations.PROFILE: 60.0}), threads=2)
    assert durations.expected(work, threads=2).seconds[durations.PROFILE] == 200.0, "of a tiny model it is loading, too"
    assert durations.expected(work, threads=4).seconds[durations.PROFILE] == 25.0, "other threads, another machine"


def test_a_damaged_cache_teaches_nothing():
    work = {durations.PROFILE: 200.0}
    durations.learn(work, durations.Durations({durations.PROFILE: 200.0}), threads=2)
    path = durations._path(2)
    for content in ("", "[]", '{"profile": -1}', '{"profile": "x"}', '{"profile": 1e300}'):
        path.write_text(content)
        assert durations.expected(work, threads=2).seconds == {durations.PROFILE: 100.0}


def test_sentences_name_the_longest_first_and_no_trifles():
    took = durations.Durations({"a": 10.0, "b": 100.0, "c": 0.5})
    assert took.listed() == "b 1 min 40 s, a 10.0 s"
    assert took.sentence() == "expected to take about 1 min 50 s: b 1 min 40 s, a 10.0 s"
    assert durations.Durations({"a": 59.0}).sentence() is None


def test_stages_inside_of_stages_count_once(tmp_path):
    with RunFolder(tmp_path / "run", create=True) as run:
        with run.timed("file a.gguf"):
            time.sleep(0.02)
            with run.timed("f16"):
                time.sleep(0.1)
        assert 0.02 <= run.seconds["file a.gguf"] < 0.1 <= run.seconds["f16"]
        spent = durations.spent(run.seconds)
    assert set(spent.seconds) == {durations.QUANTIZE, durations.CONVERT}
    assert json.loads(json.dumps(spent.to_json())) == {durations.QUANTIZE: 0.0, durations.CONVERT: 0.1}
