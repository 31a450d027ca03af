"""The noise floor of a file: how far it is from itself where the same tokens are computed in other pieces."""

from __future__ import annotations

from luq_gguf.core.types import EvalData
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import kld as kld_metric

TOKENS, BATCH = 96, 16  # on both sides of the 64 at which ggml changes to other products
KEPT = 32  # positions that count: those behind the 64th
HOW = (TOKENS, BATCH, KEPT)  # in the keys of what holds a noise floor


def measure(client: LlamaClient, data: EvalData, top: int) -> float:
    """Return the mean KLD, in nats, of a loaded file from itself at the last KEPT of TOKENS tokens of the data's text,
    once computed together and once BATCH at a time; NaN where its logits are not finite. `top` tokens of a position
    are compared one by one, the others as one.

    What differs is how sums are rounded: with more than 64 tokens at once, ggml takes other products for most types.
    """
    text = list(data.chunks[0]) if data.chunks else client.tokenize(" ".join(s.prompt for s in data.samples))[0]
    tokens = ((text or [0]) * TOKENS)[:TOKENS]
    together = client.score_tokens(tokens, 0, TOKENS, last=KEPT)
    apart = client.score_tokens(tokens, TOKENS - KEPT, BATCH)
    return float(kld_metric.kl_from_top(kld_metric.keep_top(together, top), apart).mean())
