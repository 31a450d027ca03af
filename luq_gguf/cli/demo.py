"""luq-gguf demo: the main job on the shipped model, and what it did to the answers."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output
from luq_gguf.core.types import RunOptions
from luq_gguf.reporting.progress import progress

SHOWN = 8
MODELS = ("qwen2.5-vl", "llava-1.5")


@click.command("demo")
@click.option("--model", type=click.Choice(MODELS), default=MODELS[0], show_default=True, help="Which tiny model.")
@click.option("--out", type=options.UserPath(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--low-layers", default=6, show_default=True, help="How many of the 12 layers become low.")
@click.option(
    "--questions", default=500, show_default=True, type=click.IntRange(1, 9673), help="Number of test questions."
)
@options.device
@options.threads
@options.as_json
def command(
    model: str, out: Path, low_layers: int, questions: int, device: str, threads: int | None, *, as_json: bool
) -> None:
    """Convert a bundled tiny model, and ask its 16-bit, Q4_K_M and LUQ files the same questions about images."""
    from rich.table import Table

    from luq_gguf.core.units import format_size
    from luq_gguf.workflows import demo

    with progress() as reporter:
        how = RunOptions(threads=threads, device=device)
        done = demo.run(out, how, reporter, model=model, low_layers=low_layers, n_questions=questions)
    if as_json:
        output.print_json(done.to_json())
        return
    if done.converted.profile:
        output.print_table(output.profile_table(done.converted.profile, done.converted.plan.low_layers))
    table = Table(title="The same questions for all three files, through llama.cpp")
    for name in ("image", "question", "correct answer", *(f.label for f in done.files)):
        table.add_column(name)
    for i, question in enumerate(done.questions[:SHOWN]):
        answers = [
            f"[green]{f.answers[i]}[/]" if f.answers[i] == question.answer else f"[red]{f.answers[i]}[/]"
            for f in done.files
        ]
        table.add_row(question.image.name, question.text, question.answer, *answers)
    output.print_table(table)
    table = Table(title=f"Accuracy on {questions} test questions of easy-VQA")
    for name, side in (
        ("file", "left"),
        ("size", "right"),
        ("bpw", "right"),
        ("accuracy", "right"),
        ("95% interval", "right"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for f in done.files:
        low, high = f.interval
        table.add_row(f.label, format_size(f.n_bytes), f"{f.bpw:.2f}", f"{f.accuracy:.1%}", f"{low:.1%} to {high:.1%}")
    output.print_table(table)
    for f in done.files:
        click.echo(f"{f.label:<8} {f.path}")
    click.echo(f"{'mmproj':<8} {done.converted.mmproj}")
    click.echo(
        "\nThe same for a real model (disk space: its checkpoint, a 16-bit GGUF file of the same size, and the result):"
    )
    click.echo("  luq-gguf convert Qwen/Qwen2.5-VL-7B-Instruct --out out/qwen --target-size 3.4GiB")
