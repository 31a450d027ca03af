"""Says what each file of a model is to be taken for."""

from __future__ import annotations

from collections.abc import Mapping


def advice(sizes: Mapping[str, int], klds: Mapping[str, float]) -> dict[str, list[str]]:
    """Return for each file what it is to be taken for, by its bytes and, where files were measured on the same
    questions, their mean KL divergence in nats; nothing where there is one file alone, or nothing to say."""
    lines: dict[str, list[str]] = {name: [] for name in sizes}
    if len(sizes) < 2:
        return lines
    lines[min(sizes, key=lambda name: sizes[name])].append("the smallest")
    for name, kld in klds.items():
        better = [other for other in klds if klds[other] < kld and sizes[other] <= sizes[name]]
        if better:
            best = min(better, key=lambda other: klds[other])
            lines[name].append(f"{best} is no larger, and measured closer to 16 bit")
    if len(klds) > 1:
        lines[min(klds, key=lambda name: klds[name])].append("the closest to 16 bit")
    return lines
