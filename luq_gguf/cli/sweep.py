"""luq-gguf sweep: what becomes of a model as more of its layers become low."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output


@click.command("sweep")
@click.argument("run_dir", type=click.Path(path_type=Path))
@options.questions
@options.types
@click.option("--low-layers", metavar="LIST", help="Numbers of low layers such as 0,4,8 or 0-12.  [default: all]")
@click.option(
    "--order",
    "orders",
    multiple=True,
    type=click.Choice(["entropy", "entropy-desc", "random", "kld"]),
    help="Which layers become low first; may be repeated.  [default: all four]",
)
@click.option("--random-seeds", default=1, show_default=True, help="So many random orders.")
@click.option(
    "--uniform",
    metavar="LIST",
    help="Uniform file types to compare with, or none.  [default: IQ1_M,IQ2_XXS,IQ2_M,Q2_K,IQ3_XXS,Q3_K_M,Q4_K_M]",
)
@click.option("--model", help="The checkpoint, if it is not where the profile found it.")
@options.threads
@options.trust
@options.force
@options.as_json
def command(
    run_dir: Path,
    low_layers: str | None,
    orders: tuple[str, ...],
    random_seeds: int,
    uniform: str | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Measure files with more and more low layers, in several orders, of a model that `profile` has profiled.

    sweep.json in RUN_DIR holds all points. An interrupted sweep goes on where it stopped.
    """
    counts = options.numbers(low_layers, "--low-layers") if low_layers is not None else None
    from luq_gguf import pipeline
    from luq_gguf.sweep import ORDERS, UNIFORM, SweepRequest

    kinds = UNIFORM if uniform is None else tuple(k.upper() for k in uniform.split(",") if k and k.lower() != "none")
    questions = options.make_questions(rest)
    request = SweepRequest(counts, orders or ORDERS, random_seeds, kinds)
    with output.listener() as listener:
        content = pipeline.sweep(run_dir, request, questions, listener=listener, **rest)
    if as_json:
        output.print_json(content)
        return
    for table in output.sweep_tables(content):
        output.print_table(table)
    click.echo(f"points  {run_dir / 'sweep.json'}")
