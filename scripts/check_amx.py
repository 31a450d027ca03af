"""Compile ggml's CPU backend with AMX, with and without the barrier, and run the self-test on both builds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "vendor"))

import build  # noqa: E402
import cpu  # noqa: E402
import selftest  # noqa: E402

AMX = ("amx_tile", "amx_int8")
NEEDED = ("avx512f", "avx512_vnni")  # ggml's AMX code needs them too


def main() -> int:
    if not cpu.present().issuperset(NEEDED):
        print(f"This CPU lacks {' or '.join(NEEDED)}: ggml's AMX code cannot run here, not even emulated.")
        return 1
    emulated = not cpu.present().issuperset(AMX)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, log = folder / "source", folder / "build.log"
        build.extract(build.fetch_sdist(folder), source, build.is_needed)
        if emulated:
            library = folder / "amx_emulator.so"
            emulator = ROOT / "tests" / "support" / "amx_emulator.c"
            subprocess.run(["gcc", "-O1", "-fPIC", "-shared", emulator, "-o", library], check=True)
            os.environ["LD_PRELOAD"] = str(library)
        print(f"AMX {'is emulated' if emulated else 'is that of this CPU'}; compiler: {_compiler()}")
        outcomes = {}
        for barrier in ("ON", "OFF"):
            tree, chosen = folder / f"barrier-{barrier}", cpu.choose(cpu.usable_features().union(AMX))
            extra = (f"-DLUQ_BARRIER={barrier}",)
            binaries = build.compile_into(tree, source, chosen, log, extra=extra, targets=("ggml-cpu",))
            results = [result for result in selftest.run(binaries) if result.buffer == "AMX"]
            outcomes[barrier] = [result for result in results if not result.ok]
            print(f"barrier {barrier}: {len(results)} products in buffer AMX, {len(outcomes[barrier])} failed")
            for result in results:
                print(f"  {result}" + (f" (off by {result.error:.4f})" if result.error is not None else ""))
            if not results:
                print("  ggml offers no AMX buffer")
                return 1
        return int(bool(outcomes["ON"]))


def _compiler() -> str:
    return subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
