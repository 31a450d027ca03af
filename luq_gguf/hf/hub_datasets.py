"""Streams datasets of the Hub, at one commit for as long as a process runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luq_gguf.core.errors import CalibrationError
from luq_gguf.hf.download import network_errors, status_of
from luq_gguf.hf.hub_settings import checked_settings, refused_token

TO_LEARN = ("train",)  # splits of a Hub dataset
TO_MEASURE = ("validation", "val", "test")  # test answers are often kept back


def is_local(source: str) -> bool:
    """Return whether a set is a file or a folder here."""
    return Path(source).expanduser().exists()


def rows(source: str, seed: int, splits: Sequence[str] = TO_LEARN) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Hub dataset ("owner/name", "owner/name:config" or "owner/name:config:split"), streamed and
    shuffled by buffer. Where no split is named it is the first of `splits` that there is, else the first of all. Raises
    CalibrationError and HubAccessError."""
    import datasets
    from huggingface_hub.errors import RepositoryNotFoundError

    name, config, split, *_ = [*source.split(":"), "", ""]
    try:
        with checked_settings():
            commit = commit_of(source) if is_on_hub(source) else None
            if not split:
                available = datasets.get_dataset_split_names(name, config or None, revision=commit)
                split = next((name for name in splits if name in available), available[0])
            streamed = datasets.load_dataset(name, config or None, split=split, streaming=True, revision=commit)
        classes = {k: f for k, f in (streamed.features or {}).items() if isinstance(f, datasets.ClassLabel)}
        for row in streamed.shuffle(seed=seed, buffer_size=1000):
            yield row | {k: _class_name(f, row.get(k)) for k, f in classes.items()}
    except (*network_errors(), ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        if status_of(error) == 401 and not isinstance(error, RepositoryNotFoundError):  # 401 is said of those, too
            raise refused_token() from None
        raise CalibrationError(
            f"The Hub dataset {source} could not be read ({type(error).__name__}).",
            "Check its name and the network, or give a folder of images or a .jsonl file, and for --calib-text a text "
            "file.",
        ) from None


def _class_name(feature: Any, number: int | None) -> str | None:
    """The name of a row's class; None for -1, which is what sets have where it is not known."""
    return None if number is None or number < 0 else str(feature.int2str(number))


def is_on_hub(source: str) -> bool:
    """Return whether a set is one of the Hub's: no file or folder has its name."""
    return not is_local(source) and not is_local(source.split(":")[0])


@functools.cache
def commit_of(source: str) -> str:
    """Return the newest commit of a Hub dataset, the same for as long as this process runs. Raises OSError."""
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(source.split(":")[0]).sha)
