"""docs/cli.md and shell completion."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_cli_md_is_what_help_prints():
    command = [sys.executable, ROOT / "scripts" / "write_cli_docs.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_shell_completes_commands_and_options():
    def complete(words, index):
        environment = {"_LUQ_GGUF_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        code = "import sys; sys.argv = ['luq-gguf']; from luq_gguf.cli import main; main()"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True).stdout.split()

    assert complete("luq-gguf conv", 1) == ["plain,convert"]
    assert {"plain,--target-size", "plain,--target-bpw"} <= set(complete("luq-gguf convert --target", 2))
