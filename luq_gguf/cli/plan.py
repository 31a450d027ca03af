"""luq-gguf plan: from a profile and a budget to a type for every tensor."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output


@click.command("plan")
@click.argument("run_dir", type=click.Path(path_type=Path))
@options.types
@options.budget
@click.option("--seed", default=0, show_default=True, help="Seed of --rank random.")
@click.option("--model", help="The checkpoint, if it is not where the profile found it.")
@options.threads
@options.trust
@options.force
@options.as_json
def command(
    run_dir: Path,
    low: str,
    high: str,
    low_layers: int | None,
    target_size: int | None,
    target_bpw: float | None,
    max_kld: float | None,
    min_accuracy: float | None,
    target_tps: float | None,
    eval_source: str | None,
    rule: str,
    seed: int,
    threads: int | None,
    model: str | None,
    trust_remote_code: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write plan.json and tensor-types.txt into RUN_DIR, a folder that `luq-gguf profile` has filled."""
    budget = options.make_budget(low_layers, target_size, target_bpw, max_kld, min_accuracy, target_tps)
    from luq_gguf import artefacts, pipeline

    with output.listener() as listener:
        plan = pipeline.plan(
            run_dir,
            budget,
            low=low,
            high=high,
            rule=rule,
            seed=seed,
            eval_source=eval_source,
            threads=threads,
            model=model,
            trust_remote_code=trust_remote_code,
            force=force,
            listener=listener,
        )
    if as_json:
        output.print_json(artefacts.plan_to_json(plan))
        return
    for line in output.plan_lines(plan):
        click.echo(line)
    click.echo(f"plan   {run_dir / 'plan.json'}\ntypes  {run_dir / 'tensor-types.txt'}")
