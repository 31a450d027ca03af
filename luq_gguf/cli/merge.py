"""luq-gguf merge: shards of a profile put together."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output
from luq_gguf.reporting.progress import progress


@click.command("merge")
@click.argument("shards", nargs=-1, required=True, type=options.UserPath(path_type=Path))
@options.out
@options.permissions("--overwrite")
@options.as_json
def command(shards: tuple[Path, ...], out: Path, *, overwrite: bool, allow_fallback: bool, as_json: bool) -> None:
    """Merge SHARDS of luq-gguf profile --shard; write profile.json and imatrix.gguf into the folder --out."""
    from luq_gguf.calibration import distributed_pass

    with progress() as reporter:
        profile = distributed_pass.merge(shards, out, overwrite=overwrite, reporter=reporter)
    output.print_profile(profile, out, as_json=as_json)
