"""luq-gguf profile: entropies and importance."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core.errors import CalibrationError

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
def command(
    model: str,
    out: Path,
    calib: str | None,
    calib_text: str | None,
    alpha: float,
    samples: int,
    seed: int,
    shard: ShardSpec | None,
    *,
    as_json: bool,
    **rest: Any,
) -> None:
    """Run the calibration set through MODEL once; write profile.json and imatrix.gguf into the folder --out.

    Under torchrun or accelerate launch, the processes share the work.
    """
    from luq_gguf.calibration import distributed_pass
    from luq_gguf.calibration.distributed import Launch
    from luq_gguf.calibration.stage import CalibrationRequest
    from luq_gguf.core.reporter import Reporter
    from luq_gguf.workflows import pipeline

    request = CalibrationRequest(calib, calib_text, alpha, samples, seed)
    launch = Launch.of_environment()
    if shard and launch:
        raise CalibrationError(
            f"--shard {shard} was given to {launch.count} processes that already share the work.",
            "Leave out --shard, or start one process.",
        )
    how = options.make_run_options(rest)
    quiet = nullcontext(Reporter())
    with quiet if launch and launch.rank else output.reporter() as reporter:
        if shard:
            distributed_pass.profile_shard(model, out, request, shard, how, reporter)
            content = {"shard": str(shard), "run_dir": str(out)}
            click.echo(json.dumps(content, indent=1) if as_json else f"shard {shard}  {out}")
            return
        if launch:
            profile = distributed_pass.profile_together(model, out, request, launch, how, reporter)
        else:
            profile = pipeline.profile(model, out, request, how, reporter)
    if profile:
        output.print_profile(profile, out, as_json=as_json)
