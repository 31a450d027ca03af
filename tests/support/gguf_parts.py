"""Parts of GGUF files that tests compare."""

from pathlib import Path

from luq_gguf.llamacpp.gguf import reader

LABELS = ("general.file_type", "general.quantized_by")


def but_labels(path: Path) -> tuple[dict, list, bytes]:
    """All of a file but for what its header says about the plan: metadata, tensors in their order, and their data."""
    info = reader.read(path)
    metadata = {k: v for k, v in info.metadata.items() if k not in LABELS and not k.startswith("luq.")}
    return metadata, [(t.name, t.type) for t in info.tensors], path.read_bytes()[info.header_bytes :]
