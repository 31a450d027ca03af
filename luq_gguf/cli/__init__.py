"""This package is the command line: one file per command parses the arguments, calls a workflow and prints the
result. What a command does belongs to `workflows` and below. Each command's file is imported when the command is
called, so `luq-gguf --help` is quick.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.metadata
import io
import os
import sys
import traceback

import click

from luq_gguf._version import __version__
from luq_gguf.calibration.distributed import Launch
from luq_gguf.core import interrupts
from luq_gguf.core.errors import LuqError, printable
from luq_gguf.core.terminal import is_plain

COMMANDS = {
    "convert": "Convert a checkpoint to a LUQ GGUF file: profile, plan and quantize in one go.",
    "profile": "Measure layer entropies and the importance matrix of a checkpoint.",
    "merge": "Merge the shards of a profile.",
    "plan": "Choose a type for every tensor within a budget.",
    "quantize": "Write and verify the GGUF file that a plan describes.",
    "eval": "Measure KL divergence, accuracy and perplexity of a GGUF file.",
    "sweep": "Measure files with increasing numbers of low layers, in several orders.",
    "bench": "Measure decode and prefill speed of files, or of a model's geometry, on this CPU.",
    "report": "Write report.html and the figures of a run.",
    "upload": "Publish a finished run on the Hub, with a model card.",
    "inspect": "Show the tensor types of a GGUF file, or what a model sees of a picture.",
    "fit": "Resize pictures so that llama.cpp shows them as the model's own processor does.",
    "choose": "Say which file of a folder or a Hub repository this machine can run best, and how.",
    "verify": "Check a run folder or a GGUF file: hashes, types, structure, finite logits.",
    "kernels": "Build faster IQ1_M and IQ1_S kernels, which stock llama.cpp loads, and measure them.",
    "setup": "Find or build llama.cpp for this CPU: everything else needs it.",
    "cache": "Show what luq-gguf keeps in its cache folder, and remove what is not used.",
    "doctor": "Check that everything luq-gguf needs is installed, and say what to do if it is not.",
    "demo": "Convert the bundled tiny model and compare it with its 16-bit and Q4_K_M files.",
}


class _Lazy(click.Group):
    """Finds commands by name; help texts come from the table, so listing them imports nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"luq_gguf.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda context, _, wanted: _show_versions(context) if wanted else None,
    help="Show the versions of luq-gguf, llama.cpp and gguf, and exit.",
)
def cli() -> None:
    """Make layerwise ultra-low-bit GGUF files of vision-language models, for stock llama.cpp."""


def _show_versions(context: click.Context) -> None:
    from luq_gguf.llamacpp import tools

    pin = tools.pin()
    own = os.environ.get(tools.ENVIRONMENT_VARIABLE)
    click.echo(f"luq-gguf {__version__}")
    click.echo(
        f"llama.cpp {pin['llama_cpp']} (of {pin['package']} {pin['version']})" if not own else f"llama.cpp {own}"
    )
    click.echo(f"gguf {importlib.metadata.version('gguf')}")
    context.exit()


def program() -> None:
    """Run a command as a process of its own, and end the process."""
    _use_utf8()
    _print_everything()
    try:
        interrupts.install()
        code = _run()
        if code != 130:  # then a second Ctrl-C must not be lost on threads that still end something
            interrupts.finish()
    except KeyboardInterrupt:  # between two of these lines
        code = 130
    except SystemExit as end:  # a process of a launch that leaves the last word to another
        code = end.code if isinstance(end.code, int) else 1
    if Launch.of_environment():
        _end_at_once(code)
    sys.exit(code)


def _end_at_once(code: int) -> None:
    """End the process as `sys.exit` does, but leave no time to threads of torch's process groups: one that ends too
    late calls std::terminate, and work that is done would count as failed."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _use_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding: paths are written into JSON, into GGUF
    files and on command lines as text."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})


def _print_everything() -> None:
    """Let names that a terminal's encoding does not have be printed escaped, not end a command that has done its work:
    PYTHONIOENCODING can ask for another encoding than the locale's."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() not in ("utf-8", "utf8"):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command of sys.argv for a Python program, which may go on afterwards: handlers of signals are as before.

    An error is printed as one sentence that says what is wrong and one that says what to do. Raises SystemExit.
    """
    with interrupts.remembered():
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        result = cli.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except LuqError as error:
        return _report(error, error.message, error.hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted. The same command resumes where this one stopped.", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _report(error, f"{where}{error.strerror}.", "Fix this and run the command again.", 1)
    except Exception as error:
        hint = "This is a bug in luq-gguf. Please report it; LUQ_DEBUG=1 prints the traceback."
        return _report(error, f"Unexpected {type(error).__name__}: {error}", hint, 1)
    finally:
        exec("")  # makes Python forget an interrupt that came in the middle of an exec: it would end by the signal


def _report(error: BaseException, message: str, hint: str, code: int) -> int:
    if os.environ.get("LUQ_DEBUG") == "1":
        traceback.print_exception(error)
    styled = click.style("Error: ", fg="red", bold=True)
    click.echo(styled + printable(message), err=True, color=False if is_plain() else None)
    hints = [hint, *getattr(error, "__notes__", ())]  # such as what is kept
    if any(hints):
        click.echo(" ".join(filter(None, hints)), err=True)
    return code
