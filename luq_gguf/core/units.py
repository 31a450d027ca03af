"""Sizes in bytes, bits per weight and times for people, and sizes padded to an alignment."""

from __future__ import annotations

from math import ceil

GIB = 1024**3


def format_size(n_bytes: int, *, up: bool = False) -> str:
    """Return a size as text in GiB, MiB or KiB; `up` rounds so that the text is never less than the number."""
    units = ((GIB, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
    unit, name = next((candidate for candidate in units if n_bytes >= candidate[0] // 10), units[-1])
    value = n_bytes / unit
    if up:
        value = -(-n_bytes * 100 // unit) / 100
    return f"{value:.2f} {name}"


def format_bpw(bpw: float) -> str:
    """Return bits per weight as text that is never less than the number, so that it can be given back as a target."""
    thousandths = ceil(bpw * 1000)
    return f"{(thousandths + (thousandths / 1000 < bpw)) / 1000:.3f}"


def format_seconds(seconds: float) -> str:
    """Return a time as text with its two largest units: 7.3 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def padded(n_bytes: int, alignment: int) -> int:
    """Return the smallest multiple of `alignment` that is at least `n_bytes`."""
    return -(-n_bytes // alignment) * alignment
