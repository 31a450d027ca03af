"""What to do to a copy of a real checkpoint or run folder so that one of its files is somebody's bad one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from hostile import WHOLE

Maker = Callable[[Path], object]


def _edit(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / name).read_text())
    changed = change(content)
    (folder / name).write_text(json.dumps(content if changed is None else changed))


def _config(change: Callable[[dict], object]) -> Maker:
    return lambda folder: _edit(folder, "config.json", change)


def _text_config(**values: object) -> Maker:
    def change(config: dict) -> None:
        config.update(values)
        config["text_config"].update(values)

    return _config(change)


def _index(shard: object) -> Maker:
    def make(folder: Path) -> None:
        index = {"weight_map": {"w": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return make


def _write(name: str, content: str | bytes) -> Maker:
    return lambda folder: (
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content) and None
    )


def _pickle(folder: Path) -> None:
    """The converter knows model*.safetensors alone, and would take the pickle."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def checkpoints() -> dict[str, Maker]:
    """What is found when a checkpoint is opened, by name."""
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    found: dict[str, Maker] = {
        "config-a-list": _write("config.json", "[]"),
        "config-deep": _write("config.json", deep),
        "config-not-utf8": _write("config.json", b'{"a": "\xff"}'),
        "config-binary": _write("config.json", bytes(range(256))),
        "config-number-of-5000-digits": _write("config.json", '{"a": 1' + "0" * 5000 + "}"),
        "architectures-numbers": _config(lambda c: c | {"architectures": [1]}),
        "architectures-empty": _config(lambda c: c | {"architectures": []}),
        "architectures-text": _config(lambda c: c | {"architectures": "Qwen"}),
        "model-type-a-list": _config(lambda c: c | {"model_type": []}),
        "layers-10-9": _text_config(num_hidden_layers=10**9),
        "layers-negative": _text_config(num_hidden_layers=-1),
        "layers-1e300": _text_config(num_hidden_layers=1e300),
        "vision-depth-10-9": _config(lambda c: c | {"vision_config": c["vision_config"] | {"depth": 10**9}}),
        "vocabulary-10-18": _text_config(vocab_size=10**18),
        "experts-10-9": _text_config(num_experts=10**9),
        "pickle-beside-odd-safetensors": _pickle,
        "pickle-of-a-draft-model": _write("mask_embedding.pt", b"cos\nsystem\n(S'true'\ntR."),
        "index-outside": _index("../model.safetensors"),
        "index-absolute": _index("/etc/passwd"),
        "index-dots": _index(".."),
        "index-dot": _index("."),
        "index-empty": _index(""),
        "index-nul": _index("a\0.safetensors"),
        "index-backslash": _index("..\\model.safetensors"),
        "index-pickle": _index("pytorch_model.bin"),
        "index-a-number": _index(5),
        "index-a-list": _index(["model.safetensors"]),
        "index-null": _index(None),
        "index-map-a-list": _write("model.safetensors.index.json", '{"weight_map": []}'),
        "index-no-map": _write("model.safetensors.index.json", "{}"),
        "index-a-text": _write("model.safetensors.index.json", '"x"'),
        "index-deep": _write("model.safetensors.index.json", deep),
    }
    return found


def door_checkpoints() -> dict[str, Maker]:
    """What only transformers or llama.cpp's converter find, so seconds each."""
    return {
        "door-width-0": _text_config(hidden_size=0),
        "door-width-a-text": _text_config(hidden_size="wide"),
        "door-heads-0": _text_config(num_attention_heads=0),
        "door-layers-a-text": _text_config(num_hidden_layers="12"),
        "door-layers-null": _text_config(num_hidden_layers=None),
        "door-text-config-a-list": _config(lambda c: c | {"text_config": []}),
        "door-vision-config-a-text": _config(lambda c: c | {"vision_config": "x"}),
        "door-tokenizer-cut": lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0", "model":'),
        "door-tokenizer-a-list": _write("tokenizer.json", "[]"),
        "door-tokenizer-empty": _write("tokenizer.json", "{}"),
        "door-tokenizer-config-a-list": _write("tokenizer_config.json", "[]"),
        "door-tokenizer-missing": lambda folder: (folder / "tokenizer.json").unlink(),
        "door-preprocessor-a-list": _write("preprocessor_config.json", "[]"),
    }


def _outputs(name: str) -> Maker:
    def change(run: dict) -> None:
        record = run["stages"]["quantize"]["outputs"]
        record[name] = record.pop(next(iter(record)))

    return lambda folder: _edit(folder, "run.json", change)


def run_folders() -> dict[str, Maker]:
    """What to do to a copy of a real run folder, by the file that is bad."""
    infinity = '{"low": "IQ1_M", "predicted_bytes": 1e999}'
    found: dict[str, Maker] = {
        "run.json-a-list": _write("run.json", "[]"),
        "run.json-binary": _write("run.json", bytes(range(256))),
        "run.json-deep": _write("run.json", "[" * 100_000),
        "run.json-stages-a-list": _write("run.json", '{"stages": []}'),
        "run.json-stage-a-number": _write("run.json", '{"stages": {"quantize": 5}}'),
        "run.json-outputs-a-list": _write("run.json", '{"stages": {"quantize": {"outputs": ["a"]}}}'),
        "run.json-fact-a-number": _write("run.json", '{"stages": {"quantize": {"outputs": {"a": 1}}}}'),
        "run.json-outside": _outputs("../outside.gguf"),
        "run.json-outside-within": _outputs(".work/../../outside.gguf"),
        "run.json-absolute": _outputs("/etc/passwd"),
        "run.json-nul": _outputs("a\0b"),
        "run.json-model-a-list": lambda folder: _edit(folder, "run.json", lambda run: run | {"model": [1]}),
        "profile.json-no-layers": lambda folder: _edit(folder, "profile.json", lambda p: p | {"layers": []}),
        "profile.json-infinite": lambda folder: (
            (folder / "profile.json").write_text(
                (folder / "profile.json").read_text().replace('"entropy_bits": ', '"entropy_bits": 1e999, "x": ')
            )
            and None
        ),
        "profile.json-estimator-a-text": lambda folder: _edit(folder, "profile.json", lambda p: p | {"estimator": "x"}),
        "profile.json-ranking-short": lambda folder: _edit(
            folder, "profile.json", lambda p: p | {"rankings": {"a": [1.0]}}
        ),
        "profile.json-layer-twice": lambda folder: _edit(
            folder, "profile.json", lambda p: p | {"layers": [p["layers"][0]] * 12}
        ),
        "profile.safetensors-cut": _write("profile.safetensors", b"\xff" * 100),
        "imatrix.gguf-text": _write("imatrix.gguf", "no"),
        "imatrix.gguf-other": _write("imatrix.gguf", WHOLE),
    }
    for name in ("plan", "profile", "eval", "bench", "sweep", "alpha"):
        found |= {
            f"{name}.json-a-list": _write(f"{name}.json", "[]"),
            f"{name}.json-a-number": _write(f"{name}.json", "5"),
            f"{name}.json-empty": _write(f"{name}.json", "{}"),
            f"{name}.json-cut": _write(f"{name}.json", '{"low": '),
            f"{name}.json-deep": _write(f"{name}.json", "[" * 100_000 + "]" * 100_000),
            f"{name}.json-infinite": _write(f"{name}.json", infinity),
        }
    for key, value in (
        ("low", "../x"),
        ("high", "nonsense"),
        ("ranking", "/../../x"),
        ("tensor_types", {"../a": "IQ1_M"}),
        ("tensor_types", []),
        ("low_layers", [10**30]),
        ("low_layers", "x"),
        ("order", [[]]),
        ("near_ties", [[1]]),
        ("predicted_bytes", 10**400),
        ("predicted_file_bytes", -1),
        ("predicted_speed", {"a": 1}),
        ("budget", []),
        ("bpw", None),
    ):
        told = f"plan.json-{key}-{str(value)[:12]!r}"
        found[told] = lambda folder, key=key, value=value: _edit(folder, "plan.json", lambda p: p | {key: value})
    return found


def copy_checkpoint(source: Path, folder: Path) -> Path:
    """A copy to spoil; its weights are linked."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for weights in source.glob("*.safetensors"):
        (folder / weights.name).symlink_to(weights)
    return folder
