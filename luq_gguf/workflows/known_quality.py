"""Finds what was measured of a source's files: in eval.json files that luq-gguf wrote, else in its card's metadata."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from luq_gguf.core.choice import Quality
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.measurements import EvalResult, largest
from luq_gguf.core.reporter import Reporter
from luq_gguf.run import serialization
from luq_gguf.workflows.offered_files import Offer, Source

_MOST_BYTES, _MOST_FILES = 2**22, 32  # of eval.json files and cards that are read
_EVAL, _CARD = "eval.json", "README.md"
_LUQ = "luq"  # the tag of cards whose figures are of the file, not of the model that it was made of


def known_quality(source: Source, offers: list[Offer], folder: Path, reporter: Reporter) -> dict[str, Quality]:
    """Return what was measured of each file, the largest measurement; files of others are read into `folder`."""
    paths = sorted(p for p in source.sizes if PurePosixPath(p).name == _EVAL and source.sizes[p] <= _MOST_BYTES)
    results: list[tuple[EvalResult, str]] = []
    for number, path in enumerate(paths[:_MOST_FILES]):
        place = _local(source, path, folder / f"eval-{number}")
        try:
            results += [(result, path) for result in serialization.read_evals(place)]
        except RunFolderError:
            reporter.info(f"{path} is not an eval.json of luq-gguf, and is ignored")
    known = {offer.file: quality for offer in offers if (quality := _of_evals(source, offer, results))}
    if not known and len(offers) == 1 and source.sizes.get(_CARD, _MOST_BYTES) < _MOST_BYTES:
        quality = _of_card(_local(source, _CARD, folder / "card"))
        known |= {offers[0].file: quality} if quality else {}
    return known


def _local(source: Source, path: str, folder: Path) -> Path:
    if source.folder:
        return source.folder / path
    folder.mkdir(parents=True)
    place = folder / PurePosixPath(path).name
    place.write_bytes(source.read(path, 0, source.sizes[path]))
    return place


def _of_evals(source: Source, offer: Offer, results: list[tuple[EvalResult, str]]) -> Quality | None:
    """Of a file in shards the hash is not that of any of them."""
    digest = source.sha256.get(offer.file) if len(offer.shards) == 1 else None
    name = PurePosixPath(offer.file).name
    own = [(r, path) for r, path in results if r.file == name and digest in (None, r.file_sha256)]
    main = largest(result for result, _ in own)
    if main is None or (main.kld is None and main.accuracy is None):
        return None
    origin = next(path for result, path in own if result is main)
    kld, accuracy = main.kld.mean if main.kld else None, main.accuracy.value if main.accuracy else None
    conditions = main.conditions
    count = main.n_samples or main.n_chunks
    return Quality(conditions.data or "text", conditions.data_sha256, main.metric, count, kld, accuracy, origin)


def _of_card(path: Path) -> Quality | None:
    """The figures of a card's model-index, where luq-gguf wrote them: those of others are of the original model."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(path.read_text(encoding="utf-8", errors="replace"), ignore_metadata_errors=True).data
        figures = list(data.get("eval_results") or [])
        if _LUQ not in (data.get("tags") or []) or not figures:
            return None
        name = str(figures[0].dataset_name)
        values = {str(f.metric_type): float(f.metric_value) for f in figures if str(f.dataset_name) == name}
    except Exception:  # YAML of strangers fails in many ways
        return None
    accuracy = values.get("accuracy")
    return Quality(name, None, None, None, values.get("kl_divergence"), accuracy and accuracy / 100, _CARD)
