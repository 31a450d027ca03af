"""What people read about pictures that llama.cpp shows to a model differently from its processor."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from luq_gguf.core.picture_geometry import (
    CROPPED,
    PADDED,
    RESIZED,
    TILED,
    FittedPicture,
    LimitOptions,
    PictureView,
    PictureViews,
    Size,
)
from luq_gguf.core.shown_pictures import ShownPictures

COST = (
    "A higher maximum makes large pictures slower and takes more memory and context, as they become more tokens; a "
    "lower one does the opposite."
)


SAME_BARS = "llama.cpp and the model's own processor both add bars, which may differ in color."


def size(pixels: Size) -> str:
    """Return "640 x 480"."""
    return f"{pixels[0]} x {pixels[1]}"


def what(view: PictureView, picture: Size) -> str:
    """Return what is done to a picture of a size, in a few words."""
    content = size(view.content)
    if view.how == PADDED:
        bars = "above and below" if view.content[1] < view.height else "on the left and right"
        return f"resized to {content}, with bars {bars}"
    if view.how == CROPPED:
        return f"resized to {content}, then cropped"
    if view.how == TILED:
        return f"cut into {view.n_pieces} tiles"
    if view.how != RESIZED:
        return "unchanged"
    scales = [new / old for new, old in zip(view.content, picture, strict=True)]
    is_stretched = max(scales) / min(scales) > 1.01  # the eye does not see less
    return "stretched" if is_stretched else "resized"


def views_table(name: str, views: PictureViews) -> Table:
    """Make a table of what the processor and libmtmd make of a picture file."""
    table = Table(title=Text(f"{name}, {size(views.size)} pixels"))
    for head in ("", "pixels", "tokens", "what is done"):
        table.add_column(head, justify="right" if head == "tokens" else "left")
    for side, view in (("the processor", views.processor), ("llama.cpp (libmtmd)", views.libmtmd)):
        table.add_row(side, size(view.size), str(view.n_tokens), what(view, views.size))
    return table


def verdict(views: PictureViews) -> str:
    """Return a sentence on whether the model sees the same on both sides, and what to do."""
    if views.agree:
        return "The model sees the same picture in llama.cpp as in transformers."
    if views.processor == views.libmtmd:
        return f"{SAME_BARS} luq-gguf fit makes a picture that has the processor's."
    counts = (views.processor.n_tokens, views.libmtmd.n_tokens)
    tokens = "" if counts[0] == counts[1] else f" ({counts[1]} tokens instead of {counts[0]})"
    mended = views.processor.how != TILED
    advice = " luq-gguf fit makes a picture of which it sees the same." if mended else ""
    return f"In llama.cpp the model sees another picture than in transformers{tokens}.{advice}"


def fit_table(fitted: Sequence[FittedPicture]) -> Table:
    """Make a table of fitted pictures."""
    table = Table(title="fitted pictures")
    for head in ("picture", "pixels", "written", "pixels written", "tokens"):
        table.add_column(head, justify="right" if head == "tokens" else "left", overflow="fold")
    for one in fitted:
        new = size(one.views.processor.size if one.is_changed else one.views.size)
        cells = (one.picture.name, size(one.views.size), str(one.written), new, str(one.views.processor.n_tokens))
        table.add_row(*map(Text, cells))
    return table


def fit_lines(fitted: Sequence[FittedPicture]) -> list[str]:
    """Return sentences about fitted pictures: which needed nothing, and what llama.cpp has to be told."""
    n_same = sum(not one.is_changed for one in fitted)
    lines = []
    if n_same:
        which = "All pictures" if n_same == len(fitted) else f"{n_same} of {len(fitted)} pictures"
        lines.append(
            f"{which} needed no fitting, as llama.cpp and the processor make the same of them: they were only turned "
            "upright and converted to 8-bit RGB."
        )
    if options := LimitOptions.of_all(one.needed for one in fitted):
        lines.append(
            f"Fitted sizes are beyond libmtmd's token limits: give llama.cpp's tools {' '.join(options.arguments)}."
        )
    return lines


def limits_sentence(options: LimitOptions, mark: str = "") -> str:
    """Return a sentence on the options that bring libmtmd's token limits to the processor's, with a mark around
    code."""
    return (
        f"{mark}{' '.join(options.arguments)}{mark} {'is' if len(options.arguments) == 2 else 'are'} what the model's "
        f"own processor has; without, llama.cpp takes limits of its own. {COST}"
    )


def example_sentence(views: PictureViews) -> str:
    """Return a sentence on what both sides make of a picture."""
    processor, libmtmd = (
        f"{size(view.size)} pixels, {view.n_tokens} tokens, {what(view, views.size)}"
        for view in (views.processor, views.libmtmd)
    )
    if processor == libmtmd:
        return f"Of a picture of {size(views.size)} pixels both sides make {processor}. {SAME_BARS}"
    return (
        f"Of a picture of {size(views.size)} pixels the model's own processor makes {processor}; llama.cpp makes "
        f"{libmtmd}."
    )


def shown_lines(shown: ShownPictures, run: str) -> list[str]:
    """Return what `convert` prints on how llama.cpp shows pictures to the model of a run folder, named as a shell takes
    it; nothing where it does as the processor does, or where that is not known."""
    lines = [limits_sentence(shown.limits)] if shown.limits else []
    if shown.differs and shown.example:
        can_be_fitted = shown.rule or shown.example.processor.how == PADDED
        mended = f" luq-gguf fit PICTURES --model {run} --out DIR mends that." if can_be_fitted else ""
        lines.append(example_sentence(shown.example) + mended)
    return lines
