"""Writes the model card: the metadata that the Hub reads, and the text that people read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

TEMPLATE = Path(__file__).with_name("card.md.jinja")
_LARGEST_CARD = 2**20  # bytes of a base model's README.md that are read


@dataclass(frozen=True)
class FileRow:
    """A row of the table of files. `measured` has a cell for each of the card's columns of measurements."""

    name: str
    what: str
    size: str
    measured: Sequence[str]


@dataclass(frozen=True)
class Figure:
    name: str
    caption: str


@dataclass(frozen=True)
class CardContent:
    """Everything that the card's text says; sentences and cells are ready to be printed. `limits` are options of
    llama.cpp's tools, `pictures` sentences on what these show the model, and `fit_program` Python that mends it."""

    title: str
    summary: str
    repo: str
    tag: str
    first_file: str
    more_files: Sequence[str]
    mmproj: str | None
    measured_heads: Sequence[str]
    files: Sequence[FileRow]
    conditions: Sequence[str]
    warnings: Sequence[str]
    compared_conditions: str
    compared_heads: Sequence[str]
    compared: Sequence[Sequence[str]]
    why: str
    images: Sequence[Figure]
    calibration: str
    again: str
    command: str
    by_hand: Sequence[str]
    shown_differently: bool
    folder: str
    imatrix: str
    llama_cpp: str
    pins: Sequence[tuple[str, str]]
    licence: str
    split_heads: Sequence[str] = ()
    splits: Sequence[Sequence[str]] = ()
    split_conditions: str = ""
    limits: str = ""
    pictures: Sequence[str] = ()
    fit_program: str = ""


@dataclass(frozen=True)
class BaseCard:
    """What is taken from the base model's card. `licence` keeps license, with commas between several, license_name and
    license_link; `licence_file` is the file in a checkpoint folder that the link leads to."""

    licence: Mapping[str, str]
    languages: tuple[str, ...]
    licence_file: Path | None = None

    @property
    def licence_name(self) -> str | None:
        return self.licence.get("license_name") or self.licence.get("license")

    def with_link(self, link: str) -> BaseCard:
        """Return the card with another link to the licence."""
        return replace(self, licence={**self.licence, "license_link": link})


@dataclass(frozen=True)
class Result:
    """A figure for the Hub's model-index. `kind` is the Hub's name for the metric, `metric` the name that is shown."""

    task: str
    dataset: str
    kind: str
    metric: str
    value: float


def read_base_card(model: str, revision: str | None) -> BaseCard:
    """Read a checkpoint folder's README.md, or that of a Hub repository; empty if there is none that can be read.

    A link to a file of the repository becomes one that leads there from anywhere. One to a file of the folder is kept
    if the file is there, and left out otherwise.
    """
    from huggingface_hub import ModelCard, hf_hub_download

    try:
        folder = Path(model).expanduser()
        path = folder / "README.md" if folder.is_dir() else Path(hf_hub_download(model, "README.md", revision=revision))
        with path.open(encoding="utf-8", errors="replace") as file:
            data = ModelCard(file.read(_LARGEST_CARD), ignore_metadata_errors=True).data
    except Exception:  # YAML of strangers fails in many ways, and so does a network
        return BaseCard({}, ())
    licence = {name: text for name in ("license", "license_name", "license_link") if (text := _text(data.get(name)))}
    link, licence_file = licence.get("license_link", ""), None
    if link and "://" not in link:
        if folder.is_dir():
            licence_file = _inside(folder, link)
            if licence_file is None:
                del licence["license_link"]
        else:
            licence["license_link"] = f"https://huggingface.co/{model}/blob/{revision or 'main'}/{link.lstrip('./')}"
    languages = data.get("language") or []
    listed = languages if isinstance(languages, list) else [languages]
    return BaseCard(licence, tuple(str(language) for language in listed if isinstance(language, str)), licence_file)


def _text(value: object) -> str:
    """A text, or several with commas between them; empty for anything else."""
    parts = value if isinstance(value, list) else [value]
    return ", ".join(part.strip() for part in parts if isinstance(part, str))


def _inside(folder: Path, link: str) -> Path | None:
    """The small file of a folder that a relative link leads to; a link may not lead out of the folder."""
    relative = PurePosixPath(link)
    if relative.is_absolute() or ".." in relative.parts or "\0" in link:
        return None
    file = folder / relative
    return file if file.is_file() and file.stat().st_size <= _LARGEST_CARD else None


def dataset_licence(name: str, revision: str) -> str | None:
    """Return the licence that a Hub dataset's card names; None if it names none or the Hub does not answer."""
    from huggingface_hub import HfApi

    try:
        data = HfApi().dataset_info(name, revision=revision).card_data
    except Exception:  # as with a model's card: the network, or YAML of strangers
        return None
    return _text(getattr(data, "license", None)) or None


def cell(text: str) -> str:
    """Escape a text so that it neither ends a table's cell or its line nor begins a link or HTML."""
    return re.sub(r"([|\\<>\[\]`*])", r"\\\1", " ".join(text.split()))


def render(
    facts: CardContent, base: BaseCard, base_model: str | None, results: Sequence[Result], publisher: str
) -> str:
    """Render the card's text, metadata included."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    sees = facts.mmproj is not None
    data = ModelCardData(
        base_model=base_model,
        base_model_relation="quantized" if base_model else None,
        language=list(base.languages) or None,
        library_name="gguf",
        pipeline_tag="image-text-to-text" if sees else "text-generation",
        tags=["luq", "gguf", "llama.cpp", "quantized", "imatrix", *(["vision"] if sees else [])],
        quantized_by=publisher,
        model_name=facts.title,
        eval_results=[
            EvalResult(
                task_type=result.task,
                dataset_type=_slug(result.dataset),
                dataset_name=result.dataset,
                metric_type=_slug(result.kind),
                metric_name=result.metric,
                metric_value=result.value,
            )
            for result in results
        ]
        or None,
        license=_licences(base.licence.get("license")),
        license_name=base.licence.get("license_name"),
        license_link=base.licence.get("license_link"),
    )
    card = ModelCard.from_template(data, template_path=str(TEMPLATE), facts=facts)
    return re.sub(r"\n{3,}", "\n\n", str(card)).strip() + "\n"


def _licences(names: str | None) -> Any:
    """As the Hub takes them: one name, or a list."""
    listed = names.split(", ") if names else []
    return listed if len(listed) > 1 else names


def _slug(text: str) -> str:
    return re.sub(r"[^\w/.-]+", "-", text).strip("-") or "unnamed"
