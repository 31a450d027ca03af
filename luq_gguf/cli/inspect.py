"""luq-gguf inspect: what is in a GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output


@click.command("inspect")
@click.argument("file", type=options.UserPath(path_type=Path))
@click.option("--png", type=options.UserPath(path_type=Path), help="Also draw the types as an image.")
@options.as_json
def command(file: Path, png: Path | None, *, as_json: bool) -> None:
    """Show the sizes, bits per weight and tensor types of each layer of FILE."""
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
