"""luq-gguf profile: entropies and importance."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core import json_output
from luq_gguf.core.errors import CalibrationError
from luq_gguf.reporting.progress import progress

if TYPE_CHECKING:
    from luq_gguf.core.types import ShardSpec


@click.command("profile")
@click.argument("model")
@options.out
@options.calibration
@click.option(
    "--shard",
    metavar="I/N",
    type=options.ShardParam(),
    help="Only shard I of N, counted from 0; luq-gguf merge merges them.",
)
@options.device
@options.subfolder
@options.trust
@options.permissions("--overwrite")
@options.as_json
def command(model: str, out: Path, shard: ShardSpec | None, *, as_json: bool, **rest: Any) -> None:
    """Run the calibration set through MODEL once; write profile.json and imatrix.gguf into the folder --out.

    Under torchrun or accelerate launch, the processes share the work.
    """
    calibration, how = options.make_calibration(rest), options.make_run_options(rest)
    from luq_gguf import api
    from luq_gguf.calibration import distributed_pass
    from luq_gguf.calibration.distributed import Launch
    from luq_gguf.core.reporter import Reporter

    launch = Launch.of_environment()
    if shard and launch:
        raise CalibrationError(
            f"--shard {shard} was given to {launch.count} processes that already share the work.",
            "Leave out --shard, or start one process.",
        )
    quiet = nullcontext(Reporter())
    with quiet if launch and launch.rank else progress() as reporter:
        if shard:
            distributed_pass.profile_shard(model, out, calibration, shard, how, reporter)
            content = {"shard": str(shard), "run_dir": str(out)}
            click.echo(json_output.indented(content).rstrip() if as_json else f"shard {shard}  {out}")
            return
        if launch:
            profile = distributed_pass.profile_together(model, out, calibration, launch, how, reporter)
        else:
            profile = api.profile(model, out, calibration, options=how, reporter=reporter)
    if profile:
        output.print_profile(profile, out, as_json=as_json)
