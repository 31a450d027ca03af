"""luq-gguf bench: how fast files are on this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core.speeds import Bench
from luq_gguf.core.types import RunOptions
from luq_gguf.reporting import tables
from luq_gguf.reporting.progress import progress

FILE = options.UserPath(exists=True, dir_okay=False, path_type=Path)


@click.command("bench")
@click.argument("files", nargs=-1, type=FILE)
@click.option(
    "--run",
    "run_dir",
    type=options.UserPath(path_type=Path),
    help="Measure a run folder's 16-bit, high-type and LUQ files, which are made if they are missing.",
)
@click.option(
    "--shape",
    metavar="MODEL",
    help="Measure a geometry without weights: a folder or Hub id with a config.json, or qwen2.5-vl-7b, qwen2.5-vl-3b, "
    "llava-1.5-7b or llava-1.5-13b.",
)
@click.option("--types", "of_types", is_flag=True, help="Measure every candidate type in layers of the model's shapes.")
@click.option("--again", is_flag=True, help="With --types: measure again the types that have been measured already.")
@click.option("--low-layers", type=click.IntRange(0), help="With --shape: how many layers are low.")
@click.option("--low", default="IQ1_M", show_default=True, help="With --shape: list of tensor types of the low layers.")
@click.option("--high", default="Q4_K_M", show_default=True, help="With --shape: file type of everything else.")
@click.option("--f16", is_flag=True, help="With --shape: also measure the 16-bit file.")
@click.option("--threads", metavar="LIST", help="Thread counts such as 1,2,4.  [default: physical cores]")
@click.option("--prompt", "prompts", default="64,256", show_default=True, help="Prompt lengths in tokens for prefill.")
@click.option(
    "--generate", default=32, show_default=True, type=click.IntRange(1), help="Tokens to generate for decode."
)
@click.option(
    "--repetitions", default=10, show_default=True, type=click.IntRange(1), help="Repetitions for every file."
)
@click.option("--mmproj", type=FILE, help="The vision half.  [default: the only mmproj next to each file]")
@click.option("--image", type=FILE, help="The image to ask about.  [default: a generated one, 448 x 448]")
@click.option(
    "--kernels",
    is_flag=True,
    help="Measure files in IQ1_M or IQ1_S also with luq-gguf's kernels, not just as they are.",
)
@options.gpu_layers
@click.option("--allow-swap", is_flag=True, help="Also measure a file that does not fit in free memory.")
@click.option(
    "--out",
    type=options.UserPath(dir_okay=False, path_type=Path),
    help="The JSON file.  [default: bench.json, in the run folder with --run]",
)
@click.option("--model", help="With --run: the checkpoint, if it is not where the profile found it.")
@options.trust
@options.as_json
def command(files: tuple[Path, ...], run_dir: Path | None, shape: str | None, *, of_types: bool, **rest: Any) -> None:
    """Measure decode and prefill of FILES on this CPU with llama-bench, and answers about an image with libmtmd.

    The files take turns. Ratios are relative to the Q4_K_M file among them. An interrupted run keeps what it finished.
    """  # fmt: skip
    as_json = bool(rest.pop("as_json"))
    given = sum((bool(files), run_dir is not None, shape is not None))
    if given > 1 or (given == 0 and not of_types) or (of_types and files):
        raise click.UsageError(
            "Give FILES, --run DIR or --shape MODEL; or give --types, alone or with one of the latter two."
        )
    if of_types and rest["gpu_layers"]:
        raise click.UsageError("--types measures this CPU; leave --gpu-layers out.")
    if of_types:
        _types(run_dir, shape, rest, as_json=as_json)
        return
    result, out = _bench(files, run_dir, shape, rest)
    if as_json:
        output.print_json(result.to_json())
        return
    for table in tables.bench_tables(result):
        output.print_table(table)
    click.echo(f"results  {out}\nfigure   {out.with_suffix('.png')}")


def _threads(text: str | None) -> tuple[int, ...]:
    from luq_gguf.core import machine

    counts = options.numbers(text, "--threads") if text else (machine.cores(),)
    if not all(counts):
        raise click.UsageError("--threads must be at least 1.")
    return counts


def _bench(
    files: tuple[Path, ...], run_dir: Path | None, shape: str | None, given: dict[str, Any]
) -> tuple[Bench, Path]:
    prompts = options.numbers(given["prompts"], "--prompt")
    from luq_gguf import api
    from luq_gguf.benchmarking.file_benchmark import BenchRequest
    from luq_gguf.workflows.bench import ShapeRequest

    request = BenchRequest(
        _threads(given["threads"]),
        prompts,
        given["generate"],
        given["repetitions"],
        given["image"],
        given["allow_swap"],
        given["kernels"],
        given["gpu_layers"],
    )
    out = (given["out"] or (run_dir or Path()) / "bench.json").absolute()
    if given["out"] and not out.parent.is_dir():
        raise click.UsageError(f"{out.parent} is not a folder. Give --out a file in a folder that exists.")
    wanted = None
    if shape is not None:
        lows = tuple(dict.fromkeys(kind.strip().upper() for kind in given["low"].split(",")))
        wanted = ShapeRequest(shape, given["low_layers"], lows, given["high"], given["f16"])
    with progress() as reporter:
        measured = api.bench(
            files, run=run_dir, shape=wanted, request=request, out=out, mmproj=given["mmproj"], model=given["model"],
            options=RunOptions(trust_remote_code=given["trust_remote_code"]), reporter=reporter,
        )  # fmt: skip
    return measured, out


def _types(run_dir: Path | None, shape: str | None, given: dict[str, Any], *, as_json: bool) -> None:
    from luq_gguf import api

    threads = _threads(given["threads"])
    if len(threads) > 1:
        raise click.UsageError("--types takes a single number of threads.")
    with progress() as reporter:
        model = shape or "qwen2.5-vl-7b"
        speeds = api.bench_types(run=run_dir, shape=model, threads=threads[0], again=given["again"], reporter=reporter)
    if as_json:
        output.print_json(speeds.to_json())
        return
    output.print_table(tables.types_table(speeds, str(run_dir) if run_dir else model))
    bandwidth = speeds.read_gigabytes_per_second
    click.echo(f"this machine reads {bandwidth:.1f} GB/s from memory with {speeds.threads} threads")
