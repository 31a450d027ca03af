"""Opens the run folders that `plan`, `quantize` and `sweep` work in: profiled ones, and those of GGUF files, which need
no profile."""

from __future__ import annotations

from pathlib import Path

from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Profile, RunOptions
from luq_gguf.run import gguf_source, given_imatrix
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.given_imatrix import LoadedImatrix
from luq_gguf.run.preflight import model_of
from luq_gguf.run.serialization import read_profile
from luq_gguf.run.session import Session, open_profiled


def run_folder(run_dir: Path, model: str | None) -> RunFolder:
    """A run folder, which is made for a GGUF file where it is not there, or has no more than a profile."""
    if model is None or not gguf_source.is_gguf(model):
        return RunFolder(run_dir)
    return RunFolder(run_dir, create=True, overwrite=(run_dir / "profile.json").is_file())


def open_run(
    run: RunFolder,
    model: str | None,
    options: RunOptions,
    reporter: Reporter,
    *,
    low: str,
    high: str,
    given: LoadedImatrix | None,
) -> tuple[Session, Profile | None]:
    """The session of a run folder, and its profile, which a GGUF file can do without."""
    profiled = profile_of(run, model)
    session = open_profiled(run, model, options, reporter, low=low, high=high, given=given)
    return session.with_dataset(profiled) if profiled else session, profiled


def profile_of(run: RunFolder, model: str | None) -> Profile | None:
    path = run.file("profile.json")
    return None if not path.exists() and gguf_source.is_gguf(model or model_of(run)) else read_profile(path)


def given(path: Path | None) -> LoadedImatrix | None:
    """Another publisher's importance matrix, read before anything heavy."""
    return given_imatrix.load(path) if path else None


def store(session: Session) -> None:
    if session.spec.given:
        given_imatrix.store(session.run, session.spec.given)
