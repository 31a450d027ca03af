"""Says what a checkpoint's processor and llama.cpp make of a picture, and writes pictures of which both make the same:
`inspect --model` and `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from luq_gguf.core.errors import LuqError, PictureError, ToolsError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.picture_geometry import FittedPicture, PictureViews
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.shown_pictures import ShownPictures
from luq_gguf.core.types import RunOptions
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import PictureCheck
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.pictures import PictureGeometry, open_geometry, read_picture, run_checkpoint, shown_pictures
from luq_gguf.run.session import Session

_ASKED = 1  # what is asked: what other numbers have kept is asked again


def look(picture: Path, model: str, options: RunOptions = RunOptions()) -> PictureViews:
    """Return what both make of a picture file for a checkpoint, or the checkpoint of a run folder. Raises PictureError
    and CheckpointError."""
    size = read_picture(picture).size
    with _open(model, options) as geometry:
        return geometry.views(size)


def fit(
    pictures: Sequence[Path],
    model: str,
    out: Path,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> tuple[FittedPicture, ...]:
    """Write each picture into the folder `out` as a PNG of its name, resized so that libmtmd makes of it what the
    processor of a checkpoint, or of a run folder's, makes of the picture. One that needs nothing is written as it is,
    upright and in 8-bit RGB.

    No input is ever written over; other files are where `options` allow that. Raises PictureError, before anything is
    written where that can be known, and CheckpointError.
    """
    if not pictures:
        raise PictureError("There is no picture to fit.", "Give at least one file.")
    places = _places(pictures, out, overwrite=options.overwrite)
    fitted: list[FittedPicture] = []
    with _open(model, options) as geometry:
        for number, (picture, place) in enumerate(zip(pictures, places, strict=True)):
            reporter.progress("fitting pictures", number, len(pictures))
            fitted.append(geometry.write(picture, place))
        reporter.progress("fitting pictures", len(pictures), len(pictures))
    return tuple(fitted)


def shown_of(session: Session, model: Path, mmproj: Path | None) -> ShownPictures:
    """Return how llama.cpp shows pictures to the model of a run's files, which is asked once and kept in run.json.
    Nothing is known where it cannot be asked: it is said why, and the files are as good without."""
    if mmproj is None or session.spec.file:  # which has no processor to compare with
        return ShownPictures()
    run, checkpoint = session.run, session.spec.checkpoint

    def ask() -> None:
        shown = ShownPictures()
        try:
            shown = shown_pictures(checkpoint, (shards.files_of(model)[0], mmproj))
        except LuqError as error:
            session.reporter.info(f"what llama.cpp shows the model of pictures is not known: {error.message}")
        run.update(pictures=shown.to_record())

    try:
        build = tools.pinned_build()
    except ToolsError:
        return ShownPictures()
    halves = [fact["sha256"] for fact in run.outputs("mmproj").values()]
    run.run_stage("pictures", hash_of(_ASKED, PictureCheck(checkpoint).key, halves, build.name), [], ask)
    return ShownPictures.of_record(run.read().get("pictures"))


def _places(pictures: Sequence[Path], out: Path, *, overwrite: bool) -> list[Path]:
    """Where each fitted picture goes."""
    if out.exists() and not out.is_dir():
        raise PictureError(f"{out} is a file.", "Give --out a folder.")
    by_place: dict[Path, Path] = {}
    for picture in pictures:
        place = out / f"{picture.stem}.png"
        if place in by_place:
            raise PictureError(
                f"{by_place[place]} and {picture} would both be written to {place}.",
                "Fit them into different folders, or rename one.",
            )
        by_place[place] = picture
    inputs = {_identity(picture) for picture in pictures if picture.exists()}
    for place in by_place:
        if not place.exists():
            continue
        if _identity(place) in inputs:
            raise PictureError(f"{place} is one of the pictures to fit.", "Give --out another folder.")
        if not overwrite:
            raise PictureError(f"{place} exists already.", "Give --out another folder, or add --overwrite.")
    return list(by_place)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _open(model: str, options: RunOptions) -> Iterator[PictureGeometry]:
    folder = Path(model).expanduser()
    run = RunFolder(folder) if (folder / "run.json").is_file() else None
    checkpoint = run_checkpoint(run, options) if run else _checkpoint(model, options)
    with open_geometry(checkpoint, _files(run) if run else None) as geometry:
        yield geometry


def _checkpoint(model: str, options: RunOptions) -> Checkpoint:
    trust, subfolder = options.trust_remote_code, options.subfolder
    return checkpoints.open_checkpoint(model, trust_remote_code=trust, subfolder=subfolder)


def _files(run: RunFolder) -> tuple[Path, Path] | None:
    """A finished run's file and mmproj."""
    model, half = (
        next((run.file(name) for name in run.outputs(stage) if run.file(name).is_file()), None)
        for stage in ("quantize", "mmproj")
    )
    return (shards.files_of(model)[0], half) if model and half else None
