"""Shared fixtures: caches in a temporary folder, no network, the real little models and the real llama.cpp.

The suite is made for two workers on two cores, so whatever computes takes one thread.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_HOME = tempfile.TemporaryDirectory(prefix="luq-hf-home-")  # before anything imports huggingface_hub, which reads it
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": _HOME.name, "TOKENIZERS_PARALLELISM": "false"}
# torch follows the first; libgomp, whose threads spin while they wait, holds llama.cpp to the second whatever it asks.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
sys.path.insert(0, str(Path(__file__).parent / "support"))

# As Hypothesis's own profile for CI, but random elsewhere. The first text that it draws makes it read all of Unicode,
# which takes a second: that is not a slow strategy.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None if os.environ.get("CI") else hypothesis.settings.default.database,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")

TESTS = Path(__file__).parent
MODELS = TESTS / "models"
# `scripts/test --quick`: what takes milliseconds, and one conversion, which is marked where it is.
QUICK = (
    "calibration/test_merge", "calibration/test_reservoir", "cli/", "core/", "evaluation/benchmarks/test_lmms_eval",
    "hf/test_checkpoint", "hf/test_datasets", "hf/test_devices", "hf/test_slices", "hostile/test_reader",
    "llamacpp/gguf/test_point",
    "llamacpp/runtime/test_chat_template", "llamacpp/test_children", "method/", "reporting/", "run/test_folder",
    "run/test_memory", "run/test_serialization", "scripts/test_drawing", "vendor/test_build", "vendor/test_cpu",
    "e2e/test_convert.py::test_a_second_run_repeats_no_stage[tiny-qwen2.5-vl]",
)  # fmt: skip
# `scripts/check-slow`, not CI: minutes each for what changes seldom, and second cases of what CI runs once.
SLOW = (
    "kernels/test_products.py::test_sanitizers", "kernels/test_stock.py::test_sanitizers",
    "workflows/test_bench.py::test_types_are_measured_in_layers_of_the_models_shapes_and_once",
    "llamacpp/runtime/test_memory.py::test_a_7b_shape",
    "calibration/test_distributed_pass.py::test_processes_of_a_launcher_make_the_profile_of_one[accelerate",
    "e2e/test_disturbed.py::test_a_disk_that_fills_up_loses_nothing[after-plan",
    "e2e/test_low_disk.py::test_the_bytes_are_those_of_the_ordinary_way_after_a_kill_too[tiny-llava",
    "e2e/test_convert.py::test_the_same_inputs_give_the_same_bytes[tiny-llava",
)  # fmt: skip
# Files whose tests share what takes long to make: those about one model go to one worker. They are the longest, so they
# come first, and single tests fill the gaps in the end.
TOGETHER = (
    "workflows/test_sweep.py", "e2e/test_answers.py", "planning/test_mixed_precision.py", "e2e/test_disturbed.py",
    "planning/test_meter.py",
    "calibration/test_importance_agreement.py", "workflows/test_bench.py", "workflows/test_calibration_mix.py",
    "evaluation/benchmarks/test_run.py", "evaluation/test_evaluate.py", "evaluation/test_eval_against.py",
    "e2e/test_wheel.py", "kernels/test_stock.py", "evaluation/test_fitting.py", "run/test_pictures.py",
    "llamacpp/gguf/test_splice.py", "llamacpp/gguf/test_shards.py", "llamacpp/runtime/test_client.py",
    "llamacpp/test_quantize.py", "diagnostics/test_verify_pairs.py", "vendor/test_selftest.py",
)  # fmt: skip


class _Scheduling(LoadScopeScheduling):
    """As xdist's of groups, which pytest 9.2 does not give the names of the groups any more."""

    def _split_scope(self, nodeid: str) -> str:
        """What goes to one worker: the tests of a file about one model, where they share something, those of a random
        family, which share its files, or a test alone."""
        name = nodeid.partition("::")[0].removeprefix("tests/")
        if name == "e2e/test_families.py":
            return f"{name} {nodeid.partition('[')[2]}"
        model = next((path.name for path in MODELS.iterdir() if path.name in nodeid), "")
        return f"{name} {model}" if name in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick and the slow ones, and put the longest first."""
    order = {name: number for number, name in enumerate(TOGETHER)}
    names = {item: item.path.relative_to(TESTS).as_posix() for item in items}
    for item in items:
        for marker, beginnings in (("quick", QUICK), ("slow", SLOW)):
            if item.nodeid.removeprefix("tests/").startswith(beginnings):
                item.add_marker(marker)
    items.sort(key=lambda item: order.get(names[item], len(order)))


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the trained models."""
    return MODELS


@pytest.fixture(scope="session", params=["tiny-qwen2.5-vl", "tiny-llava-1.5"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Each of the trained models in turn."""
    return MODELS / request.param


@pytest.fixture(scope="session")
def llama():
    from luq_gguf.llamacpp import tools

    return tools.find()


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Makes an XDG_CACHE_HOME that holds nothing but the builds of llama.cpp."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luq-gguf"

    def make() -> str:
        folder = tmp_path_factory.mktemp("cache")
        (folder / "luq-gguf").mkdir()
        for build in kept.glob("llama.cpp-*"):
            (folder / "luq-gguf" / build.name).symlink_to(build)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def rates_of_its_own(empty_cache: Callable[[], str]) -> Iterator[None]:
    """Speeds of tensor types that a module measures are kept for it alone: plans tell of those that are known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", empty_cache())
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder in the first worker that asks for its name; it is there for all of them then."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def find(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.made").exists():
                shutil.rmtree(folder, ignore_errors=True)  # what failed in another worker
                folder.mkdir()
                make(folder)
                (shared / f"{name}.made").touch()
        return folder

    return find


@pytest.fixture(scope="session")
def calibration_file(once) -> Path:
    from luq_gguf.workflows import easy_vqa

    return next(once("calibration", lambda folder: easy_vqa.write_set(folder, "train", 64)).glob("*.jsonl"))


@pytest.fixture(scope="session")
def test_set(once) -> list[tuple[Path, str, str]]:
    """200 test questions of easy-VQA: picture, question, answer."""
    from luq_gguf.workflows import easy_vqa

    path = next(once("questions", lambda folder: easy_vqa.write_set(folder, "test", 200)).glob("*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(path.parent / row["image"], row["prompt"], row["answers"][0]) for row in rows]


@pytest.fixture(scope="session")
def cli():
    """Runs a command in this process."""
    from commands import in_process

    return in_process


@pytest.fixture(scope="session")
def child():
    """Runs a command in a process of its own: for other values of what libraries read when they are imported."""
    from commands import in_child

    return in_child


@dataclass(frozen=True)
class Run:
    """A run folder, what `convert` printed of it, and the command's arguments."""

    folder: Path
    result: dict
    arguments: tuple[str | Path, ...]

    @property
    def model(self) -> Path:
        return self.folder / Path(self.result["model"]).name

    @property
    def mmproj(self) -> Path:
        return self.folder / Path(self.result["mmproj"]).name

    @property
    def f16(self) -> Path:
        return self.folder / f"{Path(self.arguments[1]).name}-F16.gguf"

    def copy(self, folder: Path) -> Run:
        """To be changed: the shared one is for all tests to read. It is as it was made, without others' figures."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("eval.json"))
        moved = {key: value and str(folder / Path(value).name) for key, value in self.result.items()
                 if key in ("model", "mmproj")}  # fmt: skip
        arguments = tuple(folder if part == self.folder else part for part in self.arguments)
        return replace(self, folder=folder, result=self.result | moved | {"run_dir": str(folder)}, arguments=arguments)


def _convert(once, model: Path, name: str, *how: str | Path) -> Run:
    """A trained model converted once for all workers, six layers low, by the command line; the 16-bit file kept."""
    from commands import in_child

    def arguments(folder: Path) -> tuple[str | Path, ...]:
        return ("convert", model, "--out", folder / "out", *how, "--low-layers", "6", "--keep-f16", "--json")

    def make(folder: Path) -> None:
        done = in_child(*arguments(folder))
        assert done.returncode == 0, done.stderr
        (folder / "result.json").write_text(done.stdout)

    folder = once(f"{name}-{model.name}", make)
    return Run(folder / "out", json.loads((folder / "result.json").read_text()), arguments(folder))


@pytest.fixture(scope="session")
def converted(once, tiny_model: Path, calibration_file: Path) -> Run:
    """Each trained model as people convert it, in IQ1_M. For reading; `Run.copy` is for tests that change it."""
    return _convert(once, tiny_model, "converted", "--calib", calibration_file, "--samples", "64")


@pytest.fixture(scope="session")
def small(once, tiny_model: Path, calibration_file: Path) -> Run:
    """The same in Q2_K from 32 samples, half the work: for tests to which neither makes a difference."""
    return _convert(once, tiny_model, "small", "--calib", calibration_file, "--samples", "32", "--low", "Q2_K")
