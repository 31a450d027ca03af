"""Measures the effect of the multimodal share (the paper's alpha) on the ranking and on the importance, separately.

For every alpha the model is profiled again, in a run folder of its own inside the run's. Files are then made with that
profile's ranking and importance matrix, and with one of the two taken from the run's own profile.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from luq_gguf.calibration.stage import make_profile, read_data
from luq_gguf.core.calibration_set import PROCESSOR, CalibrationSet
from luq_gguf.core.errors import BudgetError, CalibrationError, CheckpointError
from luq_gguf.core.json_value import given
from luq_gguf.core.sweeps import CalibrationMix, MixConditions, MixPoint, MixRanking
from luq_gguf.core.types import Profile
from luq_gguf.method import orders, ranking
from luq_gguf.planning.meter import Meter
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import Session


@dataclass(frozen=True)
class CalibrationMixRequest:
    """Which shares, at which numbers of low layers (None: half of all), calibrated with what."""

    alphas: tuple[float, ...]
    counts: tuple[int, ...] | None
    calibration: CalibrationSet


@dataclass(frozen=True)
class _MixProfile:
    """What one alpha's profile gives: entropies, and a meter whose files have its importance."""

    alpha: float
    profile: Profile
    meter: Meter


def check(session: Session, profile: Profile, request: CalibrationMixRequest) -> float:
    """Return the alpha of the run's own profile. Raises children of InputError where the mixes cannot be compared.

    The same samples at another share are compared, so the calibration must be the one that the run was profiled with.
    """
    spec = session.spec
    if not spec.checkpoint.has_vision:
        raise CheckpointError(f"{spec.checkpoint.name} reads text only: its alpha is always 0.", "Leave out --alpha.")
    n = spec.tensors.n_layers
    for count in request.counts or ():
        if count > n:
            raise BudgetError(
                f"{count} low layers are impossible: the model has {n} decoder layers.", f"Give 0 to {n}."
            )
    base = profile.calibration.alpha
    calibration = replace(request.calibration, alpha=base)
    drawn = read_data(session.run, calibration, spec.checkpoint)
    if drawn.sha256 != profile.calibration.sha256:
        raise CalibrationError(
            f"The run was profiled with calibration data other than {', '.join(drawn.sources)}.",
            "Give the --calib, --calib-text and --calib-samples that it was profiled with.",
        )
    return base


def measure_mixes(session: Session, profile: Profile, meter: Meter, request: CalibrationMixRequest) -> CalibrationMix:
    """Measure all points, and write alpha.json after each alpha."""
    request = replace(request, calibration=replace(request.calibration, pixels=_pixels_of(profile)))
    base = _MixProfile(check(session, profile, request), profile, meter)
    session = replace(session, reporter=session.reporter.once())
    n = session.spec.tensors.n_layers
    counts = sorted(set(request.counts if request.counts is not None else (n // 2,)))
    conditions = MixConditions(**vars(meter.conditions()), calibration=profile.calibration)
    result = CalibrationMix(base.alpha, (), (), conditions)
    total, done = 3 * len(request.alphas) * len(counts), 0
    for alpha in sorted(set(request.alphas)):
        with _profiled_mix(session, base, alpha, request) as mix:
            result = replace(result, rankings=(*result.rankings, MixRanking(alpha, _tau(base.profile, mix.profile))))
            arms = {"both": (mix, mix), "ranking": (mix, base), "imatrix": (base, mix)}
            for count in counts:
                for arm, (ranked, weighed) in arms.items():
                    low = orders.rank(ranked.profile.layers, "entropy")[:count]
                    measured = weighed.meter.low(low)
                    point = MixPoint(alpha, arm, count, tuple(sorted(low)), **vars(measured))
                    result = replace(result, points=(*result.points, point))
                    done += 1
                    session.reporter.progress("alpha: files", done, total)
        serialization.write_json(session.run.file("alpha.json"), result.to_json())
    return result


def _pixels_of(profile: Profile) -> str:
    return given(profile.calibration.pixels) or PROCESSOR


@contextmanager
def _profiled_mix(
    session: Session, base: _MixProfile, alpha: float, request: CalibrationMixRequest
) -> Iterator[_MixProfile]:
    """One alpha's profile, and files while inside; of the files' variants nothing is left behind."""
    if alpha == base.alpha:
        yield base
        return
    folder = session.run.work / f"alpha-{alpha:g}"
    with RunFolder(folder, create=True) as mix_run:
        mix_run.update(alpha=alpha)
        its = replace(session, run=mix_run)
        profile = make_profile(its, replace(request.calibration, alpha=alpha))
        quantization_stage.link_f16(its, session.run)
        yield _MixProfile(alpha, profile, base.meter.with_importance_of(its.with_dataset(profile)))
        shutil.rmtree(mix_run.work / "bank", ignore_errors=True)


def _tau(first: Profile, second: Profile) -> float:
    return ranking.tau([layer.bits for layer in first.layers], [layer.bits for layer in second.layers])
