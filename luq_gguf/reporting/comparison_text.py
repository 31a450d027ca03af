"""What people read about where quality is lost on the way from a checkpoint in transformers to a file."""

from __future__ import annotations

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import AS_IS, FITTED, ReferenceComparison
from luq_gguf.reporting import split_text

HEAD = ("", "accuracy", "change", "KLD, nats", "same top token", "same answers")
_PICTURES = {AS_IS: ", pictures as they are", FITTED: ", fitted pictures"}


def rows(compared: ReferenceComparison) -> list[list[str]]:
    """Return a row of text for every model, and one for each split of the questions, as HEAD names its cells; intervals
    are of 95%."""
    listed = []
    for model in compared.models:
        listed.append(
            [
                f"{model.file or model.name}{_PICTURES.get(model.pictures or '', '')}",
                f"{model.accuracy.value:.1%}" if model.accuracy else "",
                split_text.change(model.accuracy_change),
                f"{model.kld.value:.1e}" if model.kld else "",
                "" if model.same_top is None else f"{model.same_top:.1%}",
                "" if model.same_answers is None else f"{model.same_answers:.1%}",
            ]
        )
        for name, figures in (given(model.splits) or {}).items():
            share = f"{figures.accuracy.value:.1%}" if figures.accuracy else ""
            changed = split_text.change(given(figures.accuracy_change))
            listed.append([f"- {split_text.head(name, figures)}", share, changed, "", "", ""])
    return listed


def conditions(compared: ReferenceComparison) -> str:
    """Return what the figures were measured on, and what they mean."""
    accuracy = f"Accuracy ({compared.metric}) is of" if compared.metric else "Measured on"
    behind = " behind the picture" if any(model.pictures for model in compared.models) else ""
    text = (
        f"{accuracy} {compared.n_samples} questions, answered with at most {compared.max_tokens} tokens; changes, KL "
        f"divergence and answers are against {compared.checkpoint} in transformers ({compared.dtype}), KL divergence "
        f"over the prompts' text{behind}."
    )
    text += f" {split_text.PAIRED}" if compared.metric else ""
    if different := given(compared.different_tokens):
        text += f" The prompts differ: {different}."
    return text
