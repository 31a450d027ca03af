"""Compile ggml's CPU backend with AMX, as it is used and without what is added to it, and run the self-test on each."""

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
BUILDS = {
    "as it is used": (),
    "without amx_tile_config.h": ("-DLUQ_BARRIER=OFF",),
    "without amx_batches.cpp": ("-DLUQ_BATCHES=OFF",),
}
NEEDED = ("avx512f", "avx512_vnni")  # ggml's AMX code needs them too


def main() -> int:
    if not cpu.present().issuperset(NEEDED):
        print(f"This CPU lacks {' or '.join(NEEDED)}: ggml's AMX code cannot run here, not even emulated.")
        return 1
    wrong, emulated = False, not cpu.present().issuperset(AMX)
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
        for what, extra in BUILDS.items():
            tree, chosen = folder / f"tree{''.join(extra)}", cpu.choose(cpu.usable_features().union(AMX))
            binaries = build.compile_into(tree, source, chosen, log, extra=extra, targets=("ggml-cpu",))
            results = [result for result in selftest.run(binaries) if result.buffer == "AMX"]
            failed = sum(not result.ok for result in results)
            print(f"{what}: {len(results)} products in buffer AMX, {failed} failed")
            for result in results:
                print(f"  {result}" + (f" (off by {result.error:.4f})" if result.error is not None else ""))
            if not results:
                print("  ggml offers no AMX buffer")
                return 1
            wrong = wrong or bool(failed and not extra)
        return int(wrong)


def _compiler() -> str:
    return subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
