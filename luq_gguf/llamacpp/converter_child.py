"""Runs llama.cpp's converter as it is, except for what it is shown of the checkpoint and what is kept of a dry run.

A program of its own that imports nothing of luq-gguf, so that the converter finds its own modules. With a socket it is
a server: it imports what takes seconds, and forks for every start of the converter (`converter_process` is its client).
By hand, it repeats the conversion of a recipe.json that shows the converter a checkpoint in another form:

    python -m luq_gguf.llamacpp.converter_child recipe.json convert_hf_to_gguf.py CHECKPOINT --outfile ...
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.util
import json
import os
import re
import runpy
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

IDLE = 30  # seconds without work after which a server ends: its imports take more than 100 MB of memory
MARK = "\0"  # before what a server says of a job, which is no output of the converter's


def run(
    script: str,
    arguments: Sequence[str],
    view: Sequence[dict[str, Any]] = (),
    header: str | None = None,
    sources: str | None = None,
) -> None:
    """Run the converter in this process. It is shown the checkpoint as `view` says (core/checkpoint_view.py), and the
    metadata that a dry run does not write is written to `header`, a GGUF file without tensors. The checkpoint's tensors
    that make each matrix are written to `sources` (`converter_walk`).

    Raises SystemExit where the converter has no place for a view, and whatever the converter raises.
    """
    sys.argv = [script, *arguments]
    sys.path[0:0] = [str(Path(script).resolve().parent)]  # as Python does for a script that it is given
    reads_shown = _After("conversion.base", lambda module: _show(module, view))
    if view:
        sys.meta_path.insert(0, reads_shown)
    if header:
        sys.meta_path.insert(0, _After("gguf.gguf_writer", lambda module: _keep_header(module, header)))
    walk = _walk_of(sys.meta_path) if sources else None
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:  # as a dry run ends
        if end.code:
            raise
    if sources and walk:
        Path(sources).write_text(json.dumps(walk.sources))
    if view and not reads_shown.done:
        sys.exit(f"{script} does not read checkpoints as the pinned one does, so it cannot be shown another form.")


def _walk_of(importers: list[Any]) -> Any:
    """What watches which of the checkpoint's tensors the converter makes matrices of."""
    spec = importlib.util.spec_from_file_location("converter_walk", Path(__file__).with_name("converter_walk.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    walk = module.Walk()
    importers.insert(0, _After("conversion.base", walk.watch))
    return walk


class _After(importlib.abc.MetaPathFinder):
    """Calls a function with a module when that has been imported, whoever imports it and from wherever."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self.name, self.then, self.done = name, then, False

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self.then(module)
            self.done = True

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _show(base: Any, view: Sequence[dict[str, Any]]) -> None:
    """Let every model of the converter read its tensors through the view: their names reach the filter of its family
    changed, and their data, which are read when they are written, in the new order of axes."""
    index, architecture_of = base.ModelBase.index_tensors, base.get_model_architecture

    def of(model_type: Any) -> list[dict[str, Any]]:
        return [part for part in view if part["half"] in ("vision" if model_type.name == "MMPROJ" else "text", "both")]

    def get_model_architecture(hparams: dict[str, Any], model_type: Any) -> Any:
        names = [part["architecture"] for part in of(model_type) if "architecture" in part]
        return names[0] if names else architecture_of(hparams, model_type)

    def index_tensors(self: Any, *arguments: Any, **options: Any) -> Any:
        rules = [part for part in of(self.model_type) if "names" in part]
        family = self.filter_tensors
        self.filter_tensors = lambda item: (seen := shown(item, rules)) and family(seen)
        try:
            return index(self, *arguments, **options)
        finally:
            del self.filter_tensors

    base.ModelBase.index_tensors, base.get_model_architecture = index_tensors, get_model_architecture


def shown(item: tuple[str, Callable[[], Any]], rules: Sequence[dict[str, Any]]) -> tuple[str, Callable[[], Any]] | None:
    """Return a tensor's name and what reads it, as rules show them; None where they leave it out."""
    name, read = item
    for rule in rules:
        if re.search(rule["names"], name):
            if rule.get("left_out"):
                return None
            name = re.sub(rule["names"], rule["become"], name) if "become" in rule else name
            read = _permuted(read, rule["axes"]) if "axes" in rule else read
    return name, read


def _permuted(read: Callable[[], Any], axes: Sequence[int]) -> Callable[[], Any]:
    return lambda: read().permute(*axes)


def _keep_header(module: Any, path: str) -> None:
    writer = module.GGUFWriter
    print_plan = writer.print_plan

    def keep(self: Any) -> Any:
        if self.dry_run:
            header = writer(path, self.arch, endianess=self.endianess)
            header.kv_data = self.kv_data
            header.write_header_to_file()
            header.write_kv_data_to_file()
            header.close()
        return print_plan(self)

    writer.print_plan = keep


def serve(control: socket.socket) -> None:
    """Run a job for every socket that comes through `control`, until its other end is closed or nothing has come for a
    while.

    The first line in a job's socket is its request, a JSON object (`converter_process.run`). The answer is its output,
    between an empty line of ours when it begins and, when it has ended, a JSON object with its exit code and its peak
    memory in bytes. A client that closes its end, or its end for writing alone, ends its job.
    """
    _import_what_takes_long()
    jobs: dict[int, socket.socket] = {}
    awake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        poll = select.poll()
        for file, events in ((control.fileno(), select.POLLIN), (awake, select.POLLIN)):
            poll.register(file, events)
        for job in jobs.values():
            poll.register(job, select.POLLRDHUP)
        ready = {file for file, _ in poll.poll(None if jobs else 1000 * IDLE)}
        if not ready:
            return
        if awake in ready:
            os.read(awake, 4096)
        for pid in [pid for pid, job in jobs.items() if job.fileno() in ready]:
            os.kill(pid, signal.SIGKILL)
        while jobs and (ended := os.wait4(-1, os.WNOHANG))[0]:
            with jobs.pop(ended[0]) as job, suppress(OSError):  # a client that is gone
                status = {"code": os.waitstatus_to_exitcode(ended[1]), "peak": 1024 * ended[2].ru_maxrss}
                job.sendall(f"{MARK}{json.dumps(status)}\n".encode())
        if control.fileno() in ready:
            _, files, _, _ = socket.recv_fds(control, 1, 1)
            if not files:
                return
            job = socket.socket(fileno=files[0])
            with suppress(OSError):
                job.sendall(f"{MARK}\n".encode())
            pid = _fork()
            if pid == 0:
                for inherited in (control, *jobs.values()):
                    inherited.close()
                _job(job)
            jobs[pid] = job


def _import_what_takes_long() -> None:
    with suppress(Exception):  # the converter says what is missing, in its own words
        import torch  # noqa: F401
        from transformers import AutoConfig, AutoTokenizer  # noqa: F401


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenBLAS has threads, which it starts again in a child
        return os.fork()


def _job(out: socket.socket) -> NoReturn:
    """Do what one request says, with its output into the same socket, and end this process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the server
    with out.makefile("rb") as requests:
        request = json.loads(requests.readline())
    for stream in (1, 2):
        os.dup2(out.fileno(), stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    code: object = 0
    try:
        os.chdir(request["folder"])
        run(request["script"], request["arguments"], request["view"], request["header"], request["sources"])
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError):
            file.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Serve, with the number of a socket as the only argument; or convert as a recipe.json says."""
    if len(sys.argv) == 2 and sys.argv[1].isdigit():
        with socket.socket(fileno=int(sys.argv[1])) as control:
            serve(control)
        return
    recipe = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run(sys.argv[2], sys.argv[3:], recipe["checkpoint"].get("view", ()))


if __name__ == "__main__":
    main()
