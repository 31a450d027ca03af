"""Builds the report: what is known of a run folder, as figures and one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luq_gguf.core import atomic
from luq_gguf.llamacpp.gguf import mmproj, reader
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.reporting import page, split_sections, type_map
from luq_gguf.run import gguf_source, serialization
from luq_gguf.run.folder import RunFolder


def report(run_dir: Path) -> list[Path]:
    """Write report.html and the figures of a run folder; return the files that were written."""
    with RunFolder(run_dir) as run:
        gguf_source.check_described(run, by="report")
        folder = run.file("figures")
        folder.mkdir(exist_ok=True)
        profiled = serialization.read_profile(run.file("profile.json"))
        planned = serialization.read_plan(run.file("plan.json")) if run.file("plan.json").exists() else None
        sections = [page.profile_section(profiled, planned, folder)]
        if planned:
            drawn = _written(run)
            if drawn:
                type_map.draw(type_map.TypeMap.of(reader.read(drawn)), folder / "types.png")
            sections.append(page.plan_section(planned, folder / "types.png" if drawn else None))
        measured: tuple[tuple[str, Callable[[Path], Any], Callable[[Any], page.Section]], ...] = (
            ("sweep", serialization.read_sweep, lambda swept: page.sweep_section(swept, folder)),
            ("alpha", serialization.read_mix, lambda mix: page.mix_section(mix, folder)),
            ("eval", serialization.read_evals, page.eval_section),
            ("eval", serialization.read_evals, split_sections.splits_section),
            ("eval", serialization.read_evals, split_sections.differences_section),
            ("eval", serialization.read_evals, page.reference_section),
            ("bench", serialization.read_bench, lambda bench: page.throughput_section(bench, folder)),
            ("eval", serialization.read_evals, page.benchmarks_section),
        )
        sizes = _sizes(run)
        if sizes:
            sections.append(page.sizes_section(sizes, folder))
        for name, read, section in measured:
            if (path := run.file(f"{name}.json")).exists():
                with serialization.reading(path, name):
                    built = section(read(path))
                sections += [built] if built.rows or built.images else []
        atomic.write_text(run.file("report.html"), page.render(profiled.model, sections))
        return [run.file("report.html"), *sorted(folder.glob("*.png"))]


def _written(run: RunFolder) -> Path | None:
    """Return the file that the quantize stage wrote, if it is still there."""
    names = run.read()["stages"].get("quantize", {}).get("outputs", {})
    return next((run.file(name) for name in names if run.file(name).exists()), None)


def _sizes(run: RunFolder) -> list[tuple[str, dict[str, int]]]:
    """Return the bytes of the parts of every text model file in the folder, with the mmproj; largest file first."""
    vision = sum(path.stat().st_size for path in mmproj.beside(run.file("run.json")))
    files = []
    for path in run.path.glob("*.gguf"):
        if mmproj.is_mmproj_name(path.name) or path.name.startswith("imatrix"):
            continue
        info = reader.read(path)
        inside = sum(tensor.n_bytes for tensor in info.tensors if layer_of(tensor.name) is not None)
        parts = {"decoder layers": inside, "embeddings, head, metadata": info.n_bytes - inside}
        files.append((path.name, parts | ({"vision (mmproj)": vision} if vision else {})))
    return sorted(files, key=lambda entry: -sum(entry[1].values()))
