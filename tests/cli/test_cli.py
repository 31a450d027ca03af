"""The command line without heavy work: help, wrong use, exit codes."""

import json
import os
import re
import subprocess
import sys

import pytest


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from click.testing import CliRunner; from luq_gguf.cli import cli;"
        "result = CliRunner().invoke(cli, ['--help']); assert 'convert' in result.output;"
        "sys.exit(bool({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("command", ["convert", "profile", "plan", "quantize", "inspect", "doctor", "demo"])
def test_every_command_has_help(cli, command):
    done = cli(command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage:"),
        (["nothing"], "No such command"),
        (["convert"], "Missing argument 'MODEL'"),
        (["convert", "M", "--low-layers", "2"], "Missing option '--out'"),
        (["convert", "M", "--out", "{out}"], "No budget was given"),
        (["convert", "M", "--out", "{out}", "--low-layers", "1", "--target-bpw", "3"], "More than one budget"),
        (["convert", "M", "--out", "{out}", "--target-size", "much"], "is not a size"),
        (["convert", "M", "--out", "{out}", "--low-layers", "1", "--low", "IQ9_Z"], "no quantized type of this name"),
        (["convert", "M", "--out", "{out}", "--low-layers", "1", "--high", "Q9"], "does not know this file type"),
        (["convert", "M", "--out", "{out}", "--low-layers", "1"], "no such folder"),
        (["convert", "M", "--out", "{out}", "--low-layers", "1", "--rank", "luck"], "is not one of"),
        (["plan", "{out}", "--low-layers", "1"], "is not a run folder"),
        (["quantize", "{out}"], "is not a run folder"),
        (["inspect", "{out}"], "is not a file"),
        (["inspect", __file__], "is not a GGUF file"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(cli, tmp_path, arguments, words):
    done = cli(*(a.replace("{out}", str(tmp_path / "out")) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_child_says_and_ends_as_a_command_in_this_process(cli, child, tmp_path):
    def told(done):
        program = r"(python -m )?[\w.]*luq[-_]gguf"  # click names it as it was started
        return [re.sub(program, "luq-gguf", text) for text in (done.stdout, done.stderr)], done.returncode

    for arguments in (["inspect", tmp_path], ["merge"], ["inspect", "--help"]):
        assert told(cli(*arguments)) == told(child(*arguments))


def test_debug_adds_the_traceback(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("LUQ_DEBUG", "1")
    done = cli("inspect", tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_doctor_finds_everything_here(cli):
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["ok"]
    assert {"llama-quantize", "llama-server", "converter", "libllama, libmtmd"} <= {c["name"] for c in report["checks"]}
    assert all(set(check) == {"name", "ok", "found", "hint"} for check in report["checks"])


def test_doctor_says_what_to_do_about_missing_tools(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("LUQ_LLAMA_CPP", str(tmp_path))
    done = cli("doctor", "--json")
    assert done.returncode == 1
    wrong = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert any("does not contain llama-quantize" in check["found"] and check["hint"] for check in wrong)


def test_a_users_own_llama_cpp_is_used(cli, llama, tmp_path, monkeypatch):
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "bin").symlink_to(llama.tools)
    (tmp_path / "convert_hf_to_gguf.py").symlink_to(llama.converter)
    monkeypatch.setenv("LUQ_LLAMA_CPP", str(tmp_path))
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert str(tmp_path) in done.stdout


@pytest.mark.parametrize(("columns", "cut"), [(None, False), ("60", True)])
def test_a_table_in_a_file_is_as_wide_as_it_is(capsys, monkeypatch, columns, cut):
    from rich.table import Table

    from luq_gguf.cli import output

    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    table = Table("figure", *(f"column {n}" for n in range(20)))
    table.add_row("0.123456789", *("1.25 (1.20 to 1.30)" for _ in range(20)))
    output.print_table(table)
    printed = capsys.readouterr().out
    assert (printed.count("1.25 (1.20 to 1.30)") == 20) is not cut
    assert ("0.123456789" in printed) is not cut


def test_kernels_without_a_package_index_end_in_a_sentence(cli, tmp_path):
    offline = {
        "XDG_CACHE_HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
    }
    done = cli("kernels", "--path", env=os.environ | offline)
    assert done.returncode == 1
    assert "headers cannot be downloaded" in done.stderr
    assert "Check that the package index is reachable" in done.stderr
    assert "ERROR: " not in done.stderr
    assert "Traceback" not in done.stderr


def test_version_names_its_own_and_those_of_llama_cpp_and_gguf(cli, llama):
    from luq_gguf._version import __version__
    from luq_gguf.llamacpp import tools

    done = cli("--version")
    assert done.returncode == 0
    own, llama_cpp, gguf = done.stdout.splitlines()
    assert own == f"luq-gguf {__version__}"
    assert llama_cpp.split()[1] == tools.version(llama).split()[0], "the pin says what the tools say"
    assert gguf.startswith("gguf 0.")
