"""What a file says that it is, in its name and in its header, so that programs of other people take it for that.

The Hub's table and Ollama's tags take the last file type in a file's name that they know, with the letters behind it
(huggingface.js, packages/tasks/src/gguf.ts); `-hf REPO:TAG` takes the first file whose name has TAG before a dot or a
hyphen (common/download.cpp); llama-bench prints general.file_type. A file with layers in several types is none of the
file types that these programs know: it gets the label of the one that has about as many bits per weight, marked as
ours in the name (Q3_K_M_LUQ) and as guessed in the header.
"""

from __future__ import annotations

from collections.abc import Mapping

import gguf

from luq_gguf.core.hashing import hash_of
from luq_gguf.core.types import STOCK, Plan
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.gguf.metadata import CHECKPOINT, Entries
from luq_gguf.method import two_type_plan
from luq_gguf.method.tensor_types import layer_of

MARK = "_LUQ"

GUESSED = 1024
"""LLAMA_FTYPE_GUESSED of include/llama.h: the file type is not exactly this one."""

BITS = {
    "IQ1_S": 2.0042, "IQ1_M": 2.1460, "IQ2_XXS": 2.3824, "IQ2_XS": 2.5882, "IQ2_S": 2.7403, "IQ2_M": 2.9294,
    "Q2_K": 3.1593, "IQ3_XXS": 3.2548, "IQ3_XS": 3.4977, "Q3_K_S": 3.6429, "IQ3_M": 3.7628, "Q3_K_M": 3.9960,
    "Q3_K_L": 4.2979, "IQ4_XS": 4.4597, "Q4_K_S": 4.6672, "Q4_K_M": 4.8944, "Q5_K_S": 5.5704, "Q5_K_M": 5.7036,
    "Q6_K": 6.5633, "Q8_0": 8.5008,
}  # fmt: skip
"""Bits per weight of Llama 3.1 8B in file types that all of these programs know (tools/quantize/README.md)."""

_KEY = "0" * 24  # as long as any `hash_of`


def label(plan: Plan) -> str:
    """Return the file type of about as many bits per weight as a plan: that of its own name only if no layer is low."""
    own = () if plan.is_mixed or not plan.low_layers else (plan.high,)
    return min((name for name in BITS if name not in own), key=lambda name: abs(BITS[name] - plan.bpw))


def stem(model: str, plan: Plan) -> str:
    """Return the name of a LUQ file without ".gguf" and without its label, such as NAME-LUQ12-IQ1M-Q4KM.

    Types are spelled without underscores here: in this form no program takes them for the file's type. Rules other than
    the paper's are named; with many types it is NAME-LUQ-best-Q2K-Q6K, or NAME-LUQ-edited-Q2K-Q6K, the types of the
    fewest and the most bits in the layers.
    """
    if plan.is_mixed:
        inside = {kind for name, kind in plan.tensor_types.items() if layer_of(name) is not None}
        bits = sorted(inside - set(two_type_plan.UNQUANTIZED) or inside, key=reader.bits_per_weight)
        return f"{model}-LUQ-{plan.ranking}-{_plain(bits[0])}-{_plain(bits[-1])}"
    rule = "" if plan.ranking == "entropy" else f"-{plan.ranking}"
    return f"{model}-LUQ{len(plan.low_layers)}{rule}-{_plain(plan.low)}-{_plain(plan.high)}"


def _plain(kind: str) -> str:
    return kind.replace("_", "")


def file_name(model: str, plan: Plan, *, with_bits: bool = False) -> str:
    """Return the name of a planned file, such as NAME-LUQ12-IQ1M-Q4KM-IQ3_XS_LUQ.gguf, or NAME-Q4_K_M.gguf of
    llama-quantize's own mix. `with_bits` tells best plans of several sizes apart: NAME-LUQ-best-Q2K-Q6K-3.41bpw-..."""
    if plan.ranking == STOCK:
        return f"{model}-{plan.high}.gguf"
    bits = f"-{plan.bpw:.2f}bpw" if with_bits else ""
    return f"{stem(model, plan)}{bits}-{label(plan)}{MARK}.gguf"


def folder_of(file_name: str) -> str:
    """Return the folder of a repository with what belongs to a file: its name without shard, ending and label, so that
    no program takes the files in it for models of that type. A LUQ file that an older version named has no label; the
    type of llama-quantize's own mix is spelled without underscores."""
    whole = file_name.removesuffix(".gguf")
    model, _, last = whole.rpartition("-")
    if whole.endswith(MARK):
        return model
    return whole if "-LUQ" in whole else f"{model}-{_plain(last)}"


def tag_of(file_name: str) -> str:
    """Return the tag that `-hf REPO:TAG` finds a file by: the part of its name behind the model's."""
    whole = file_name.removesuffix(".gguf")
    return whole[whole.rfind("-LUQ") + 1 :] if "-LUQ" in whole else whole.rpartition("-")[2]


def file_type(plan: Plan) -> int:
    """Return general.file_type: llama.cpp's number of the file type, marked as guessed if the plan's types are not
    exactly those of that file."""
    types_as_given = plan.rules.output_type or plan.rules.embedding_type
    if plan.ranking == STOCK or (not plan.is_mixed and not plan.low_layers and not types_as_given):
        known = gguf.LlamaFileType.__members__.get(f"MOSTLY_{canonical(plan.high)}")
        return int(known) if known is not None else int(gguf.LlamaFileType[f"MOSTLY_{label(plan)}"]) | GUESSED
    return int(gguf.LlamaFileType[f"MOSTLY_{label(plan)}"]) | GUESSED


def canonical(ftype: str) -> str:
    """Return the name behind llama-quantize's short ones."""
    return f"{ftype}_M" if ftype in ("Q3_K", "Q4_K", "Q5_K") else ftype


def of_plan(plan: Plan, checkpoint: str, provenance: Entries) -> dict[str, str | int]:
    """Return what the header of a planned file says about it. `checkpoint` is the key of the weights, and `provenance`
    what is known of the base model."""
    return {
        "general.file_type": file_type(plan),
        **_entries(checkpoint, hash_of(sorted(plan.tensor_types.items())), len(plan.low_layers)),
        **provenance,
    }


def of_same_size(provenance: Entries) -> dict[str, str | int]:
    """Return entries that take as many bytes as those of any plan: enough to predict the size of its file."""
    return {**_entries(_KEY, _KEY, 0), **provenance}


def _entries(checkpoint: str, types: str, n_low: int) -> dict[str, str | int]:
    return {
        "general.quantized_by": "luq-gguf",
        CHECKPOINT: checkpoint,
        "luq.tensor_types": types,
        "luq.low_layers": n_low,
    }


def arguments(entries: Mapping[str, str | int]) -> list[str]:
    """Return llama-quantize's arguments that write these entries."""
    words = []
    for key, value in entries.items():
        words += ["--override-kv", f"{key}={'str' if isinstance(value, str) else 'int'}:{value}"]
    return words
