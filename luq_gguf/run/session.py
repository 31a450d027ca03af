"""Defines what the stages of one run share: the run folder, its model's spec, the run options and the reporter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from luq_gguf.core.hashing import hash_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Plan, Profile, RunOptions
from luq_gguf.run import gguf_source, given_imatrix, serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.given_imatrix import LoadedImatrix
from luq_gguf.run.preflight import ModelSpec, claim, load_model_spec, model_of, with_dataset


@dataclass(frozen=True)
class Session:
    """A run folder that this process uses, and its model after the preflight."""

    run: RunFolder
    spec: ModelSpec
    options: RunOptions
    reporter: Reporter

    @property
    def imatrix(self) -> Path:
        """The file that importance is taken from."""
        return self.run.file(self.spec.imatrix_name)

    def with_dataset(self, profile: Profile) -> Session:
        """Return the session whose sizes are those of the calibration sources that were really read."""
        return replace(self, spec=with_dataset(self.spec, profile))


def open_session(
    run: RunFolder,
    model: str,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    dataset: str | None = None,
    given: LoadedImatrix | None = None,
) -> Session:
    """Open the preflight of a model whose layers may be `low` and whose file is otherwise `high`, with importance
    that is `given` or will be calibrated. Raises what `load_model_spec` raises."""
    spec = load_model_spec(run, model, options, reporter, low=low, high=high, dataset=dataset, given=given)
    return Session(run, spec, options, reporter)


def open_profiled(
    run: RunFolder,
    model: str | None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    given: LoadedImatrix | None = None,
) -> Session:
    """Open the same for a run folder whose model is not calibrated any more: that of run.json, or `model`, which may
    be a GGUF file. Raises what `load_model_spec` and `gguf_source.load_spec` raise."""
    where, types = model or model_of(run), {"low": low, "high": high}
    if not gguf_source.is_gguf(where):
        return open_session(run, where, options, reporter, **types, given=given)
    if run.read().get("model") is None:
        claim(run, where, overwrite=options.overwrite)
    spec = gguf_source.load_spec(run, where, options, reporter, **types, given=given)
    return Session(run, spec, options, reporter)


def load_spec_for_profile(
    run: RunFolder, model: str, options: RunOptions = RunOptions(), reporter: Reporter = Reporter()
) -> Session:
    """Claim a run folder for a model and load its spec. Types do not matter to a profile, so a model whose rows do not
    fit any block can be profiled too. Raises what `claim` and `load_model_spec` raise."""
    claim(run, model, overwrite=options.overwrite, subfolder=options.subfolder)
    return open_session(run, model, replace(options, allow_fallback=True), reporter)


def is_edited(run: RunFolder, plan: Plan) -> bool:
    """Return whether a run folder's plan.json says something else than the plan stage has written."""
    return "plan.json" in run.changed("plan") and run.read()["stages"]["plan"]["key"] != hash_of(plan.to_json())


def open_planned(
    run: RunFolder,
    model: str | None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    given: LoadedImatrix | None = None,
) -> tuple[Session, Plan]:
    """Open the preflight of a run folder's model with the types and the importance of its plan.json, and read that
    plan. `given` importance takes the place of the plan's. Raises RunFolderError."""
    planned = serialization.read_plan(run.file("plan.json"))
    accepted = replace(options, allow_fallback=True)  # by whoever made the plan
    if given is None and planned.imatrix:
        given = given_imatrix.stored(run, planned.imatrix)
    session = open_profiled(run, model, accepted, reporter, low=planned.low, high=planned.high, given=given)
    return session, planned
