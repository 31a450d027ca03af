"""luq-gguf fit: pictures as the model's own processor would have made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.reporting import picture_text
from luq_gguf.reporting.progress import progress


@click.command("fit")
@click.argument("pictures", nargs=-1, required=True, type=options.UserPath(path_type=Path))
@click.option(
    "--model", required=True, metavar="CHECKPOINT|RUN", help="The checkpoint (a folder or a Hub id), or its run folder."
)
@click.option(
    "--out", required=True, type=options.UserPath(path_type=Path), help="Folder for the fitted pictures, PNG files."
)
@click.option("--overwrite", is_flag=True, help="Replace files in --out; pictures to fit are never replaced.")
@options.subfolder
@options.trust
@options.as_json
def command(pictures: tuple[Path, ...], model: str, out: Path, *, as_json: bool, **rest: Any) -> None:
    """Resize PICTURES so that llama.cpp shows the model what its own processor would have shown.

    Many processors stretch or crop a picture; llama.cpp adds bars to it instead, and has token limits of its own. A
    fitted picture has the processor's size already, so nothing is left to do. Pictures are turned as their EXIF
    orientation says, and written as 8-bit RGB.

    \b
    luq-gguf fit photos/*.jpg --model Qwen/Qwen2.5-VL-7B-Instruct --out fitted/
    """
    from luq_gguf import api

    how = options.make_run_options(rest)
    with progress() as reporter:
        fitted = api.fit(pictures, model, out, options=how, reporter=reporter)
    if as_json:
        output.print_json({"pictures": [picture.to_json() for picture in fitted]})
        return
    output.print_table(picture_text.fit_table(fitted))
    for line in picture_text.fit_lines(fitted):
        click.echo(line)
