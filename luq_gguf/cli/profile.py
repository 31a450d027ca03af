"""luq-gguf profile: entropies and importance."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output


@click.command("profile")
@click.argument("model")
@options.out
@options.calibration
@options.device
@options.trust
@options.force
@options.as_json
def command(
    model: str,
    out: Path,
    calib: str | None,
    calib_text: str | None,
    alpha: float,
    samples: int,
    seed: int,
    device: str,
    trust_remote_code: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Run calibration data through MODEL once; write profile.json and imatrix.gguf into the folder --out."""
    from luq_gguf import artefacts, pipeline
    from luq_gguf.stages import CalibrationRequest

    request = CalibrationRequest(calib, calib_text, alpha, samples, seed)
    with output.listener() as listener:
        profile = pipeline.profile(
            model, out, request, device=device, trust_remote_code=trust_remote_code, force=force, listener=listener
        )
    if as_json:
        output.print_json(artefacts.profile_to_json(profile))
        return
    output.print_table(output.profile_table(profile))
    click.echo(output.agreement_line(profile))
    click.echo(f"profile  {out / 'profile.json'}\nimatrix  {out / 'imatrix.gguf'}")
