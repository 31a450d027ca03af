"""Sensitivities are found again from files that were made with known ones, and say how sure they are."""

import numpy as np
import pytest

from luq_gguf.method import sensitivity
from luq_gguf.method.sensitivity import TensorGroup

CELLS = [TensorGroup(layer, part) for layer in range(6) for part in ("attn_v", "ffn_down")] + [
    TensorGroup(None, "output")
]


def known(rng):
    """Sensitivities whose parts and layers differ by factors, the head's by a hundred."""
    layer, part = rng.normal(0, 0.7, 6), {"attn_v": 0.5, "ffn_down": -0.5, "output": 4.5}
    return np.exp([part[c.part] + (layer[c.layer] if c.layer is not None else 0) for c in CELLS]) * 1e-3


def test_enough_files_tell_every_sensitivity():
    rng = np.random.default_rng(0)
    true, errors = known(rng), np.exp(rng.normal(-3, 1.5, (80, len(CELLS))))
    found = sensitivity.fit(CELLS, errors, errors @ true, np.full(80, 0.01))
    assert np.abs(np.log(found.values / true)).max() < 0.25
    fresh = np.exp(rng.normal(-3, 1.5, (20, len(CELLS))))
    for one in fresh:
        assert found.predict(one)[0] == pytest.approx(one @ true, rel=0.1)


def test_a_few_files_that_damage_one_part_or_layer_each_predict_others_within_their_errors():
    rng = np.random.default_rng(1)
    true = known(rng)
    base = np.full(len(CELLS), 1e-3)
    hits = [[c.part == part for c in CELLS] for part in ("attn_v", "ffn_down", "output")]
    hits += [[c.layer == layer for c in CELLS] for layer in range(6)]
    errors = np.array([np.where(hit, 0.1, base) for hit in hits])
    found = sensitivity.fit(CELLS, errors, errors @ true, np.full(len(errors), 0.1))
    off = []
    for one in np.exp(rng.normal(-3, 1, (200, len(CELLS)))):
        value, error = found.predict(one)
        off.append((value - one @ true) / error)
    assert np.mean(np.abs(off) < 2) > 0.85


def test_without_files_all_are_alike_and_every_file_narrows_the_doubt():
    nothing = sensitivity.fit(CELLS, np.empty((0, len(CELLS))), np.empty(0), np.empty(0))
    assert nothing.values == pytest.approx(np.ones(len(CELLS)))
    rng = np.random.default_rng(2)
    errors = np.exp(rng.normal(-3, 1, (12, len(CELLS))))
    measured = errors @ known(rng)
    doubts = [
        np.trace(sensitivity.fit(CELLS, errors[:n], measured[:n], np.full(n, 0.1)).covariance) for n in (1, 4, 12)
    ]
    assert doubts == sorted(doubts, reverse=True)


def test_a_divergence_of_nothing_and_errors_of_orders_of_magnitude_are_borne():
    rng = np.random.default_rng(3)
    errors = np.exp(rng.normal(-6, 4, (10, len(CELLS))))
    measured = np.concatenate([[0.0], errors[1:] @ known(rng)])
    found = sensitivity.fit(CELLS, errors, measured, np.full(10, 0.1))
    assert np.isfinite(found.values).all()
    assert np.isfinite(found.covariance).all()
    assert (found.drawn(rng) > 0).all()
