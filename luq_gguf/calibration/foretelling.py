"""Runs the stage that foretells what types cost: it quantizes rows of all matrices, makes the backward pass over the
profile's samples, and writes fisher.json. It is skipped while its inputs are unchanged.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from luq_gguf.calibration import stage
from luq_gguf.core.calibration_set import PROCESSOR, CalibrationSet
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.fisher import ForetoldKlds
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.json_value import given
from luq_gguf.core.types import Profile
from luq_gguf.llamacpp import sampled_rows
from luq_gguf.llamacpp.gguf import quant_error
from luq_gguf.run import serialization
from luq_gguf.run.session import Session

NAME, STAGE = "fisher.json", "fisher"
HOW = 3  # in what way the pass is made: what another one has foretold is not read


def calibrated_with(session: Session, profile: Profile) -> CalibrationSet:
    """Return the set that a run was profiled with, by run.json. Raises CalibrationError where it is not recorded, as of
    a profile that was merged from shards."""
    record = session.run.read().get("calibration")
    if not isinstance(record, Mapping) or not isinstance(record.get("samples"), int):
        raise CalibrationError(
            f"run.json in {session.run.path} does not say which samples the profile was made from.",
            "Run luq-gguf profile in this folder again.",
        )
    images, text = (source if isinstance(source := record.get(name), str) else None for name in ("images", "text"))
    seen = given(profile.calibration.pixels) or PROCESSOR
    return CalibrationSet(images, text, float(record["alpha"]), record["samples"], int(record["seed"]), seen)


def make_foretold(session: Session, profile: Profile, f16: Path, types: Mapping[str, Collection[str]]) -> ForetoldKlds:
    """Run the stage for these types of matrices (name -> types), and those that fisher.json has already.

    Raises CalibrationError where the profile's samples are no longer there or are others, and CheckpointError where the
    model cannot be walked backwards.
    """
    run, spec, reporter = session.run, session.spec, session.reporter
    path = run.file(NAME)
    source = (spec.checkpoint.fingerprint, profile.calibration.sha256, content_of(session.imatrix))
    how = (HOW, sampled_rows.HOW, quant_error.ROWS)
    known = serialization.read_value(path, ForetoldKlds, "plan") if path.exists() else None

    def key_of(wanted: Mapping[str, Collection[str]]) -> str:
        return hash_of(source, how, {name: sorted(kinds) for name, kinds in wanted.items()})

    if known:
        made = {name: set(of_types) for name, of_types in known.errors.items()}
        if run.is_done(STAGE, key_of(made)):
            if all(set(kinds) <= made.get(name, set()) for name, kinds in types.items()):
                return known
            types = {name: made.get(name, set()) | set(types.get(name, ())) for name in {**made, **types}}

    def make() -> None:
        from luq_gguf.calibration import backward_pass

        placement = stage.place(session)
        calibration = calibrated_with(session, profile)
        data = stage.read_data(run, calibration, spec.checkpoint)
        if data.sha256 != profile.calibration.sha256:
            raise CalibrationError(
                f"{', '.join(data.sources)} is not what the run was profiled with.",
                "Run luq-gguf profile in this folder again.",
            )
        data = stage.with_pixels(session, calibration, data)
        folder = run.work / "rows"
        reporter.progress("rows in all types", 0.0, 1.0)
        sampled_rows.make(f16, session.imatrix, types, folder)
        reporter.progress("rows in all types", 1.0, 1.0)
        foretold = backward_pass.foretell(
            spec.checkpoint,
            data,
            spec.matrices,
            list(types),
            functools.lru_cache(maxsize=16)(lambda name: sampled_rows.read(folder, name)),
            run.work,
            placement=placement,
            made_from=key_of(types),
            progress=backward_pass.BackwardProgress(
                stage.on_load(reporter), lambda done, total: reporter.progress("backward pass: samples", done, total)
            ),
        )
        serialization.write_json(path, foretold.to_json())
        shutil.rmtree(folder)

    run.run_stage(STAGE, key_of(types), [NAME], make)
    (run.work / "slopes.npz").unlink(missing_ok=True)
    return serialization.read_value(path, ForetoldKlds, "plan")
