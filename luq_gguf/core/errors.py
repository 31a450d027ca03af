"""Errors that a user can meet. Each has one sentence that says what is wrong and one that says what to do.

LuqError                    exit code 1: the job failed
├── ToolsError              llama.cpp's tools, or lmms-eval, are missing, foreign or too old
├── ConversionError         llama.cpp's converter or llama-quantize failed
├── VerificationError       the written file is not what was planned
├── KernelsError            the kernels cannot be built here, or this process has another ggml than theirs
├── RunnerError             libllama, libmtmd or llama-server failed on a file
├── BenchmarkError          lmms-eval failed on a benchmark
├── DiskSpaceError          not enough room for the job
├── MemoryLimitError        not enough memory for the reference model, or a limit that leaves too little
├── RankError               another process of the same launch failed, or is gone
├── DownloadError           the Hub could not be reached, or the connection broke
├── UploadError             the same while publishing, or what arrived is not what was sent
└── InputError              exit code 2: refused in the preflight, before anything heavy
    ├── CheckpointError     not a checkpoint that can be converted
    ├── DeviceError         a --device that is not there, or does not compute
    ├── CalibrationError    calibration input that cannot be read, or is empty
    ├── ShardError          shards of a profile that cannot be merged
    ├── BudgetError         no plan fits, or the request contradicts itself
    ├── TypeNameError       a tensor type that does not exist or cannot be used here
    ├── EvaluationError     files or data that cannot be compared
    ├── PictureError        a picture that cannot be read or fitted, or whose fitted file has no place
    ├── HubAccessError      a repository without write access, an invalid name or access token, or wrong settings
    ├── RunFolderError      the run folder is in use by another run, or contains something else
    └── GGUFFileError       not a readable GGUF file
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with control characters escaped: names in untrusted files must not move a terminal's cursor."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return the same with ends of lines and tabs escaped, too: a name must not begin a line of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


class LuqError(Exception):
    """The base of all errors that a user can meet: a message (what is wrong) and a hint (what to do)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(message)
        super().__init__(self.message)
        self.hint = hint


class ToolsError(LuqError):
    """llama.cpp's tools, or lmms-eval, are missing, foreign or too old."""


class ConversionError(LuqError):
    """llama.cpp's converter or llama-quantize failed."""


class VerificationError(LuqError):
    """The written file is not what was planned."""


class KernelsError(LuqError):
    """The kernels cannot be built here, or this process has another ggml than theirs."""


class RunnerError(LuqError):
    """libllama, libmtmd or llama-server failed on a file."""


class BenchmarkError(LuqError):
    """lmms-eval failed on a benchmark."""


class DiskSpaceError(LuqError):
    """There is not enough disk space for the job."""


class MemoryLimitError(LuqError):
    """There is not enough memory for the reference model, or a limit leaves too little."""


class RankError(LuqError):
    """Another process of the same launch failed, or is gone."""


class DownloadError(LuqError):
    """The Hub could not be reached, or the connection broke."""


class UploadError(LuqError):
    """The Hub could not be reached or the connection broke while publishing, or what arrived is not what was sent."""


class InputError(LuqError):
    """The input was refused in the preflight, before anything heavy started."""

    exit_code = 2


class CheckpointError(InputError):
    """The input is not a checkpoint that can be converted."""


class DeviceError(InputError):
    """The --device does not exist or does not compute, or the llama.cpp in use cannot run layers on a GPU."""


class CalibrationError(InputError):
    """The calibration input cannot be read, or is empty."""


class ShardError(InputError):
    """The shards of a profile cannot be merged."""


class BudgetError(InputError):
    """No plan fits, or the request contradicts itself."""


class TypeNameError(InputError):
    """The tensor type does not exist or cannot be used here."""


class EvaluationError(InputError):
    """The files or the data cannot be compared."""


class PictureError(InputError):
    """A picture cannot be read or fitted, or there is no place for its fitted file."""


class HubAccessError(InputError):
    """The repository cannot be written to, its name or the access token is invalid, or the settings for the Hub are."""


class RunFolderError(InputError):
    """The run folder is in use by another run, or contains something else."""


class GGUFFileError(InputError):
    """The file is not a readable GGUF file."""
