"""Writes the model card: the metadata that the Hub reads, and the text that people read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """Everything that the card's text says; sentences and cells are ready to be printed."""

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
    why: str
    images: Sequence[Figure]
    calibration: str
    again: str
    command: str
    llama_cpp: str
    pins: Sequence[tuple[str, str]]
    licence: str


@dataclass(frozen=True)
class BaseCard:
    """What is taken from the base model's card. `licence` keeps license, license_name and license_link."""

    licence: Mapping[str, str]
    languages: tuple[str, ...]

    @property
    def licence_name(self) -> str | None:
        return self.licence.get("license_name") or self.licence.get("license")


@dataclass(frozen=True)
class Result:
    """A figure for the Hub's model-index. `kind` is the Hub's name for the metric, `metric` the name that is shown."""

    task: str
    dataset: str
    kind: str
    metric: str
    value: float


def read_base_card(model: str, revision: str | None) -> BaseCard:
    """Read a checkpoint folder's README.md, or that of a Hub repository; empty if there is none that can be read."""
    from huggingface_hub import ModelCard, hf_hub_download

    try:
        folder = Path(model).expanduser()
        path = folder / "README.md" if folder.is_dir() else Path(hf_hub_download(model, "README.md", revision=revision))
        with path.open(encoding="utf-8", errors="replace") as file:
            data = ModelCard(file.read(_LARGEST_CARD), ignore_metadata_errors=True).data
    except Exception:  # YAML of strangers fails in many ways, and so does a network
        return BaseCard({}, ())
    names = ("license", "license_name", "license_link")
    licence = {name: str(data.get(name)) for name in names if isinstance(data.get(name), str)}
    languages = data.get("language") or []
    listed = languages if isinstance(languages, list) else [languages]
    return BaseCard(licence, tuple(str(language) for language in listed if isinstance(language, str)))


def dataset_licence(name: str, revision: str) -> str | None:
    """Return the licence that a Hub dataset's card names; None if it names none or the Hub does not answer."""
    from huggingface_hub import HfApi

    try:
        data = HfApi().dataset_info(name, revision=revision).card_data
    except Exception:  # as with a model's card: the network, or YAML of strangers
        return None
    licence = getattr(data, "license", None)
    return licence if isinstance(licence, str) else None


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
        license=base.licence.get("license"),
        license_name=base.licence.get("license_name"),
        license_link=base.licence.get("license_link"),
    )
    card = ModelCard.from_template(data, template_path=str(TEMPLATE), facts=facts)
    return re.sub(r"\n{3,}", "\n\n", str(card)).strip() + "\n"


def _slug(text: str) -> str:
    return re.sub(r"[^\w/.-]+", "-", text).strip("-") or "unnamed"
