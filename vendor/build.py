#!/usr/bin/env python3
"""Build the pinned llama.cpp once and keep it in the user's cache folder.

    python vendor/build.py             build if absent; print the folder
    python vendor/build.py --where     only print the folder
    python vendor/build.py --install   and install its Python bindings into this environment
    python vendor/build.py --headers   fetch ggml's headers, for luq_gguf/kernels; print the folder

The folder holds the wheel, the wheel unpacked (llama_cpp/bin, llama_cpp/lib) and the converter of the same sdist. Its
name carries the pin, the flags and the CPU's features: ggml is built for the CPU at hand. Needs a C++ compiler and
a package index; CMake and ninja come from the index where the machine has none. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

PIN = tomllib.loads((Path(__file__).parent / "pin.toml").read_text())


def cpu_features() -> str:
    """What distinguishes CPUs for a native build."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.split(":", 1)[1].split()))
    return platform.processor()


def cache_folder() -> Path:
    """Where the build of this pin for this CPU lies or will lie."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    what = json.dumps([PIN["version"], PIN["sha256"], PIN["cmake_args"], platform.machine(), cpu_features()])
    key = hashlib.sha256(what.encode()).hexdigest()[:12]
    return root / "luq-gguf" / f"llama.cpp-{PIN['version']}-{key}"


def fetch_sdist(folder: Path) -> Path:
    """The sdist, from pip's index, checked against the pin."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", PIN["package"], "--dest", str(folder), f"{PIN['package']}=={PIN['version']}"]
    subprocess.run(command, check=True)
    sdist = next(folder.glob("*.tar.gz"))
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != PIN["sha256"]:
        raise SystemExit(f"{sdist.name} has sha256 {found}, the pin says {PIN['sha256']}: not built.")
    return sdist


def build_wheel(sdist: Path, folder: Path, log: Path) -> Path:
    """Compile; CMake's output goes to a log whose end is shown on failure."""
    environment = os.environ | {"CMAKE_ARGS": " ".join(PIN["cmake_args"])}
    # Without --no-cache-dir pip hands out a wheel it built earlier, whatever CMAKE_ARGS said then.
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]
    with log.open("w") as out:
        code = subprocess.run(
            [*command, "--wheel-dir", str(folder), str(sdist)], env=environment, stdout=out, stderr=subprocess.STDOUT
        ).returncode
    if code:
        raise SystemExit("\n".join(log.read_text().splitlines()[-30:]) + f"\nThe build failed; whole log: {log}")
    return next(folder.glob("*.whl"))


def unpack_converter(sdist: Path, folder: Path) -> None:
    """Only the converter's files, never outside the folder."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            inner = member.name.partition("/vendor/llama.cpp/")[2]
            if inner.split("/")[0] in PIN["converter"]:
                member.name = inner
                archive.extract(member, folder, filter="data")


def is_header(name: str) -> bool:
    """Of ggml: public headers, and those of its sources that a backend is written against."""
    return re.fullmatch(r"(include|src|src/ggml-cpu)/[\w-]+\.h|CMakeLists\.txt", name) is not None


def headers() -> Path:
    """ggml's headers of the pin, taken out of the sdist when first asked for: wheels carry the public ones only."""
    target = cache_folder().parent / f"ggml-headers-{PIN['version']}-{PIN['sha256'][:12]}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=target.name + ".", dir=target.parent) as beside:
        whole = Path(beside) / "headers"
        with tarfile.open(fetch_sdist(Path(beside))) as archive:
            for member in archive:
                inner = member.name.partition("/vendor/llama.cpp/ggml/")[2]
                if is_header(inner):
                    member.name = inner
                    archive.extract(member, whole, filter="data")
        with contextlib.suppress(OSError):  # another process may have been faster
            whole.rename(target)
    return target


def build() -> Path:
    """The finished folder; built beside its name and renamed when whole."""
    target = cache_folder()
    if (target / "build.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"building llama.cpp ({PIN['package']} {PIN['version']}): several minutes, once", file=sys.stderr)
    beside = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
    try:
        sdist = fetch_sdist(beside)
        wheel = build_wheel(sdist, beside, target.parent / "build.log")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(beside)
        for tool in (beside / "llama_cpp" / "bin").iterdir():
            tool.chmod(0o755)  # zipfile drops modes
        unpack_converter(sdist, beside / "converter")
        sdist.unlink()
        facts = {"version": PIN["version"], "sha256": PIN["sha256"], "cmake_args": PIN["cmake_args"]}
        (beside / "build.json").write_text(json.dumps(facts | {"wheel": wheel.name}, indent=1) + "\n")
        beside.chmod(0o755)
        with contextlib.suppress(OSError):  # another process may have been faster
            beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="pip install the bindings into this environment")
    parser.add_argument("--where", action="store_true", help="only print where the build is or would be")
    parser.add_argument("--headers", action="store_true", help="only fetch ggml's headers and print their folder")
    args = parser.parse_args()
    if args.headers:
        print(headers())
        return
    if args.where:
        print(cache_folder())
        return
    folder = build()
    if args.install:
        wheel = folder / json.loads((folder / "build.json").read_text())["wheel"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--force-reinstall", str(wheel)], check=True)
    print(folder)


if __name__ == "__main__":
    main()
