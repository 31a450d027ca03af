"""luq-gguf choose: which file of a folder or a repository to run here, and how."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from luq_gguf.cli import options, output
from luq_gguf.core.choice import Choice, FileNeed
from luq_gguf.core.errors import one_line
from luq_gguf.core.units import format_size
from luq_gguf.reporting.progress import progress


@click.command("choose")
@click.argument("source", metavar="REPO|DIR")
@click.option(
    "--memory",
    "memory_bytes",
    type=options.Size(),
    help="Memory that may be used, e.g. 8GiB.  [default: what is available]",
)
@click.option(
    "--ctx",
    "n_ctx",
    type=click.IntRange(256),
    help="Context size in tokens.  [default: 8192, or what the model was trained with if that is less]",
)
@options.cache_types("f16, or q8_0 where that is needed to fit")
@click.option("--threads", type=click.IntRange(1), help="Threads for llama.cpp.  [default: all cores]")
@click.option("--ollama", is_flag=True, help="Print a Modelfile for Ollama, and nothing else, to stdout.")
@options.as_json
def command(source: str, *, ollama: bool, as_json: bool, **rest: Any) -> int:
    """Say which GGUF files of REPO (on the Hub) or DIR fit into this machine's memory, what each needs, and how to run
    the best one. Only headers are read; nothing is downloaded.

    \b
    luq-gguf choose ggml-org/Qwen2.5-VL-7B-Instruct-GGUF --memory 8GiB
    """  # fmt: skip
    from luq_gguf import api
    from luq_gguf.workflows.choose import ChooseRequest

    request = ChooseRequest(source, **rest, ollama=ollama)
    with progress() as reporter:
        choice = api.choose(request, reporter=reporter)
    if as_json:
        output.print_json(choice.to_json())
    elif ollama and choice.modelfile:
        click.echo(choice.modelfile, nl=False)
        output.info(one_line(choice.why))
    else:
        _print(choice)
    return 0 if choice.best else 1


def _print(choice: Choice) -> None:
    table = Table(title=Text(one_line(f"{choice.source}: memory in GiB, of {choice.memory_bytes / 2**30:.2f}")))
    for name in ("file", "weights", "mmproj", "KV cache", "buffers", "total", "fits", "tokens/s", "quality"):
        table.add_column(name, justify="left" if name in ("file", "fits", "quality") else "right", overflow="fold")
    for need in choice.files:
        table.add_row(*_cells(need, best=need.file == choice.best))
    output.print_table(table)
    for need in choice.files:
        if need.problem:
            click.echo(one_line(f"{need.file}: {need.problem}"))
    click.echo(f"best  {one_line(choice.best or 'none')}\n{one_line(choice.why)}")
    best = next((need for need in choice.files if need.file == choice.best), None)
    if best:
        for line in _remarks(best, choice.memory_bytes):
            click.echo(line)
    for line in choice.commands.values():
        click.echo(f"\n{line}")


def _cells(need: FileNeed, *, best: bool) -> list[Text]:
    use = need.memory
    sizes = [need.n_bytes, *[None] * 4] if use is None else [
        use.weights_bytes, use.mmproj_bytes, use.kv_cache_bytes,
        use.compute_bytes + use.image_bytes + use.program_bytes, use.total_bytes,
    ]  # fmt: skip
    fits = "yes" if need.fits else "no" if use or need.problem else ""
    cache = need.context.type_k if need.context else "f16"
    quality = need.quality
    figures = [f"KLD {quality.kld:.3g}"] if quality and quality.kld is not None else []
    figures += [f"accuracy {quality.accuracy:.1%}"] if quality and quality.accuracy is not None else []
    cells = [
        one_line(need.file),
        *("" if size is None else f"{size / 2**30:.2f}" for size in sizes),
        f"{fits}, {cache} KV" if need.fits and cache != "f16" else fits,
        "" if need.decode_tps is None else f"{need.decode_tps:.1f}",
        ", ".join(figures),
    ]
    return [Text(cell, style="bold" if best else "") for cell in cells]


def _remarks(best: FileNeed, memory_bytes: int) -> list[str]:
    """What has to be known of the best file beside its command lines."""
    lines = []
    assert best.memory is not None
    assert best.context is not None
    if best.n_ctx_train and best.context.n_ctx > best.n_ctx_train:
        lines.append(f"The model was trained with a context of {best.n_ctx_train} tokens; llama-server gives no more.")
    if best.image_max_tokens:
        lines.append(f"Images are limited to {best.image_max_tokens} tokens: larger ones need more memory or context.")
    if best.mmproj and best.cli_bytes and best.cli_bytes > memory_bytes:
        more = format_size(best.cli_bytes - best.memory.total_bytes, up=True)
        lines.append(f"llama-mtmd-cli needs {more} more than llama-server, and may not fit.")
    return lines
