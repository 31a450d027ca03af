"""Publishes a finished run folder with its card on the Hub. Nothing is sent before everything is checked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import atomic
from luq_gguf.core.errors import HubAccessError, UploadError
from luq_gguf.core.hashing import hash_of, sha256_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.llamacpp import split, tools
from luq_gguf.publishing import access, artifacts, card, card_content, publish
from luq_gguf.publishing.access import Standing, Target
from luq_gguf.publishing.artifacts import OutputFile, RunArtifacts
from luq_gguf.publishing.publish import File
from luq_gguf.reporting import build
from luq_gguf.run.folder import RunFolder

LARGEST = 50 * 10**9  # bytes: the largest file that the Hub accepts
CARD = "README.md"
SHARDS = ".work/shards"


@dataclass(frozen=True)
class Upload:
    """Describes what was sent, or would be with `dry_run`. `files` are all files of the repository that are ours, and
    `unchecked` says why the Hub was not asked about it."""

    target: Target
    files: tuple[File, ...]
    sent: tuple[File, ...]
    url: str | None
    commit: str | None
    pull_request: str | None
    dry_run: bool
    exists: bool
    unchecked: str | None = None

    def to_json(self) -> dict[str, Any]:
        names = {file.name for file in self.sent}
        return {
            "repo": self.target.repo,
            "url": self.url,
            "commit": self.commit,
            "pull_request": self.pull_request,
            "dry_run": self.dry_run,
            "unchecked": self.unchecked,
            "n_bytes_sent": sum(file.n_bytes for file in self.sent),
            "files": [
                {"name": f.name, "n_bytes": f.n_bytes, "sha256": f.sha256, "sent": f.name in names} for f in self.files
            ],
        }


def check(target: Target, base_model: str | None) -> Standing:
    """Check all that can be known before there is anything to send. Raises HubAccessError and UploadError."""
    _check_base_model(base_model)
    return access.check(target)


def _check_without_hub(target: Target, base_model: str | None) -> tuple[Standing, str | None]:
    """The same for a dry run, which needs neither token nor network: where nothing can be asked, also why."""
    _check_base_model(base_model)
    unchecked = access.check_offline(target)
    if unchecked is None:
        try:
            return access.check(target), None
        except UploadError as error:
            unchecked = error.message.rstrip(".")
    return Standing("", exists=False, head=None), unchecked


def _check_base_model(base_model: str | None) -> None:
    if base_model is not None and base_model.count("/") != 1:
        raise HubAccessError(f"--base-model {base_model} is not a Hub id.", "Write it as OWNER/NAME.")


def upload(
    run_dir: Path,
    target: Target,
    *,
    dry_run: bool = False,
    base_model: str | None = None,
    largest: int = LARGEST,
    reporter: Reporter = Reporter(),
) -> Upload:
    """Publish in one commit what a run folder has and the repository does not.

    Raises RunFolderError for a folder that is unfinished or was changed, and HubAccessError and UploadError as `access`
    and `publish` do.
    """
    with RunFolder(run_dir) as run:  # refused before the Hub is asked, and before anything is drawn
        artifacts.collect(run)
    standing, unchecked = _check_without_hub(target, base_model) if dry_run else (check(target, base_model), None)
    build.report(run_dir)
    with RunFolder(run_dir) as run:
        finished = artifacts.collect(run)
        shards = _shards(finished, largest, reporter)
        files = _files(finished, shards, target, base_model or finished.base_model, reporter)
        head = standing.head
        missing = publish.differing(target, head, files) if head else list(files)
        if dry_run:
            return Upload(
                target, files, tuple(missing), None, None, None,
                dry_run=True, exists=standing.exists, unchecked=unchecked,
            )  # fmt: skip
        if any(not file.path.exists() for file in missing):  # shards of an earlier upload, gone from the Hub since
            run.forget("shards")
            shards = _shards(finished, largest, reporter)
        title = f"{finished.profile.model}: {finished.model.name}"
        done = publish.publish(target, standing, files, title, reporter.info)
        shutil.rmtree(run.file(SHARDS), ignore_errors=True)
        run.update(upload={"repo": target.repo, "commit": done.commit, "pull_request": done.pull_request})
        return Upload(
            target, files, done.sent, done.url, done.commit, done.pull_request, dry_run=False, exists=standing.exists
        )


def _shards(finished: RunArtifacts, largest: int, reporter: Reporter) -> tuple[OutputFile, ...]:
    """The model's files as the Hub takes them: itself, or its shards. They are named though they may be gone again."""
    run, model = finished.run, finished.model
    if model.n_bytes <= largest:
        return (model,)
    key = hash_of(model.sha256, largest)
    record = run.read()["stages"].get("shards")
    if not record or record.get("key") != key:
        reporter.info(f"{model.name} is split into shards: the Hub accepts files of at most {largest / 1e9:.0f} GB")
        shutil.rmtree(run.file(SHARDS), ignore_errors=True)
        paths = split.split(tools.find(), run.file(model.name), run.file(SHARDS), largest)
        names = [f"{SHARDS}/{path.name}" for path in paths]
        run.run_stage("shards", key, names, lambda: None)
    return tuple(
        OutputFile(name, fact["n_bytes"], fact["sha256"]) for name, fact in sorted(run.outputs("shards").items())
    )


def _files(
    finished: RunArtifacts,
    shards: Sequence[OutputFile],
    target: Target,
    base_model: str | None,
    reporter: Reporter,
) -> tuple[File, ...]:
    """All that goes into the repository; the card is written on the way."""
    run = finished.run
    names = [Path(file.name).name for file in shards]
    _write_card(finished, names, target, base_model, reporter)
    large = [*shards, *([finished.mmproj] if finished.mmproj else []), finished.imatrix]
    files = [File(run.file(file.name), Path(file.name).name, file.n_bytes, file.sha256) for file in large]
    small = [run.file(CARD), *artifacts.companions(finished), *(run.file(name) for name in card_content.FIGURES)]
    files += [_file(path, str(path.relative_to(run.path))) for path in small]
    return tuple(files)


def _file(path: Path, name: str) -> File:
    return File(path, name, path.stat().st_size, sha256_of(path))


def _write_card(
    finished: RunArtifacts,
    names: Sequence[str],
    target: Target,
    base_model: str | None,
    reporter: Reporter,
) -> None:
    """README.md of the run folder; one that a person has changed since is left as it is."""
    run = finished.run
    path, ours = run.file(CARD), finished.facts.get("card_sha256")
    if path.exists() and sha256_of(path) != ours:
        reporter.info(f"{path} was changed by hand and is uploaded as it is; delete it to have it written again")
        return
    revision = finished.facts.get("revision") if base_model == finished.base_model else None
    base = card.read_base_card(base_model or str(finished.facts["model"]), revision)
    if not base.licence_name:
        reporter.info("the base model's licence is not known, so the card names none (its README.md could not be read)")
    facts = card_content.make_card_content(finished, target.repo, names, base, base_model, _licences(finished))
    publisher = target.repo.split("/")[0]
    atomic.write_text(path, card.render(facts, base, base_model, card_content.results(finished), publisher))
    run.update(card_sha256=sha256_of(path))


def _licences(finished: RunArtifacts) -> dict[str, str | None]:
    """Of the Hub datasets that the run was calibrated with, as their cards name them."""
    commits = finished.profile.calibration.commits
    return {name: card.dataset_licence(name.split(":")[0], commit) for name, commit in commits.items()}
