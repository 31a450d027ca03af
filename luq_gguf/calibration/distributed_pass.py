"""Shares a profile's pass between several processes: job arrays that are merged later, or processes of one launcher."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from luq_gguf.calibration.distributed import Launch, Ranks
from luq_gguf.calibration.stage import (
    PROFILE_STATE,
    adopt_merged,
    make_merged,
    make_profile,
    on_load,
    place,
    profile_key,
    read_data,
    set_for,
    tell_skipped,
    with_pixels,
)
from luq_gguf.core import paths
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import RankError, RunFolderError, ShardError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Profile, RunOptions, ShardSpec
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import claim
from luq_gguf.run.session import Session, load_spec_for_profile

if TYPE_CHECKING:
    from luq_gguf.calibration.shards import Shard


def profile_shard(
    model: str,
    out: Path,
    calibration: CalibrationSet,
    share: ShardSpec,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> None:
    """Make one shard of a profile's pass, in a folder of its own. Raises RunFolderError where it has another shard."""
    with RunFolder(out, create=True, overwrite=options.overwrite) as run:
        recorded = run.read().get("shard")
        if recorded not in (None, str(share)) and not options.overwrite:
            raise RunFolderError(
                f"{out} contains shard {recorded}.",
                "Give each shard a folder of its own, or add --overwrite to write over it.",
            )
        session = load_spec_for_profile(run, model, options, reporter)
        run.update(shard=str(share))
        _make_shard(session, calibration, share)


def _make_shard(session: Session, calibration: CalibrationSet, share: ShardSpec) -> None:
    """Shard stage: the files of calibration/shards.py."""
    from luq_gguf.calibration import forward_pass
    from luq_gguf.calibration import shards as shard_files

    run, spec, reporter = session.run, session.spec, session.reporter
    calibration = set_for(spec, calibration, reporter)
    whole_key = profile_key(run, spec, calibration)

    def make() -> None:
        placement = place(session)
        data = read_data(run, calibration, spec.checkpoint)
        tell_skipped(data, reporter)
        data = with_pixels(session, calibration, data)
        pass_ = forward_pass.run_pass(
            spec.checkpoint,
            data,
            spec.matrices,
            run.work,
            placement=placement,
            share=share,
            on_load=on_load(reporter),
            on_samples=lambda done, total: reporter.progress(f"samples of shard {share}", done, total),
        )
        with pass_ as pass_result:
            shard_files.write(run.path, share, spec.checkpoint, data, pass_result, whole_key)

    run.run_stage("shard", hash_of(whole_key, str(share)), shard_files.names(spec.tensors.n_layers), make)
    for name in PROFILE_STATE:
        (run.work / name).unlink(missing_ok=True)


def merge(folders: Sequence[Path], out: Path, *, overwrite: bool = False, reporter: Reporter = Reporter()) -> Profile:
    """Make a profiled run folder from all shards of a pass. Raises ShardError where they are not all of one pass."""
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ShardError(f"--out {out} is one of the shards.", "Give --out a new or empty folder.")
    shards = _checked(folders)
    with RunFolder(out, create=True, overwrite=overwrite) as run:
        record = RunFolder(shards[0].folder).read()
        claim(run, record["model"], overwrite=overwrite, subfolder=record.get("subfolder"))
        run.update(revision=record.get("revision"))
        return make_merged(run, shards, reporter)


def _checked(folders: Sequence[Path]) -> list[Shard]:
    from luq_gguf.calibration import merge as merging

    return merging.check([_open_shard(folder) for folder in folders])


def _open_shard(folder: Path) -> Shard:
    from luq_gguf.calibration import shards as shard_files

    if not (folder / "run.json").is_file():
        raise ShardError(f"{folder} is not a shard: it has no run.json.", "Give folders of luq-gguf profile --shard.")
    run = RunFolder(folder)
    if not _has_shard(folder):
        hint = "Run its luq-gguf profile --shard again; it resumes where it stopped."
        raise ShardError(f"{folder} does not contain a finished shard.", hint)
    damaged = run.changed("shard")
    if damaged:
        raise ShardError(f"{folder / damaged[0]} is missing or damaged.", shard_files.AGAIN)
    return shard_files.read(folder)


def profile_together(
    model: str,
    out: Path,
    calibration: CalibrationSet,
    launch: Launch,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Profile | None:
    """Run the profile stage in all processes of a launcher; each calls this. Returns the profile in rank 0, else None.

    Every rank leaves a shard in the run folder's .work, which all must see; rank 0 merges them. Raises RankError where
    another rank failed or is gone.
    """
    share = ShardSpec(launch.rank, launch.count)
    parts = [out / ".work" / "shards" / f"{index}-of-{share.count}" for index in range(share.count)]
    folder, reporter = parts[share.index], reporter.once()
    with Ranks(launch) as ranks:
        if launch.rank:
            if ranks.wait_for_work():
                with RunFolder(folder, create=True) as shard_run:
                    session = load_spec_for_profile(shard_run, model, replace(options, overwrite=True))
                    _make_shard(session, calibration, share)
                ranks.wait_for_all()
            return None
        with RunFolder(out, create=True, overwrite=options.overwrite) as run:
            session = load_spec_for_profile(run, model, options, reporter)
            if _is_profiled(session, calibration):
                ranks.nothing_to_do()
                return make_profile(session, calibration)
            place(session, copies=min(launch.local, sum(not _has_shard(part) for part in parts)))
            with ranks.working():
                with RunFolder(folder, create=True) as shard_run:
                    shard_run.update(model=paths.absolute_model(model), revision=session.spec.checkpoint.revision)
                    _make_shard(replace(session, run=shard_run), calibration, share)
                reporter.info(f"shard {share} is done; waiting for the other processes")
                ranks.wait_for_all()
            _check_seen(parts)
            profile = make_merged(run, _checked(parts), reporter)
            shutil.rmtree(folder.parent, ignore_errors=True)
            return profile


def _has_shard(part: Path) -> bool:
    return (part / "run.json").is_file() and bool(RunFolder(part).outputs("shard"))


def _check_seen(parts: Sequence[Path]) -> None:
    for rank, part in enumerate(parts):
        if not (part / "run.json").is_file():
            raise RankError(
                f"Rank {rank} has finished, but its shard is not in {part}.",
                "All processes must see --out on a shared file system. Without one, use --shard and luq-gguf merge.",
            )


def _is_profiled(session: Session, calibration: CalibrationSet) -> bool:
    followed = set_for(session.spec, calibration)
    key = profile_key(session.run, session.spec, followed)
    adopt_merged(session.run, session.spec, followed, key)
    return session.run.is_done("profile", key)
