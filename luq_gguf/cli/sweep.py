"""luq-gguf sweep: how a model changes as more of its layers become low."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core.json_value import given
from luq_gguf.method.orders import ORDERS, SWEPT
from luq_gguf.method.uniform import SWEPT as SWEPT_UNIFORM
from luq_gguf.reporting import tables
from luq_gguf.reporting.progress import progress


@click.command("sweep")
@click.argument("run_dir", type=options.UserPath(path_type=Path))
@options.questions
@options.types
@click.option("--low-layers", metavar="LIST", help="Numbers of low layers such as 0,4,8 or 0-12.  [default: all]")
@click.option(
    "--order",
    "orders",
    multiple=True,
    type=click.Choice([*ORDERS, "best"]),
    help="Which layers become low first; may be repeated. best: the best plans at the uniform files' sizes.  [default: "
    f"{', '.join(SWEPT)}]",
)
@click.option("--random-seeds", default=1, show_default=True, help="Number of random orders.")
@click.option(
    "--uniform",
    metavar="LIST",
    help=f"Uniform file types to compare with, or none.  [default: {','.join(SWEPT_UNIFORM)}]",
)
@click.option(
    "--alpha", "alphas", metavar="LIST", help="Also profile again with these multimodal shares, 0,0.25,0.5,0.75,1."
)
@click.option("--alpha-layers", metavar="LIST", help="Numbers of low layers for --alpha.  [default: half of all]")
@click.option("--calib", metavar="SET", help="For --alpha: the --calib of the run's profile.")
@click.option("--calib-text", metavar="TEXT", help="For --alpha: the --calib-text of the run's profile.")
@click.option("--calib-samples", default=128, show_default=True, help="For --alpha: its --samples.")
@click.option("--calib-seed", default=0, show_default=True, help="For --alpha: its --seed.")
@options.device
@options.imatrix
@options.profiled_model
@options.threads
@options.trust
@options.permissions("--allow-fallback")
@options.as_json
def command(
    run_dir: Path,
    low_layers: str | None,
    orders: tuple[str, ...],
    random_seeds: int,
    uniform: str | None,
    alphas: str | None,
    alpha_layers: str | None,
    calib: str | None,
    calib_text: str | None,
    calib_samples: int,
    calib_seed: int,
    *,
    as_json: bool,
    **rest: Any,
) -> None:
    """Measure files of a profiled model with increasing numbers of low layers, in several orders.

    sweep.json in RUN_DIR contains all points. An interrupted sweep resumes where it stopped.
    """
    counts = options.numbers(low_layers, "--low-layers") if low_layers is not None else None
    alpha_counts = options.numbers(alpha_layers, "--alpha-layers") if alpha_layers is not None else None
    shares = options.shares(alphas, "--alpha") if alphas is not None else ()
    from luq_gguf import api
    from luq_gguf.core.calibration_set import CalibrationSet
    from luq_gguf.workflows.calibration_mix import CalibrationMixRequest

    listed = SWEPT_UNIFORM if uniform is None else uniform.split(",")
    kinds = tuple(kind.upper() for kind in listed if kind and kind.lower() != "none")
    questions = options.make_questions(rest)
    calibration = CalibrationSet(calib, calib_text, samples=calib_samples, seed=calib_seed)
    mixes = CalibrationMixRequest(shares, alpha_counts, calibration) if shares else None
    how = options.make_run_options(rest)
    with progress() as reporter:
        swept = api.sweep(
            run_dir, questions, low_layers=counts, rankings=orders or SWEPT, random_seeds=random_seeds,
            uniform_types=kinds, mix=mixes, options=how, reporter=reporter, **rest,
        )  # fmt: skip
    if as_json:
        output.print_json(swept.to_json())
        return
    for table in tables.sweep_tables(swept):
        output.print_table(table)
    click.echo(f"points  {run_dir / 'sweep.json'}")
    if mix := given(swept.alpha):
        output.print_table(tables.mix_table(mix))
        click.echo(f"alpha   {run_dir / 'alpha.json'}")
