"""The run folder: which process uses it, which stages are done, and from which inputs.

run.json records for every finished stage a key (a hash of all its inputs), its outputs with size and sha256, and the
versions of what made it. A stage whose key and outputs are unchanged is skipped.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from luq_gguf._version import __version__
from luq_gguf.core import atomic, interrupts, unix
from luq_gguf.core.errors import DiskSpaceError, InputError, RunFolderError
from luq_gguf.core.hashing import content_of
from luq_gguf.llamacpp import converter_process
from luq_gguf.run import file_system
from luq_gguf.run.serialization import read_json, write_json

fcntl, resource = unix.module("fcntl"), unix.module("resource")

_OURS = ("run.json", ".lock", ".work")


class RunFolder:
    """A run folder that this process alone uses, as a context manager. Raises RunFolderError where it cannot."""

    def __init__(self, path: Path, *, create: bool = False, overwrite: bool = False) -> None:
        self.path = path
        self.work = path / ".work"
        self.seconds: dict[str, float] = {}  # that this process has spent in stages, without those inside of them
        self.versions = {"luq_gguf": __version__}  # of what makes stages; the preflight adds others
        # The system ends it with our process, however that ends; a soft lock, a file that is there, would stay.
        self._lock = FileLock(path / ".lock", timeout=0, thread_local=False, fallback_to_soft=False)
        self._created = create and not path.exists()
        if not create and not (path / "run.json").is_file():
            raise RunFolderError(
                f"{path} is not a run folder: it has no run.json.", "Run luq-gguf profile or convert first."
            )
        if create:
            self._create(overwrite=overwrite)

    def _create(self, *, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file.", "Give --out a new or empty folder.")
        foreign = [p.name for p in self.path.iterdir() if p.name not in _OURS] if self.path.is_dir() else []
        if foreign and not (self.path / "run.json").is_file() and not overwrite:
            raise RunFolderError(
                f"{self.path} is not empty and is not a run folder (it contains {foreign[0]}).",
                "Give --out a new or empty folder, or add --overwrite to write into this one.",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.work.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}.", "Choose another --out.") from None

    def __enter__(self) -> RunFolder:
        try:
            self._acquire()
        except RunFolderError:
            if self._created:
                self._remove()
            raise
        return self

    def _acquire(self) -> None:
        holder = self.path / ".lock"
        try:
            self._lock.acquire()
            holder.write_text(f"process {os.getpid()}")
        except Timeout:
            if refusal := _lock_refusal(holder):
                raise self._no_locks(refusal) from None
            owner = holder.read_text().strip() or "another process"
            raise RunFolderError(
                f"{self.path} is in use by {owner}.", "Wait for it to end, or give another folder."
            ) from None
        except OSError as error:
            self._lock.release()
            if refusal := _lock_refusal(holder):
                raise self._no_locks(refusal) from None
            raise RunFolderError(
                f"{self.path} cannot be written: {error.strerror}.", "Choose another folder."
            ) from None
        try:
            self.work.mkdir(exist_ok=True)
            self._remove_parts()
            file_system.check_mapping(self.work)
        except BaseException:
            self._lock.release()
            raise

    def _no_locks(self, refusal: str) -> RunFolderError:
        return RunFolderError(
            f"The file system of {self.path} cannot lock files ({refusal}), but a lock keeps two processes from "
            "writing to one run folder.",
            "Choose a folder on another disk, such as a local one.",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove_parts()
        if isinstance(error, OSError | DiskSpaceError) and self._finished():
            error.add_note(f"Finished stages in {self.path} are kept.")
        if isinstance(error, InputError) and self._created and not self._finished():
            self._remove()  # refused in the preflight: nothing of the user's or of any stage is in it
        self._lock.release()

    def _finished(self) -> set[str]:
        """The stages that somebody waited for; the preflight is none."""
        return set(self.read()["stages"]) - {"door"}

    def _remove(self) -> None:
        for name in _OURS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):  # not ours alone
            self.path.rmdir()

    def _remove_parts(self) -> None:
        """Half-written files of a run that was killed: only their writer could have finished them."""
        for folder in (self.path, self.work):
            for part in folder.glob("*" + atomic.SUFFIX):
                atomic.remove(part)

    def file(self, name: str) -> Path:
        return self.path / name

    def read(self) -> dict[str, Any]:
        """Return run.json, or the beginning of one. Raises RunFolderError where luq-gguf did not write it."""
        if (self.path / "run.json").is_file():
            content = read_json(self.path / "run.json", "convert")
            if isinstance(content, dict) and isinstance(content.get("stages"), dict):
                _check_records(self.path / "run.json", content["stages"])
                return content
            raise RunFolderError(f"{self.path / 'run.json'} was not written by luq-gguf.", "Give another folder.")
        return {"luq_gguf": __version__, "stages": {}}

    def update(self, **facts: Any) -> None:
        """Add facts to run.json."""
        write_json(self.path / "run.json", self.read() | facts)

    def is_done(self, stage: str, key: str) -> bool:
        """Return whether the stage was finished with these inputs and its outputs are still what it wrote."""
        record = self.read()["stages"].get(stage)
        if not isinstance(record, dict) or record.get("key") != key:
            return False
        return all(self._unchanged(name, fact) for name, fact in record["outputs"].items())

    def _unchanged(self, name: str, fact: dict[str, Any]) -> bool:
        path = self.path / name
        if not path.is_file():
            return False
        status = path.stat()
        if status.st_size != fact["n_bytes"]:
            return False
        if fact["sha256"]:
            return content_of(path) == str(fact["sha256"])
        return bool(status.st_mtime_ns == fact["mtime_ns"])  # of a temporary file nothing else is known

    def outputs(self, stage: str) -> dict[str, dict[str, Any]]:
        """Return what a finished stage wrote: name -> n_bytes, mtime_ns, sha256; empty where it is not finished."""
        outputs: dict[str, dict[str, Any]] = self.read()["stages"].get(stage, {}).get("outputs", {})
        return outputs

    def changed(self, stage: str) -> list[str]:
        """Return the files of a finished stage that are missing, or no longer what it wrote."""
        return [name for name, fact in self.outputs(stage).items() if not self._unchanged(name, fact)]

    def run_stage(
        self, stage: str, key: str, outputs: Iterable[str], make: Callable[[], None], *, hashed: bool = True
    ) -> bool:
        """Run `make` unless the stage is done; record its outputs, time and peak memory. Returns True where it ran.

        Temporary files are not `hashed`: one larger than memory would be read from the disk once more.
        """
        outputs = tuple(outputs)
        if self.is_done(stage, key) and set(outputs) == set(self.outputs(stage)):  # a file may have another name now
            return False
        interrupts.check()
        with self.timed(stage):
            started = time.monotonic()
            make()
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        peak *= 1 if platform.system() == "Darwin" else 1024
        record = {
            "key": key,
            "outputs": {name: self._fact(name, hashed=hashed) for name in outputs},
            "seconds": round(time.monotonic() - started, 3),
            "peak_rss_bytes_so_far": max(peak, converter_process.peak_rss_bytes()),
            "versions": dict(self.versions),
        }
        stages = self.read()["stages"]
        self.update(stages=stages | {stage: record})
        interrupts.check()  # only now: a finished stage is never lost
        return True

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds inside this context to a stage, but for those of stages inside of it."""
        started, before = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - before
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started - inside

    def share_stage(self, stage: str, key: str, outputs: Iterable[str]) -> None:
        """Record a stage as done where another one has written the same outputs from the same inputs."""
        stages, names = self.read()["stages"], set(outputs)
        for other, record in stages.items():
            if record["key"] == key and set(record["outputs"]) == names:
                if other != stage and stages.get(stage) != record:
                    self.update(stages=stages | {stage: record})
                return

    def forget(self, stage: str) -> None:
        """Drop a stage's record, so that it runs again."""
        stages = self.read()["stages"]
        stages.pop(stage, None)
        self.update(stages=stages)

    def hash_outputs(self, stage: str) -> None:
        """Add the sha256 of a finished stage's files where it was left out."""
        stages = self.read()["stages"]
        record = stages[stage]
        facts = {name: fact if fact["sha256"] else self._fact(name) for name, fact in record["outputs"].items()}
        if facts != record["outputs"]:
            self.update(stages=stages | {stage: record | {"outputs": facts}})

    def _fact(self, name: str, *, hashed: bool = True) -> dict[str, Any]:
        path = self.path / name
        status = path.stat()
        digest = content_of(path) if hashed else ""
        return {"n_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def _lock_refusal(path: Path) -> str | None:
    """Why a file cannot be locked at all; None where it can, or another process has locked it."""
    try:
        with path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        return None if error.filename else error.strerror  # with a name it could not be opened
    return None


def _check_records(path: Path, stages: dict[str, Any]) -> None:
    """Outputs are read, deleted and published by their recorded names, so they must lie in the folder."""
    for stage, record in stages.items():
        outputs = record.get("outputs") if isinstance(record, dict) else None
        if not isinstance(outputs, dict) or not all(_is_fact(fact) for fact in outputs.values()):
            raise RunFolderError(
                f"The record of the {stage} stage in {path} was not written by luq-gguf.",
                "Start again in a new folder.",
            )
        for name in outputs:
            if "\0" in name or not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise RunFolderError(
                    f"{path} names a file outside the run folder ({name!r}).",
                    "Do not use this folder. Start again in a new one.",
                )


def _is_fact(fact: Any) -> bool:
    has_hash = isinstance(fact, dict) and isinstance(fact.get("sha256"), str)
    return has_hash and all(isinstance(fact.get(name), int) for name in ("n_bytes", "mtime_ns"))
