"""Without colours where the user or the terminal wants none, on a terminal of the test's own; and paths that begin
with ~."""

import io
import os
import pty
import subprocess
import sys

import gguf
import numpy as np
import pytest


def on_a_terminal(*arguments: object, **environment: str) -> bytes:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "luq_gguf", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=plain | {"TERM": "xterm"} | environment) as child:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # Linux ends a terminal whose other side is closed like this
            pass
        child.wait()
    os.close(ours)
    return written


@pytest.mark.parametrize(("environment", "styled"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_errors_are_styled_where_that_is_wanted(tmp_path, environment, styled):
    written = on_a_terminal("inspect", tmp_path / "nothing.gguf", **environment)
    assert b"Error: " in written
    assert (b"\x1b[" in written) == styled


def test_tables_are_plain_then_too(monkeypatch):
    from rich.table import Table

    from luq_gguf.cli import output

    table = Table(title="a table")
    table.add_column("bold", style="bold")
    table.add_row("x")
    for plain in (True, False):
        monkeypatch.setenv("NO_COLOR", "1" if plain else "")
        monkeypatch.setenv("TERM", "xterm")
        console = output._console(force_terminal=True, file=io.StringIO())
        with console.capture() as captured:
            console.print(table)
        assert ("\x1b[" in captured.get()) != plain


def test_a_path_may_begin_with_a_tilde_behind_an_equals_sign(cli, tmp_path):
    environment = os.environ | {"HOME": str(tmp_path)}
    done = cli("report", "~/nothing", env=environment)
    assert f"{tmp_path}/nothing is not a run folder" in done.stderr
    (tmp_path / "run").write_text("")
    done = cli("profile", tmp_path, "--out=~/run", env=environment)
    assert done.returncode == 2
    assert f"{tmp_path}/run is a file" in done.stderr


def test_a_name_that_the_encoding_of_stdout_does_not_have_is_printed_escaped(child, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "\u041c.gguf", arch="qwen2vl")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = child("inspect", tmp_path / "\u041c.gguf", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u041c.gguf" in done.stdout
