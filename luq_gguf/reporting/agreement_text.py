"""What people read about how far llama.cpp's predictions are from transformers'."""

from __future__ import annotations

from luq_gguf.core.agreement import Agreement

LARGE = 1e-2  # nats between 16 bits and the reference: rounding alone gave 1e-3 at most (docs/families.md)
_FIT = "luq-gguf fit resizes them so that both see the same (docs/pictures.md)"
_SEE = "docs/families.md says what llama.cpp is known to compute differently; luq-gguf's figures of quality compare "
_SEE += "with the 16-bit file, so they do not show this"


def figures(agreement: Agreement) -> str:
    """Return the divergence and the same top tokens, with what they were measured on."""
    parts = [f"before the picture {agreement.before}", f"behind it {agreement.after}"]
    parts += [f"with pictures fitted {agreement.fitted}"] if agreement.fitted else []
    text = "; ".join(parts) if agreement.after else str(agreement.before)
    text += f" (transformers in {agreement.dtype}, {agreement.source})"
    return text if agreement.is_16_bit else f"{text}; this file is quantized: no 16-bit file was there to compare"


def hint(agreement: Agreement) -> str:
    """Return what a large divergence of a 16-bit file comes from; empty where there is none."""
    if not agreement.is_16_bit or max(part.kld for part in (agreement.before, agreement.after) if part) <= LARGE:
        return ""
    if agreement.fitted and max(agreement.fitted.kld, agreement.before.kld) <= LARGE:
        return f"llama.cpp prepares pictures of other sizes than the model's processor does: {_FIT}"
    what = "computes or prepares the picture differently from transformers"
    if agreement.before.kld > LARGE:
        what = f"computes the text differently from transformers, or the file is not {agreement.checkpoint}'s"
    return f"llama.cpp {what}: {_SEE}"


def tokens(agreement: Agreement) -> str:
    """Return which tokens of the prompts differ, and how many each picture has where that does."""
    told = [agreement.differences] if agreement.differences else []
    sizes = dict.fromkeys(sample.picture_tokens for sample in agreement.samples if sample.picture_tokens)
    other = [(theirs, ours) for theirs, ours in sizes if theirs != ours]
    told += [f"a picture is {theirs} tokens to transformers and {ours} to llama.cpp" for theirs, ours in other]
    return "; ".join(told) or "the same on both sides"


def lines(agreement: Agreement) -> list[str]:
    """Return what `convert --check` prints."""
    told = f"\n{agreement.file} against {agreement.checkpoint}: {figures(agreement)}"
    return [told, f"prompt tokens: {tokens(agreement)}", *filter(None, [hint(agreement)])]
