#!/usr/bin/env python3
"""Build the pinned llama.cpp once and keep it in the user's cache folder.

    python vendor/build.py               build llama.cpp unless there is a build for this CPU; print the folder
    python vendor/build.py --portable    build for every x86-64 CPU with AVX2 (x86-64-v3), or armv8.2 with dot products
    python vendor/build.py --where       only print the folder
    python vendor/build.py --headers     download ggml's headers, for luq_gguf/kernels; print the folder
    python vendor/build.py --old         list builds that this version does not use; --remove-old deletes them

The folder holds llama_cpp/ (llama-cpp-python's bindings, with lib/ and bin/) and converter/, all of one sdist. A build
is used only after selftest.py has shown that it computes correctly; if a feature of the CPU fails there, llama.cpp is
built again without that feature. This needs a C++ compiler and a package index; CMake and ninja come from the index
where the machine does not have them. The script uses the standard library only.
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
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

if __package__:
    from . import cpu, selftest
else:  # run as a script
    import cpu
    import selftest

HERE = Path(__file__).resolve().parent
PIN = tomllib.loads((HERE / "pin.toml").read_text())
FACTS = "build.json"
# ggml's own flags for x86 are off: cpu.flags says which are given, so that the key names all that decides the code.
X86_OFF = tuple(f"-DGGML_{name}=OFF" for name in ("NATIVE", "SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"))


def cache_root() -> Path:
    """Return the folder that builds are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luq-gguf"


def _recipe() -> str:
    """What decides a build besides the CPU: the pin, and how its targets are compiled."""
    digest = hashlib.sha256()
    for name in ("llama.cpp.cmake", "amx_tile_config.h"):
        digest.update((HERE / name).read_bytes())
    keys = ("version", "sha256", "cmake_args", "tools", "converter")
    return hashlib.sha256((json.dumps([PIN[key] for key in keys]) + digest.hexdigest()).encode()).hexdigest()


def folder_for(features: frozenset[str]) -> Path:
    """Return where a build for these features is or will be."""
    key = hashlib.sha256(json.dumps([_recipe(), platform.machine(), sorted(features)]).encode()).hexdigest()[:12]
    return cache_root() / f"llama.cpp-{PIN['version']}-{key}"


def facts(folder: Path) -> dict[str, object] | None:
    """Return what build.json says about a finished build; None where there is none."""
    try:
        read: dict[str, object] = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return None
    return read


def usable(folder: Path) -> bool:
    """Return whether a build is of this recipe, has passed the self-test, and needs nothing that this CPU lacks."""
    known = facts(folder)
    if known is None or known.get("recipe") != _recipe() or known.get("machine") != platform.machine():
        return False
    needed = known.get("needs")
    return isinstance(needed, list) and cpu.present().issuperset(needed) and bool(known.get("selftest"))


def cache_folder() -> Path:
    """Return the build for this CPU: the one made for it, else the one that uses most of its features, else where it
    will be. A cache that several machines share never gives one a build that it cannot run."""
    own = folder_for(cpu.usable_features())
    if usable(own):
        return own
    others = [path for path in cache_root().glob(f"llama.cpp-{PIN['version']}-*") if usable(path)]
    return max(others, key=lambda path: (len((facts(path) or {}).get("needs") or ()), path.name), default=own)


def unused() -> list[tuple[Path, int]]:
    """Return builds that no machine can use any more, and what killed builds left behind: folder and bytes."""
    found = []
    for path in sorted(cache_root().glob("llama.cpp-*")):
        known = facts(path)
        busy = known is None and time.time() - path.stat().st_mtime < 6 * 3600  # another process may be building it
        if path.is_dir() and not busy and (known is None or known.get("recipe") != _recipe()):
            found.append((path, sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())))
    return found


def fetch_sdist(folder: Path) -> Path:
    """Download the sdist from pip's index, check it against the pin, and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", PIN["package"], "--dest", str(folder)]
    _pip([*command, f"{PIN['package']}=={PIN['version']}"], f"The pinned {PIN['package']} could not be downloaded")
    sdist = next(folder.glob("*.tar.gz"))
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != PIN["sha256"]:
        raise SystemExit(f"{sdist.name} has sha256 {found}, but the pin says {PIN['sha256']}, so it is not built.")
    return sdist


def _pip(command: list[str], failure: str) -> None:
    """Run pip. Its warnings, which are about how the machine is set up, are shown only where it fails."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise SystemExit(
            "\n".join(run.stdout.splitlines()[-8:]) + f"\n{failure}. Check that the package index is reachable."
        )


def extract(sdist: Path, into: Path, wanted: Callable[[str], str | None]) -> None:
    """Extract the members of the sdist for which `wanted` returns a path, never outside the folder."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = wanted(member.name.partition("/")[2])
            if name:
                member.name = name
                archive.extract(member, into, filter="data")


def is_needed(name: str) -> str | None:
    """Return a member's path if it belongs to the bindings or to the part of llama.cpp that is compiled, else None."""
    if re.match(r"vendor/llama\.cpp/(media|docs|benches|pocs|models|tests|examples)/", name):
        return None
    return name if name.startswith(("vendor/llama.cpp/", "llama_cpp/")) else None


def headers() -> Path:
    """Return the folder of the pinned ggml's headers, taken out of the sdist the first time they are needed."""
    target = cache_root() / f"ggml-headers-{PIN['version']}-{PIN['sha256'][:12]}"
    if target.exists():
        return target
    wanted = re.compile(r"vendor/llama\.cpp/ggml/((include|src|src/ggml-cpu)/[\w-]+\.h|CMakeLists\.txt)")
    with _beside(target) as beside:
        match: Callable[[str], str | None] = lambda name: (m := wanted.fullmatch(name)) and m[1]  # noqa: E731
        extract(fetch_sdist(beside), beside / "headers", match)
        with contextlib.suppress(OSError):  # another process may have been faster
            (beside / "headers").rename(target)
    return target


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the same file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str, beside: Path) -> str:
    """A program of the machine, or else of the package index, where a wheel bears the program's name."""
    found = shutil.which(name)
    if found:
        return found
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _pip([*command, "--target", str(beside / name), name], f"{name} is not installed, and pip cannot install it")
    packed = beside / name / name / "data" / "bin" / name  # bin/cmake beside it is a script that looks for its package
    return str(packed if packed.exists() else beside / name / "bin" / name)


def _logged(command: list[str], log: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
    """Run a step of the build; its output goes to a log whose end is shown on failure."""
    with log.open("a") as out:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        assert child.stdout
        try:
            for line in child.stdout:
                out.write(line)
                on_line(line)
            code = child.wait()
        finally:
            child.terminate()  # no-op for one that has ended; ninja ends its compilers then
            child.wait()
    if code:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise SystemExit(f"{end}\nllama.cpp could not be compiled; the whole log is {log}")


class _Progress:
    """ninja's "[done/total]" as a line that stays where it is in a terminal, and as a line a minute elsewhere."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()

    def __call__(self, line: str) -> None:
        steps = re.match(r"\[(\d+)/(\d+)\]", line)
        if not steps:
            return
        done, total, now = int(steps[1]), int(steps[2]), time.monotonic()
        text = f"compiling llama.cpp: {done} of {total} files, {(now - self._started) / 60:.0f} min"
        if sys.stderr.isatty():
            print(f"\r{text}  ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif now - self._told > 60 or done == total:
            self._told = now
            print(text, file=sys.stderr, flush=True)


def compile_into(
    tree: Path,
    source: Path,
    chosen: cpu.Choice,
    log: Path,
    *,
    extra: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
) -> Path:
    """Configure and compile what is not compiled yet, all tools or the given targets; return the folder of the
    results."""
    cmake, ninja = _program("cmake", tree.parent), _program("ninja", tree.parent)
    rpath = "-DCMAKE_INSTALL_RPATH=$ORIGIN;$ORIGIN/../lib"
    configure = [cmake, "-S", str(source / "vendor" / "llama.cpp"), "-B", str(tree), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", rpath, *PIN["cmake_args"]]
    configure += [f"-DCMAKE_PROJECT_INCLUDE={HERE / 'llama.cpp.cmake'}", f"-DLUQ_CPU_FLAGS={' '.join(chosen.flags)}"]
    configure += [*(X86_OFF if cpu.is_x86() else ()), *chosen.cmake_args, *extra]
    _logged(configure, log)
    _logged([ninja, "-C", str(tree), *(targets or PIN["tools"])], log, _Progress())
    return tree / "bin"


def assemble(source: Path, binaries: Path, folder: Path) -> Path:
    """Copy bindings, libraries, tools and converter to where they are used."""
    shutil.copytree(source / "llama_cpp", folder / "llama_cpp", dirs_exist_ok=True)
    for kind, pattern in (("lib", "lib*"), ("bin", "llama-*")):
        (folder / "llama_cpp" / kind).mkdir(exist_ok=True)
        for path in binaries.glob(pattern):
            shutil.copy2(path, folder / "llama_cpp" / kind / path.name, follow_symlinks=False)
    for name in PIN["converter"]:
        path, target = source / "vendor" / "llama.cpp" / name, folder / "converter" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copy2(path, target)
    return folder


def build(*, portable: bool = False) -> Path:
    """Return the finished folder; it is built next to its name, tested there, and renamed when complete."""
    features = cpu.portable_features() if portable else cpu.usable_features()
    target = folder_for(features) if portable else cache_folder()
    if usable(target):
        return target
    if not cpu.present().issuperset(features):
        raise SystemExit(f"This CPU cannot run a portable build: it lacks {' '.join(features - cpu.present())}.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seconds = PIN["core_seconds"] / cores
    print(
        f"building llama.cpp ({PIN['package']} {PIN['version']}), once: "
        f"{f'about {seconds / 60:.0f} minutes' if seconds > 90 else 'a minute or two'} on {cores} cores",
        file=sys.stderr,
    )
    with _beside(target) as beside:
        source, log = beside / "source", target.parent / "build.log"
        log.unlink(missing_ok=True)
        extract(fetch_sdist(beside), source, is_needed)
        chosen, left_out = cpu.choose(features), dict[str, str]()
        while True:
            binaries = compile_into(beside / "tree", source, chosen, log)
            whole = assemble(source, binaries, beside / "whole")
            failures = [
                result
                for result in selftest.run(whole / "llama_cpp" / "lib", whole / "llama_cpp" / "bin")
                if not result.ok
            ]
            if not failures:
                break
            without = cpu.without(chosen, failures[0].buffer)
            if without is None:
                raise SystemExit(
                    f"llama.cpp was compiled but does not compute correctly on this CPU: {failures[0]}.\n"
                    f"This build will not be used. Please report this with {log} and the output of `lscpu`."
                )
            left_out[without[0]] = str(failures[0])
            print(f"{failures[0]}: compiling again without {without[0]}", file=sys.stderr)
            chosen = without[1]
            shutil.rmtree(whole)
        known = {
            "version": PIN["version"],
            "sha256": PIN["sha256"],
            "recipe": _recipe(),
            "machine": platform.machine(),
            "portable": portable,
            "needs": sorted(chosen.needs),
            "flags": list(chosen.flags),
            "left_out": left_out,
            "selftest": True,
        }
        (whole / FACTS).write_text(json.dumps(known, indent=1) + "\n")
        whole.chmod(0o755)
        with contextlib.suppress(OSError):  # another process may have been faster
            whole.rename(target)
    return target


def _list_unused(remove: bool) -> None:
    for path, n_bytes in unused():
        print(f"{path}  {n_bytes / 2**20:.0f} MiB", file=sys.stderr)
        if remove:
            shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--portable", action="store_true", help="build for every CPU of x86-64-v3, or armv8.2 with dotprod"
    )
    parser.add_argument("--where", action="store_true", help="only print where the build is or would be")
    parser.add_argument("--headers", action="store_true", help="only download ggml's headers and print their folder")
    parser.add_argument("--old", action="store_true", help="only list builds that this version does not use")
    parser.add_argument("--remove-old", action="store_true", help="delete the builds that this version does not use")
    args = parser.parse_args()
    if args.old or args.remove_old:
        return _list_unused(args.remove_old)
    if args.headers or args.where:
        build_folder = folder_for(cpu.portable_features()) if args.portable else cache_folder()
        print(headers() if args.headers else build_folder)
        return None
    print(build(portable=args.portable))
    old = unused()
    if old:
        print(
            f"{len(old)} older builds of llama.cpp ({sum(n for _, n in old) / 2**20:.0f} MiB) are no longer used: "
            f"`python {Path(__file__)} --remove-old` deletes {', '.join(path.name for path, _ in old)}",
            file=sys.stderr,
        )
    return None


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nInterrupted; the unfinished build is removed. The same command begins again.", file=sys.stderr)
        sys.exit(130)
