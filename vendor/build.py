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
where the machine does not have them. The script uses the standard library only; `luq-gguf setup` is the same.
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
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

if __package__:
    from . import cpu, package_index, places, selftest, steps
    from .places import RecipeError, cache_root, work_folder
else:  # run as a script
    import cpu
    import package_index
    import places
    import selftest
    import steps
    from places import RecipeError, cache_root, work_folder

HERE = Path(__file__).resolve().parent
PIN = tomllib.loads((HERE / "pin.toml").read_text())
FACTS = "build.json"
# ggml's own flags for x86 are off: cpu.flags says which are given, so that the key names all that decides the code.
X86_OFF = tuple(f"-DGGML_{name}=OFF" for name in ("NATIVE", "SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"))


def _recipe() -> str:
    """What decides a build besides the CPU: the pin, and how its targets are compiled."""
    digest = hashlib.sha256()
    for name in ("llama.cpp.cmake", "amx_tile_config.h", "amx_batches.cpp"):
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


def is_current(folder: Path) -> bool:
    """Return whether a build is of this version's recipe, for whichever CPU."""
    return (facts(folder) or {}).get("recipe") == _recipe()


def usable(folder: Path) -> bool:
    """Return whether a build is whole, of this recipe, has passed the self-test, and needs nothing that this CPU
    lacks."""
    known = facts(folder)
    if known is None or known.get("recipe") != _recipe() or known.get("machine") != platform.machine():
        return False
    needed, tools = known.get("needs"), folder / "llama_cpp" / "bin"
    able = isinstance(needed, list) and cpu.present().issuperset(needed) and bool(known.get("selftest"))
    return able and all((tools / name).is_file() for name in PIN["tools"])


def cache_folder() -> Path:
    """Return the build for this CPU: the one made for it, else the one that uses most of its features, else where it
    will be. A cache that several machines share never gives one a build that it cannot run."""
    own = folder_for(cpu.usable_features())
    if usable(own):
        return own
    others = [path for path in cache_root().glob(f"llama.cpp-{PIN['version']}-*") if usable(path)]
    return max(others, key=lambda path: (len((facts(path) or {}).get("needs") or ()), path.name), default=own)


def unused() -> list[tuple[Path, int]]:
    """Return builds that this version does not use, and what killed builds left behind: folder and bytes. What another
    process uses, or may be making, is not among them."""
    found = []
    for path in sorted(cache_root().glob("llama.cpp-*")):
        known = facts(path)
        other = places.is_old(path) if known is None else known.get("recipe") != _recipe()
        if path.is_dir() and other and not places.in_use(path / FACTS):
            found.append(path)
    folders = dict.fromkeys([*found, *places.leftovers()])
    return [(path, sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())) for path in folders]


def fetch_sdist(folder: Path) -> Path:
    """Download the sdist from pip's index, check it against the pin, and return its path."""
    sdist = package_index.download_sdist(PIN["package"], PIN["version"], folder)
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != PIN["sha256"]:
        raise RecipeError(
            f"{sdist.name} has sha256 {found}, but the pin says {PIN['sha256']}, so it is not built.",
            "The package index does not have the file that PyPI has: use another one (PIP_INDEX_URL).",
        )
    return sdist


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


def headers_folder() -> Path:
    """Return where the headers of the pinned ggml are or will be."""
    return cache_root() / f"ggml-headers-{PIN['version']}-{PIN['sha256'][:12]}"


def headers() -> Path:
    """Return the folder of the pinned ggml's headers, taken out of the sdist the first time they are needed."""
    target = headers_folder()
    if not target.exists():
        with work_folder(target.name) as beside:
            _keep_headers(fetch_sdist(beside), beside)
    return target


def _keep_headers(sdist: Path, beside: Path) -> None:
    wanted = re.compile(r"vendor/llama\.cpp/ggml/((include|src|src/ggml-cpu)/[\w-]+\.h|CMakeLists\.txt)")
    extract(sdist, beside / "headers", lambda name: (match := wanted.fullmatch(name)) and match[1])
    with contextlib.suppress(OSError):  # another process may have been faster
        (beside / "headers").rename(headers_folder())


def program(name: str, beside: Path) -> str:
    """A program of the machine, or else of the package index, where a wheel bears the program's name."""
    return shutil.which(name) or package_index.install_program(name, beside / name)


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
    beside = tree.parent
    cmake, ninja = program("cmake", beside), program("ninja", beside)
    rpath = "-DCMAKE_INSTALL_RPATH=$ORIGIN;$ORIGIN/../lib"
    configure = [cmake, "-S", str(source / "vendor" / "llama.cpp"), "-B", str(tree), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", rpath, *PIN["cmake_args"]]
    configure += [f"-DCMAKE_PROJECT_INCLUDE={HERE / 'llama.cpp.cmake'}", f"-DLUQ_CPU_FLAGS={' '.join(chosen.flags)}"]
    configure += [*(X86_OFF if cpu.is_x86() else ()), *chosen.cmake_args, *extra]
    steps.run(configure, log, beside)
    steps.run([ninja, "-C", str(tree), *(targets or PIN["tools"])], log, beside, steps.Progress())
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


def requirements(portable: bool) -> str:
    """Return what a build will take, in one sentence. Raises RecipeError where it is missing."""
    if not sys.platform.startswith("linux"):
        raise RecipeError(
            f"llama.cpp is built and tested on Linux only, and this is {platform.system() or sys.platform}.",
            "On Windows use WSL; elsewhere a container or a virtual machine with Linux.",
        )
    if portable and not cpu.present().issuperset(cpu.portable_features()):
        lacking = " ".join(sorted(cpu.portable_features() - cpu.present()))
        raise RecipeError(f"This CPU cannot run a portable build: it lacks {lacking}.", "Build without --portable.")
    compiler = next(filter(None, map(shutil.which, cpu.COMPILERS)), None)
    if compiler is None:
        raise RecipeError(
            f"llama.cpp cannot be built: there is no C++ compiler ({', '.join(cpu.COMPILERS)}).",
            "Install g++ or clang++ (Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++).",
        )
    places.check(PIN["build_mb"] * 10**6)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    minutes = PIN["core_seconds"] / cores / 60
    needed = " and ".join(name for name in ("CMake", "ninja") if not shutil.which(name.lower()))
    return (
        f"building llama.cpp ({PIN['package']} {PIN['version']}) for {'any' if portable else 'this'} CPU, once: "
        f"{f'about {minutes:.0f} minutes' if minutes > 1.5 else 'a minute or two'} on {cores} cores with {compiler}, a "
        f"download of {PIN['sdist_mb']} MB{f' and of {needed}' if needed else ''} from the package index, and "
        f"{PIN['build_mb']} MB in {cache_root()}, of which {PIN['kept_mb']} MB stay"
    )


def build(*, portable: bool = False) -> Path:
    """Return the finished folder; it is built and tested in a folder of its own, and takes its name when complete.
    Raises RecipeError."""
    features = cpu.portable_features() if portable else cpu.usable_features()
    target = folder_for(features) if portable else cache_folder()
    if usable(target) and places.is_executable(target):
        return target
    _say(requirements(portable))
    with work_folder(target.name) as beside:
        source, log = beside / "source", target.parent / "build.log"
        log.unlink(missing_ok=True)
        _say("downloading")
        sdist = fetch_sdist(beside)
        extract(sdist, source, is_needed)
        _keep_headers(sdist, beside)
        sdist.unlink()
        chosen, left_out = cpu.choose(features), dict[str, str]()
        while True:
            binaries = compile_into(beside / "tree", source, chosen, log)
            whole = assemble(source, binaries, beside / "whole")
            _say("testing what it computes")
            failures = [
                result
                for result in selftest.run(whole / "llama_cpp" / "lib", whole / "llama_cpp" / "bin", beside)
                if not result.ok
            ]
            if not failures:
                break
            without = cpu.without(chosen, failures[0].buffer)
            if without is None:
                raise RecipeError(
                    f"llama.cpp was compiled but does not compute correctly on this CPU: {failures[0]}.",
                    f"This build will not be used. Please report this with {log} and the output of `lscpu`.",
                )
            left_out[without[0]] = str(failures[0])
            _say(f"{failures[0]}: compiling again without {without[0]}")
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
        if target.exists() and not usable(target):  # damaged, or of a recipe whose key was the same
            target.rename(beside / "damaged")
        with contextlib.suppress(OSError):  # another process may have been faster
            whole.rename(target)
    return target


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _list_unused(remove: bool) -> None:
    for path, n_bytes in unused():
        print(f"{path}  {n_bytes / 2**20:.0f} MiB", file=sys.stderr)
        if remove:
            shutil.rmtree(path, ignore_errors=True)


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
    except RecipeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nInterrupted; the unfinished build is removed. The same command begins again.", file=sys.stderr)
        sys.exit(130)
