"""A folder of links that shows transformers and llama.cpp's converter a checkpoint as luq-gguf reads it.

Both choose among a folder's files by rules of their own. Where these differ from ours (`weights_files`), or a file has
to be read otherwise than it is, the checkpoint is opened through such a folder. It is in the user's cache: links and
small files, under a key of what they show.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from luq_gguf.core import atomic, paths
from luq_gguf.core.hashing import hash_of
from luq_gguf.hf.weights_files import INDEX, WHOLE

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")
_ADAPTER = "adapter_config.json"  # with it, transformers would put the adapter on the model


def make(
    folder: Path,
    shards: Sequence[Path],
    holders: Mapping[str, Path],
    changed: Mapping[str, str],
    without: Sequence[str],
) -> Path:
    """Return a folder of `folder`'s name with links to its small files and to these shards, under their usual names.

    Where shards have a tensor twice, the last counts for all readers; `holders` maps every tensor to its shard.
    `changed` has new contents of small files, and files named in `without` are left out.
    """
    links = {} if len(shards) == 1 else _numbered(shards)
    links = links or {WHOLE: shards[0]}
    for path in sorted(folder.iterdir()):
        name = path.name
        if not name.startswith(".") and not name.endswith(_WEIGHTS) and name not in (_ADAPTER, *changed, *without):
            links[name] = path
    contents = dict(changed)
    if len(shards) > 1:
        names = {path: name for name, path in links.items()}
        weight_map = {tensor: names[shard] for tensor, shard in sorted(holders.items())}
        contents[INDEX] = json.dumps({"metadata": {}, "weight_map": weight_map})
    key = hash_of({name: str(path.absolute()) for name, path in links.items()}, contents)
    entry = paths.cache("folders") / key
    try:
        if not entry.exists():
            with atomic.whole_folder(entry) as new_entry:
                _fill(new_entry / folder.name, links, contents)
        return entry / folder.name
    except OSError:  # a cache that cannot be written
        made = Path(tempfile.mkdtemp(prefix="luq-gguf-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        _fill(made / folder.name, links, contents)
        return made / folder.name


def _numbered(shards: Sequence[Path]) -> dict[str, Path]:
    count = len(shards)
    return {f"model-{n:05d}-of-{count:05d}.safetensors": path for n, path in enumerate(shards, 1)}


def _fill(folder: Path, links: Mapping[str, Path], contents: Mapping[str, str]) -> None:
    folder.mkdir()
    for name, path in links.items():
        (folder / name).symlink_to(path.absolute())
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
