"""luq-gguf inspect: what is in a GGUF file, or what a model sees of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output


@click.command("inspect")
@click.argument("file", type=options.UserPath(path_type=Path))
@click.option("--png", type=options.UserPath(path_type=Path), help="Also draw the types as an image.")
@click.option(
    "--model",
    metavar="CHECKPOINT|RUN",
    help="FILE is a picture: show what the processor of this checkpoint (a folder, a Hub id or a run folder) makes of "
    "it, and what llama.cpp makes of it.",
)
@options.subfolder
@options.trust
@options.as_json
def command(file: Path, png: Path | None, model: str | None, *, as_json: bool, **rest: Any) -> None:
    """Show the sizes, bits per weight and tensor types of each layer of FILE.

    With --model, FILE is a picture: show its size in pixels and tokens as the model sees it, and whether it is
    stretched, cropped or padded.
    """
    if model is not None:
        if png:
            raise click.UsageError("--png draws the types of a GGUF file; it cannot be used with --model.")
        _show_picture(file, model, rest, as_json=as_json)
        return
    from luq_gguf.llamacpp.gguf import shards
    from luq_gguf.reporting import type_map

    info = shards.read(file)
    picture = type_map.TypeMap.of(info)
    if png:
        type_map.draw(picture, png)
    if as_json:
        output.print_json(picture.to_json())
        return
    output.print_table(type_map.table(picture))
    if png:
        click.echo(f"image  {png}")


def _show_picture(file: Path, model: str, rest: dict[str, Any], *, as_json: bool) -> None:
    from luq_gguf.reporting import picture_text
    from luq_gguf.workflows import pictures

    views = pictures.look(file, model, options.make_run_options(rest))
    if as_json:
        output.print_json({"picture": str(file)} | views.to_json())
        return
    output.print_table(picture_text.views_table(file.name, views))
    click.echo(picture_text.verdict(views))
