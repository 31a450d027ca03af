"""Finds the text models' files of a folder or of a repository on the Hub, and their mmproj files, by headers alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from luq_gguf.core.errors import GGUFFileError
from luq_gguf.core.reporter import Reporter
from luq_gguf.hf import hub_files
from luq_gguf.hf.hub_files import HubRepository
from luq_gguf.llamacpp.gguf import mmproj, outline, validate
from luq_gguf.llamacpp.gguf.metadata import CHECKPOINT
from luq_gguf.llamacpp.gguf.validate import GGUFHeader

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL | re.IGNORECASE)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_AT_ONCE = 4  # headers that are asked of the Hub at a time
_MOST_FILES = 1000
_BY_PRECISION = ("F16", "BF16", "Q8_0")  # mmproj files in this order, others behind them
_PARTS = ("mmproj", "imatrix")


@dataclass(frozen=True)
class Offer:
    """A text model's file: its path in the source, its shards, their bytes, where its header is, and its mmproj.

    `header` is None where only the size is known; `problem` says what is wrong with it.
    """

    file: str
    shards: tuple[str, ...]
    n_bytes: int
    mmproj: str | None = None
    header: Path | None = None
    mmproj_header: Path | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """A folder, or a repository (then with its revision): sizes of its files by path, what gives parts of one, and the
    sha256 of those that are known without reading them."""

    name: str
    revision: str | None
    folder: Path | None
    sizes: Mapping[str, int]
    read: Callable[[str, int, int], bytes]
    sha256: Mapping[str, str] = field(default_factory=dict)


def open_source(name: str) -> Source:
    """Return a local folder, or a repository of the Hub. Raises GGUFFileError where it has no GGUF file, and the Hub's
    errors."""
    folder = Path(name).expanduser()
    if not folder.exists() and not _REPOSITORY.fullmatch(name):
        raise GGUFFileError(
            f"{name} is neither a folder nor the name of a repository on the Hub.",
            "Give a folder, or a repository such as USER/NAME-GGUF.",
        )
    source = _of_folder(name, folder) if folder.exists() else _of_repository(hub_files.open_repository(name))
    n_files = sum(path.lower().endswith(".gguf") for path in source.sizes)
    if not 0 < n_files <= _MOST_FILES:
        raise GGUFFileError(
            f"{name} has {n_files or 'no'} GGUF files{f', more than {_MOST_FILES}' * bool(n_files)}.",
            "Give a folder or a Hub repository with GGUF files, such as USER/NAME-GGUF.",
        )
    return source


def _of_folder(name: str, folder: Path) -> Source:
    if not folder.is_dir():
        raise GGUFFileError(f"{name} is not a folder.", "Give the folder that the file is in.")
    paths = [path for path in folder.rglob("*") if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}

    def read(path: str, start: int, end: int) -> bytes:
        with (folder / path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    return Source(str(folder), None, folder, sizes, read)


def _of_repository(repository: HubRepository) -> Source:
    sizes = {path: file.n_bytes for path, file in repository.files.items()}
    digests = {path: file.sha256 for path, file in repository.files.items() if file.sha256}
    return Source(repository.name, repository.revision, None, sizes, repository.read, digests)


class Headers:
    """Headers of a source's files: read once, those of a repository into a folder of outlines."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._folder, self.n_bytes = source, folder, 0

    def path(self, file: str) -> Path:
        """Return where a file's header is or will be. Shards lie together, under their names."""
        if self._source.folder:
            return self._source.folder / file
        match = _SHARD.fullmatch(file)
        number = sorted(self._source.sizes).index(f"{match['stem']}-00001-of-{match['count']}.gguf" if match else file)
        return self._folder / str(number) / PurePosixPath(file).name

    def read(self, file: str) -> GGUFHeader:
        """Return a file's header. Raises GGUFFileError where it is not a valid one, and the Hub's errors."""
        path = self.path(file)
        if self._source.folder:
            return validate.check(path)

        def read(start: int, end: int) -> bytes:
            self.n_bytes += end - start
            return self._source.read(file, start, end)

        return outline.write(path, self._source.sizes[file], read)


def offers(source: Source, headers: Headers, memory_bytes: int, reporter: Reporter) -> list[Offer]:
    """Return the text models' files, the largest first, with their mmproj files.

    Headers of files that alone are larger than the memory are not asked of the Hub, but for the smallest's.
    """
    listed = [path for path in source.sizes if path.lower().endswith(".gguf")]
    groups = sorted(_groups(listed, source.sizes), key=lambda offer: (offer.n_bytes, offer.file))
    sees = [offer.file for offer in groups if mmproj.is_mmproj_name(PurePosixPath(offer.file).name)]
    texts = [offer for offer in groups if offer.file not in sees]
    hopeless = {o.file for o in texts[1:] if source.folder is None and o.n_bytes > memory_bytes + outline.MOST}
    wanted = [o for o in texts if o.file not in hopeless and o.problem is None]
    read = _read_all([*(shard for o in wanted for shard in o.shards), *sees], headers, reporter)
    completed = []
    for offer in reversed(texts):
        first = read.get(offer.shards[0])
        if isinstance(first, GGUFHeader) and _kind(first) in _PARTS:
            continue
        half = _mmproj_of(offer, first, [f for f in sees if isinstance(read[f], GGUFHeader)], read)
        problems = [read[shard] for shard in offer.shards if isinstance(read.get(shard), str)]
        problem = offer.problem or next((str(sentence) for sentence in problems), None)
        known = offer.file not in hopeless and problem is None
        completed.append(
            replace(
                offer,
                mmproj=half,
                header=headers.path(offer.shards[0]) if known else None,
                mmproj_header=headers.path(half) if known and half else None,
                problem=problem,
            )
        )
    if not completed:
        raise GGUFFileError(f"{source.name} has no GGUF file of a text model.", "Give the one that its files are in.")
    return completed


def _kind(header: GGUFHeader) -> str:
    texts = header.texts
    told = texts.get("general.type", "")
    if told == "imatrix" or texts.get("general.architecture") == "imatrix":
        return "imatrix"
    return "mmproj" if told == "mmproj" or texts.get("general.architecture") == "clip" else "model"


def _groups(paths: list[str], sizes: Mapping[str, int]) -> Iterator[Offer]:
    """Files, those in shards as one."""
    for path in paths:
        match = _SHARD.fullmatch(path)
        if not match or int(match["count"]) < 2:
            yield Offer(path, (path,), sizes[path])
        elif int(match["number"]) == 1:
            count = int(match["count"])
            names = [f"{match['stem']}-{n:05d}-of-{match['count']}.gguf" for n in range(1, min(count, _MOST_FILES) + 1)]
            there = tuple(name for name in names if name in sizes)
            missing = None if len(there) == count else f"{count - len(there)} of its {count} shards are missing"
            yield Offer(path, there, sum(sizes[name] for name in there), problem=missing)


def _read_all(files: list[str], headers: Headers, reporter: Reporter) -> dict[str, GGUFHeader | str]:
    """Headers, or what is wrong with a file."""

    def read(file: str) -> GGUFHeader | str:
        try:
            return headers.read(file)
        except GGUFFileError as error:
            return error.message

    found: dict[str, GGUFHeader | str] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done, (file, header) in enumerate(zip(files, pool.map(read, files), strict=True), 1):
            found[file] = header
            reporter.progress("headers", done, len(files))
    return found


def _mmproj_of(
    offer: Offer, header: GGUFHeader | str | None, halves: list[str], read: Mapping[str, GGUFHeader | str]
) -> str | None:
    """The mmproj file that belongs to a text model's: in its folder, else at the top; of its checkpoint, where both say
    which; of several the one of the highest precision up to 16 bits."""
    folder = PurePosixPath(offer.file).parent
    near = [file for file in halves if PurePosixPath(file).parent == folder]
    near = near or [file for file in halves if PurePosixPath(file).parent == PurePosixPath()]
    ours = header.ours.get(CHECKPOINT) if isinstance(header, GGUFHeader) else None

    def fits(file: str) -> bool:
        theirs = read[file]
        key = theirs.ours.get(CHECKPOINT) if isinstance(theirs, GGUFHeader) else None
        return ours is None or key is None or key == ours

    def place(file: str) -> tuple[int, str]:
        words = re.split(r"[-.]", PurePosixPath(file).name.upper())
        return next((i for i, kind in enumerate(_BY_PRECISION) if kind in words), len(_BY_PRECISION)), file

    return min(filter(fits, near), key=place, default=None)
