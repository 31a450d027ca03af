"""Shows a GGUF file's tensor types by layer: as JSON, as a coloured terminal table, as an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from luq_gguf.core import atomic
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.reporting.plain_text import plain_text

_ORDER = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_HATCHED = 2.0  # bits per weight below which cells are hatched too: grey print has no red
# Bits per weight below which a type is drawn in this colour: red for ultra-low, green for 16 bits and more.
_COLOURS = ((2.0, "#d73027"), (3.0, "#fc8d59"), (4.0, "#fee08b"), (5.0, "#91bfdb"), (7.0, "#4575b4"), (99.0, "#1a9850"))


@dataclass(frozen=True)
class TypeMap:
    """Types by layer and tensor, and bits per weight of every type in the file."""

    name: str
    arch: str
    n_bytes: int
    bpw: float
    layers: dict[int, dict[str, str]]
    other: dict[str, str]
    type_bpw: dict[str, float]
    layer_bytes: dict[int, int]

    @staticmethod
    def of(info: Any) -> TypeMap:
        """Make a type map from a file's header (llamacpp.gguf.reader.GGUFInfo)."""
        layers: dict[int, dict[str, str]] = {}
        other: dict[str, str] = {}
        layer_bytes: dict[int, int] = {}
        for tensor in info.tensors:
            layer = layer_of(tensor.name)
            if layer is None:
                other[tensor.name] = tensor.type
                continue
            short = tensor.name.split(".", 2)[2].removesuffix(".weight")
            layers.setdefault(layer, {})[short] = tensor.type
            layer_bytes[layer] = layer_bytes.get(layer, 0) + tensor.n_bytes
        bits = {t.type: 8 * t.n_bytes / t.n_weights for t in info.tensors}
        return TypeMap(
            info.path.name, info.arch, info.n_bytes, info.bpw, dict(sorted(layers.items())), other, bits, layer_bytes
        )

    @property
    def matrices(self) -> list[str]:
        """The names of the quantized matrices of layers, in the usual order."""
        seen = {n for types in self.layers.values() for n, t in types.items() if t != "F32"}
        return [n for n in _ORDER if n in seen] + sorted(seen - set(_ORDER))

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.name,
            "n_bytes": self.n_bytes,
            "bpw": self.bpw,
            "arch": self.arch,
            "layers": [{"layer": n, "types": types} for n, types in self.layers.items()],
            "other": self.other,
        }


def colour(bpw: float) -> str:
    return next(c for limit, c in _COLOURS if bpw < limit)


def table(types: TypeMap) -> Table:
    """Make a table with one row per layer and matrices as columns, coloured by bits per weight."""
    # as Text: square brackets in a file's names are not rich's markup
    title = Text(f"{types.name}: {types.arch}, {format_size(types.n_bytes)}, {format_bpw(types.bpw)} bpw")
    rest = Text("other tensors: ") + Text(", ").join(
        _cell(kind, types) + Text(f" {name.removesuffix('.weight')}")
        for name, kind in types.other.items()
        if kind != "F32"
    )
    drawn = Table(title=title, caption=rest, box=box.SIMPLE_HEAD, caption_justify="left", padding=(0, 1, 0, 0))
    drawn.add_column("layer", justify="right")
    for name in types.matrices:
        drawn.add_column(Text(name.replace("_", " ")), no_wrap=True)
    drawn.add_column("MiB", justify="right")
    for layer, row in types.layers.items():
        cells = [_cell(row.get(name, ""), types) for name in types.matrices]
        drawn.add_row(str(layer), *cells, f"{types.layer_bytes[layer] / 1024**2:.2f}")
    return drawn


def _cell(kind: str, types: TypeMap) -> Text:
    return Text(kind, style=f"bold {colour(types.type_bpw[kind])}" if kind else "")


def _look(kind: str, types: TypeMap) -> dict[str, Any]:
    bits = types.type_bpw[kind]
    hatch = {"hatch": "////", "edgecolor": "white"} if bits < _HATCHED else {"edgecolor": "none"}
    return {"facecolor": colour(bits), "linewidth": 0, **hatch}


def draw(types: TypeMap, path: Path) -> None:
    """Draw a PNG: layers across, matrices down, coloured by bits per weight."""
    with plain_text():
        _draw(types, path)


def _draw(types: TypeMap, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    names = types.matrices
    width = min(120.0, max(6.0, 0.34 * len(types.layers) + 3.2))  # inches: an image that can still be opened
    figure = Figure(figsize=(width, min(40.0, 0.36 * len(names) + 1.5)), layout="constrained")
    axes: Any = figure.subplots()
    used: dict[str, str] = {}
    for column, (_, row) in enumerate(types.layers.items()):
        for line, name in enumerate(names):
            if kind := row.get(name):
                used[kind] = colour(types.type_bpw[kind])
                axes.add_patch(Rectangle((column, line), 0.92, 0.88, **_look(kind, types)))
    axes.set(xlim=(-0.1, len(types.layers)), ylim=(len(names), -0.1), xlabel="decoder layer")
    axes.set_xticks([i + 0.46 for i in range(len(types.layers))], [str(n) for n in types.layers], fontsize=8)
    axes.set_yticks([i + 0.44 for i in range(len(names))], names)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"{types.name}\n{format_size(types.n_bytes)}, {format_bpw(types.bpw)} bpw", fontsize=10, loc="left")
    ordered = sorted(used, key=lambda kind: types.type_bpw[kind])
    handles = [Patch(**_look(k, types), label=f"{k} ({types.type_bpw[k]:.2f} bpw)") for k in ordered]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    with atomic.whole(path) as part:
        figure.savefig(part, format="png", dpi=130, metadata={"Software": None})
