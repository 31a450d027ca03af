"""luq-gguf: layerwise ultra-low-bit quantization of vision-language models into GGUF files for llama.cpp.

The functions do what the commands of their names do. Importing the package loads nothing else: each name is imported
when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from luq_gguf._version import __version__

if TYPE_CHECKING:
    from luq_gguf.api import (
        bench,
        bench_types,
        choose,
        convert,
        evaluate,
        evaluate_run,
        fit,
        plan,
        profile,
        quantize,
        sweep,
        upload,
        verify,
    )
    from luq_gguf.benchmarking.file_benchmark import BenchRequest
    from luq_gguf.core.calibration_set import CalibrationSet
    from luq_gguf.core.errors import LuqError
    from luq_gguf.core.memory_use import ContextShape
    from luq_gguf.core.plan_rules import PlanRules
    from luq_gguf.core.reporter import Reporter
    from luq_gguf.core.types import Budget, RunOptions
    from luq_gguf.evaluation.benchmarks.run import BenchmarkRequest
    from luq_gguf.evaluation.questions import QuestionSet
    from luq_gguf.planning.mixed_precision import BestRequest
    from luq_gguf.publishing.access import Target
    from luq_gguf.reporting.progress import progress
    from luq_gguf.workflows.bench import ShapeRequest
    from luq_gguf.workflows.calibration_mix import CalibrationMixRequest
    from luq_gguf.workflows.choose import ChooseRequest

__all__ = [
    "BenchRequest",
    "BenchmarkRequest",
    "BestRequest",
    "Budget",
    "CalibrationMixRequest",
    "CalibrationSet",
    "ChooseRequest",
    "ContextShape",
    "LuqError",
    "PlanRules",
    "QuestionSet",
    "Reporter",
    "RunOptions",
    "ShapeRequest",
    "Target",
    "__version__",
    "bench",
    "bench_types",
    "choose",
    "convert",
    "evaluate",
    "evaluate_run",
    "fit",
    "plan",
    "profile",
    "progress",
    "quantize",
    "sweep",
    "upload",
    "verify",
]

_MODULES = {
    "BenchRequest": "benchmarking.file_benchmark",
    "BenchmarkRequest": "evaluation.benchmarks.run",
    "BestRequest": "planning.mixed_precision",
    "Budget": "core.types",
    "CalibrationMixRequest": "workflows.calibration_mix",
    "CalibrationSet": "core.calibration_set",
    "ChooseRequest": "workflows.choose",
    "ContextShape": "core.memory_use",
    "LuqError": "core.errors",
    "PlanRules": "core.plan_rules",
    "QuestionSet": "evaluation.questions",
    "Reporter": "core.reporter",
    "RunOptions": "core.types",
    "ShapeRequest": "workflows.bench",
    "Target": "publishing.access",
    "progress": "reporting.progress",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'api')}"), name)
    globals()[name] = value  # so that this function is asked once for each name
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
