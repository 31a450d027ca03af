"""`luq-gguf upload` as a child process that talks to the little Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hub_server import Hub

REPO = "mira/little-LUQ-GGUF"
TOKEN = "hf_" + "t" * 34


@dataclass
class Uploader:
    hub: Hub
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        ours = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
        return os.environ | ours | {"HF_HUB_DISABLE_XET": "1"}  # the little Hub speaks LFS, not Xet

    def start(self, run: Path, *arguments: object, repo: str = REPO, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "luq_gguf", "upload", run, "--repo", repo, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=self.environment | more, **pipes)

    def __call__(self, run: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        with self.start(run, *arguments, **more) as child:
            told = child.communicate(timeout=300)
        return subprocess.CompletedProcess(child.args, child.returncode, *told)
