"""Publishes a finished run folder with its card on the Hub. Nothing is sent before everything is checked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import atomic
from luq_gguf.core.errors import HubAccessError, UploadError
from luq_gguf.core.hashing import hash_of, sha256_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.hf.download import hub_errors
from luq_gguf.llamacpp import labels, split, tools
from luq_gguf.publishing import access, artifacts, card, card_content, card_merge, publish
from luq_gguf.publishing.access import Standing, Target
from luq_gguf.publishing.artifacts import OutputFile, RunArtifacts
from luq_gguf.publishing.publish import File
from luq_gguf.reporting import build
from luq_gguf.run.folder import RunFolder

LARGEST = 50 * 10**9  # bytes: the largest file that the Hub accepts
CARD = "README.md"
SHARDS = ".work/shards"
ENDPOINT = "https://huggingface.co"


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
        head = standing.head
        there = _remote_card(target, head) if head else None
        files = _files(finished, shards, target, base_model or finished.base_model, there, reporter)
        replaceable = _replaceable(finished, files, target, there)
        missing = publish.differing(target, head, files, replaceable) if head else list(files)
        if dry_run:
            return Upload(
                target, files, tuple(missing), None, None, None,
                dry_run=True, exists=standing.exists, unchecked=unchecked,
            )  # fmt: skip
        if any(not file.path.exists() for file in missing):  # shards of an earlier upload, gone from the Hub since
            for name in shards:
                run.forget(_stage(finished, name))
            shards = _shards(finished, largest, reporter)
        n_files = len(finished.others) + 1
        title = f"{finished.profile.model}: {finished.model.name if n_files == 1 else f'{n_files} files'}"
        done = publish.publish(target, standing, files, title, reporter.info, replaceable=replaceable)
        for folder in run.work.glob(f"{Path(SHARDS).name}*"):
            shutil.rmtree(folder, ignore_errors=True)
        sent = {file.name: file.sha256 for file in files}
        run.update(
            upload={
                "repo": target.repo,
                "commit": done.commit,
                "pull_request": done.pull_request,
                "files": sent,
                "card": publish.blob_id(run.file(CARD)),
            }
        )
        return Upload(
            target, files, done.sent, done.url, done.commit, done.pull_request, dry_run=False, exists=standing.exists
        )


def _shards(finished: RunArtifacts, largest: int, reporter: Reporter) -> dict[str, tuple[OutputFile, ...]]:
    """Each model's files as the Hub takes them, the main one's first: itself, or its shards. They are named though they
    may be gone again."""
    return {file.name: _shards_of(finished, file, largest, reporter) for file in finished.models}


def _shards_of(finished: RunArtifacts, model: OutputFile, largest: int, reporter: Reporter) -> tuple[OutputFile, ...]:
    run, is_main = finished.run, model == finished.model
    if model.n_bytes <= largest:
        return (model,)
    key, stage = hash_of(model.sha256, largest), _stage(finished, model.name)
    folder = SHARDS if is_main else f"{SHARDS}-{labels.folder_of(model.name)}"
    record = run.read()["stages"].get(stage)
    if not record or record.get("key") != key:
        reporter.info(f"{model.name} is split into shards: the Hub accepts files of at most {largest / 1e9:.0f} GB")
        shutil.rmtree(run.file(folder), ignore_errors=True)
        paths = split.split(tools.find(), run.file(model.name), run.file(folder), largest)
        names = [f"{folder}/{path.name}" for path in paths]
        run.run_stage(stage, key, names, lambda: None)
    return tuple(OutputFile(name, fact["n_bytes"], fact["sha256"]) for name, fact in sorted(run.outputs(stage).items()))


def _stage(finished: RunArtifacts, name: str) -> str:
    return "shards" if name == finished.model.name else f"shards {name}"


def _files(
    finished: RunArtifacts,
    shards: Mapping[str, Sequence[OutputFile]],
    target: Target,
    base_model: str | None,
    there: Path | None,
    reporter: Reporter,
) -> tuple[File, ...]:
    """All that goes into the repository; the card is written on the way.

    At its top are what programs look for there and the card. What belongs to one file alone is in a folder of its own,
    since a repository may have several files.
    """
    run = finished.run
    names = {model: [Path(file.name).name for file in files] for model, files in shards.items()}
    folder, imatrix = labels.folder_of(finished.model.name), finished.imatrix
    licence = _write_card(finished, names, target, base_model, there, reporter)
    large = [file for files in shards.values() for file in files]
    large += [finished.mmproj] if finished.mmproj else []
    files = [File(run.file(file.name), Path(file.name).name, file.n_bytes, file.sha256) for file in large]
    files.append(File(run.file(imatrix.name), f"{folder}/{imatrix.name}", imatrix.n_bytes, imatrix.sha256))
    small = [*artifacts.companions(finished), *(run.file(name) for name in card_content.FIGURES)]
    files += [_file(path, f"{folder}/{path.relative_to(run.path)}") for path in small]
    for other in finished.others:
        own = labels.folder_of(other.name)
        files += [_file(path, f"{own}/{path.name}") for path in artifacts.companions_of(finished, other)]
    files += [_file(licence, f"{folder}/{licence.name}")] if licence else []
    return (_file(run.file(CARD), CARD), *files)


def _file(path: Path, name: str) -> File:
    return File(path, name, path.stat().st_size, sha256_of(path))


def _remote_card(target: Target, head: str) -> Path | None:
    """The card that the repository has at a commit, downloaded; None if it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        with hub_errors(target.repo):
            return Path(hf_hub_download(target.repo, CARD, revision=head))
    except EntryNotFoundError:
        return None


def _sent(finished: RunArtifacts, target: Target) -> dict[str, str] | None:
    """What this run folder has sent to a repository: name -> sha256; None where an older version did and kept no record
    of it."""
    record = finished.facts.get("upload") or {}
    if record.get("repo") != target.repo:
        return {}
    files = record.get("files")
    return {str(name): str(digest) for name, digest in files.items()} if isinstance(files, dict) else None


def _replaceable(
    finished: RunArtifacts, files: Sequence[File], target: Target, there: Path | None
) -> dict[str, frozenset[str]]:
    """What may be replaced in the repository: the card that ours was merged with, and of the files at its top, which
    may be another's, those that this run folder sent."""
    sent = _sent(finished, target)
    earlier = str((finished.facts.get("upload") or {}).get("card"))  # of a pull request that is still open
    replaceable = {CARD: frozenset({earlier, *([publish.blob_id(there)] if there else [])})}
    if sent is not None:
        top = [file for file in files if "/" not in file.name and file.name != CARD]
        replaceable |= {file.name: frozenset({sent.get(file.name, file.sha256)}) for file in top}
    return replaceable


def _write_card(
    finished: RunArtifacts,
    names: Mapping[str, Sequence[str]],
    target: Target,
    base_model: str | None,
    there: Path | None,
    reporter: Reporter,
) -> Path | None:
    """Write README.md of the run folder, unless a person has changed it since; return the licence that it links to, if
    that is to be sent too.

    Raises UploadError where the card would replace what somebody has written in the repository.
    """
    run = finished.run
    path, ours, sent = run.file(CARD), finished.facts.get("card_sha256"), _sent(finished, target) or {}
    if path.exists() and sha256_of(path) != ours:
        known = there is None or target.overwrite_card or sha256_of(there) in (sha256_of(path), ours, sent.get(CARD))
        if not known:
            raise UploadError(
                f"{path} was changed by hand, and so was {CARD} in {target.repo}.",
                "Take its changes over and add --overwrite-card, or delete the local one to have it written again.",
            )
        reporter.info(f"{path} was changed by hand and is uploaded as it is; delete it to have it written again")
        return None
    revision = finished.facts.get("revision") if base_model == finished.base_model else None
    base = card.read_base_card(base_model or str(finished.facts["model"]), revision)
    if not base.licence_name:
        reporter.info("the base model's licence is not known, so the card names none (its README.md could not be read)")
    folder = labels.folder_of(finished.model.name)
    if base.licence_file:
        base = base.with_link(f"{ENDPOINT}/{target.repo}/blob/main/{folder}/{base.licence_file.name}")
    facts = card_content.make_card_content(finished, target.repo, names, base, base_model, _licences(finished))
    publisher = target.repo.split("/")[0]
    text = card.render(facts, base, base_model, card_content.results(finished), publisher)
    whole = there is None or (sha256_of(there) in (ours, sent.get(CARD)) and card_merge.BEGIN not in there.read_text())
    present = None if there is None or whole else there.read_text(encoding="utf-8", errors="replace")
    others = [labels.folder_of(other.name) for other in finished.others]
    merged = card_merge.merge(present, text, folder, target.repo, others=others, overwrite=target.overwrite_card)
    if merged.kept:
        reporter.info(f"{CARD} in {target.repo} is kept; only the section about {folder} is written")
    atomic.write_text(path, merged.text)
    run.update(card_sha256=sha256_of(path))
    return base.licence_file


def _licences(finished: RunArtifacts) -> dict[str, str | None]:
    """Of the Hub datasets that the run was calibrated with, as their cards name them."""
    commits = finished.profile.calibration.commits
    return {name: card.dataset_licence(name.split(":")[0], commit) for name, commit in commits.items()}
