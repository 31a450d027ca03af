"""Frozen values that pass between the stages. Tensor names are GGUF's everywhere beyond the hf edge.

"Layer" is a decoder layer N, GGUF's ``blk.N``; "type" a tensor's GGUF type in upper case; "ftype" the label of a
whole file. Sizes carry their unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luq_gguf.core.given_imatrix import GivenImatrix
from luq_gguf.core.plan_quality import ComparedFile, MeasuredKld, PredictedKld
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.profile_facts import CalibrationFacts, EstimatorFacts
from luq_gguf.core.turns import Turn, is_prompt, prompt_turns

_COUNTED = {  # by a budget, without and with one of memory
    False: "the text model's file; mmproj and KV cache are not counted",
    True: "the text model's file, the mmproj, the KV cache and all buffers",
}
BEST, EDITED, STOCK = "best", "edited", "stock"  # rankings of plans that are not an order of layers; the last is
# that of the types of llama-quantize's own file
NAMED = "named"  # the ranking of a plan whose layers become low in the order in which a user has named them
COLUMNS = "columns."  # prefix of a matrix's column energies in profile.safetensors


@dataclass(frozen=True)
class Sample:
    """A prompt with pictures before it (multimodal) or without (text only), and the answers that people gave, if known.

    Of a conversation, `turns` are all turns before the answer, with the places of `images` among their texts, and
    `prompt` is the text of the last one. `line` is that of a .jsonl, for messages. `split` is the part of a set of
    questions that it belongs to, where the set has any; it is no part of what is asked.
    """

    prompt: str
    images: tuple[Path, ...] = ()
    answers: tuple[str, ...] = ()
    line: int | None = field(default=None, compare=False)
    turns: tuple[Turn, ...] = ()
    split: str | None = field(default=None, compare=False)

    @classmethod
    def of_turns(
        cls, turns: Sequence[Turn], images: Sequence[Path], answers: Sequence[str] = (), line: int | None = None
    ) -> Sample:
        """Return the sample of a conversation that ends with the user's turn: without `turns` where it is one prompt,
        so that it is the same in whatever format it was written."""
        kept = () if is_prompt(turns) else tuple(turns)
        return cls(turns[-1].text, tuple(images), tuple(answers), line, kept)

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """All turns, also of a prompt."""
        return self.turns or prompt_turns(self.prompt, len(self.images))

    @property
    def is_single(self) -> bool:
        """Whether it is one prompt with one picture at most, which any chat template can place."""
        return not self.turns and len(self.images) < 2

    @property
    def without_images(self) -> Sample:
        """The same turns and answers as text only."""
        turns = [Turn(turn.role, (turn.text,)) for turn in self.conversation]
        return Sample.of_turns(turns, (), self.answers, self.line)

    @property
    def image(self) -> Path | None:
        """The only picture, or the first of several."""
        return self.images[0] if self.images else None

    @property
    def answer(self) -> str | None:
        """The first answer: what calibration appends to the prompt."""
        return self.answers[0] if self.answers else None


@dataclass(frozen=True)
class EvalData:
    """What files are measured on: prompts with or without images and answers, and chunks of a text's tokens.

    `sha256` covers all of it, and the images; `asked_sha256` what a file is asked, which the answers are no part of.
    Samples differ from each other: `n_repeated` more were read that did not.
    """

    name: str
    samples: tuple[Sample, ...]
    chunks: tuple[tuple[int, ...], ...]
    sha256: str
    asked_sha256: str
    n_repeated: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the set's splits, in its order; none where it has none."""
        return tuple(dict.fromkeys(sample.split for sample in self.samples if sample.split is not None))


@dataclass(frozen=True)
class RunOptions:
    """How a run is done, alike for all its stages, and what it may do; what is made is asked for by requests.

    `threads` of llama.cpp (None: `machine.cores`), `device` of the reference model; whether the 16-bit GGUF stays
    (`keep_f16`) or is never written whole (`low_disk`); whether code of the checkpoint may run, a folder of something
    else may be used (`overwrite`), and rows that no block divides may have other types (`allow_fallback`). `subfolder`
    is the folder of the model's folder or repository that has the checkpoint (None: its top).
    """

    threads: int | None = None
    device: str = "auto"
    keep_f16: bool = False
    low_disk: bool = False
    trust_remote_code: bool = False
    overwrite: bool = False
    allow_fallback: bool = False
    subfolder: str | None = None


@dataclass(frozen=True)
class ShardSpec:
    """A part of the calibration's batches: every `count`-th, from the one numbered `index` on."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class ImportanceMatrix:
    """Sums of squared inputs per weight tensor, as llama.cpp's imatrix holds them.

    in_sum2[name]: float64 [n_mat, n_in], raw sums of x^2 per input column; counts[name]: int64 [n_mat], tokens summed.
    n_mat is the number of experts of a mixture's tensor, else 1; an expert that no token reached has count 0.
    """

    in_sum2: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]
    n_samples: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens that went through the model: what a matrix that reads all of them has counted."""
        return max(int(count.max()) for count in self.counts.values())


@dataclass(frozen=True)
class LayerEntropy:
    """Entropy of one decoder layer's output activations, in bits: mean and standard deviation over K-means seeds.

    `by_modality` holds the mean for tokens of "multimodal" and of "text" samples (None where there were too few).
    """

    layer: int
    bits: float
    spread_bits: float
    n_tokens: int
    by_modality: Mapping[str, float | None]


@dataclass(frozen=True)
class Profile:
    """Entropies of all layers, with what they were estimated from.

    `rankings`: entropies of all layers, in bits, in each of several ways of estimating them (entropy.py): other K-means
    seeds, halves of the data, other K, fewer tokens. `kendall_tau` says how far they agree (ranking.agreement).
    """

    model: str
    layers: tuple[LayerEntropy, ...]
    estimator: EstimatorFacts
    calibration: CalibrationFacts
    rankings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kendall_tau: Mapping[str, float] = field(default_factory=dict)
    version: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return what profile.json says."""
        return {
            "version": self.version,
            "model": self.model,
            "layers": [
                {
                    "layer": layer.layer,
                    "entropy_bits": layer.bits,
                    "spread_bits": layer.spread_bits,
                    "by_modality": dict(layer.by_modality),
                    "n_tokens": layer.n_tokens,
                }
                for layer in self.layers
            ],
            "estimator": self.estimator.to_json(),
            "calibration": self.calibration.to_json(),
            "rankings": {way: list(bits) for way, bits in self.rankings.items()},
            "kendall_tau": dict(self.kendall_tau),
        }


@dataclass(frozen=True)
class Budget:
    """How far to go. Exactly one is set, but for the best plan's, which may bound size and speed. The size is
    that of the text model's file: mmproj and KV cache not counted. `memory_bytes` counts them, and the buffers.

    `decode_tps` is predicted tokens/s on this machine; `max_kld` (nats, mean over text tokens) and `min_accuracy` bound
    what is measured of the real file.
    """

    low_layers: int | None = None
    n_bytes: int | None = None
    bpw: float | None = None
    max_kld: float | None = None
    min_accuracy: float | None = None
    decode_tps: float | None = None
    memory_bytes: int | None = None

    @property
    def is_quality(self) -> bool:
        """Whether only measuring can tell if it is met."""
        return self.max_kld is not None or self.min_accuracy is not None


@dataclass(frozen=True)
class TensorChoice:
    """A tensor of the text model and its two possible types. Outside decoder layers both are the same, and `layer` is
    None: also in blocks behind the last layer, such as heads that predict several tokens (MTP)."""

    name: str
    layer: int | None
    n_weights: int
    high_type: str
    high_bytes: int
    low_type: str
    low_bytes: int


@dataclass(frozen=True)
class ModelTensors:
    """All tensors of the text model under one pair of types, and the bytes of the file that are not tensors.

    `without_importance` names matrices that no calibration reaches: their choices hold types that need no importance.
    `rules` say which layers may become low; the types that they ask for are already those of the choices.
    """

    choices: tuple[TensorChoice, ...]
    n_layers: int
    low: str
    high: str
    header_bytes: int
    alignment: int = 32
    without_importance: tuple[str, ...] = ()
    rules: PlanRules = field(default_factory=PlanRules)

    @property
    def kept(self) -> frozenset[int]:
        """Layers that never become low."""
        return self.rules.kept(self.n_layers)

    @property
    def n_weights(self) -> int:
        return sum(choice.n_weights for choice in self.choices)


@dataclass(frozen=True)
class PredictedSpeed:
    """What a plan's file is predicted to do on one machine, compared with the file of its high ftype.

    `low_layer_ratio`: how fast layers in the low type decode, those in the high type being 1. Where that is below 1,
    `faster` is the type of fewest bits that is faster than the high type, if any, and `faster_bytes` the file with it;
    `others_known` whether the types between the two were looked at for that.
    """

    decode_tps: float
    prefill_tps: float
    high_decode_tps: float
    high_prefill_tps: float
    threads: int
    prompt_tokens: int
    low_layer_ratio: float
    high_type: str
    faster: str | None = None
    faster_bytes: int | None = None
    others_known: bool = True


@dataclass(frozen=True)
class Plan:
    """A type for every tensor. `predicted_bytes` counts tensor data, as llama-quantize's dry run does;
    `predicted_file_bytes` also the header and padding. `unsettled` layers are low in some ways of estimating the
    ranking and not in others: in what share of them.

    `ranking` is the rule that made it: an order of layers, or "best" or "edited" by a user, where every tensor has a
    type of its own, `low` is the one of fewest bits and `low_layers` have it for the most part. `predicted_kld` and
    `measured_kld` say what was expected and found of it, in nats and on what; `compared` what else was measured at the
    same bytes. `rules` are what it had to obey, and `imatrix` is given where importance is not the calibration's.
    """

    low: str
    high: str
    ranking: str
    low_layers: tuple[int, ...]
    tensor_types: Mapping[str, str]
    predicted_bytes: int
    predicted_file_bytes: int
    bpw: float
    near_ties: tuple[tuple[int, int], ...] = ()
    order: tuple[int, ...] = ()
    unsettled: Mapping[int, float] = field(default_factory=dict)
    without_importance: tuple[str, ...] = ()
    budget: Mapping[str, object] = field(default_factory=dict)
    speed: PredictedSpeed | None = None
    predicted_kld: PredictedKld | None = None
    measured_kld: MeasuredKld | None = None
    compared: tuple[ComparedFile, ...] = ()
    rules: PlanRules = field(default_factory=PlanRules)
    imatrix: GivenImatrix | None = None

    @property
    def is_mixed(self) -> bool:
        """Return whether every tensor has a type of its own, so that layers are not just low or high."""
        return self.ranking in (BEST, EDITED)

    def to_json(self) -> dict[str, Any]:
        """Return what plan.json says."""
        return {
            "ranking": self.ranking,
            "low": self.low,
            "high": self.high,
            "low_layers": list(self.low_layers),
            "predicted_bytes": self.predicted_bytes,
            "predicted_file_bytes": self.predicted_file_bytes,
            "bpw": self.bpw,
            "budget": dict(self.budget) | {"counts": _COUNTED["memory_bytes" in self.budget]},
            "order": list(self.order),
            "near_ties": [list(pair) for pair in self.near_ties],
            "unsettled": {str(layer): share for layer, share in self.unsettled.items()},
            "without_importance": list(self.without_importance),
            "tensor_types": dict(self.tensor_types),
            "predicted_kld": self.predicted_kld and self.predicted_kld.to_json(),
            "measured_kld": self.measured_kld and self.measured_kld.to_json(),
            "compared": [file.to_json() for file in self.compared],
            **({"rules": self.rules.to_json()} if self.rules else {}),
            **({"imatrix": self.imatrix.to_json()} if self.imatrix else {}),
        } | ({"predicted_speed": dict(vars(self.speed))} if self.speed else {})


@dataclass(frozen=True)
class QuantizedModel:
    """A file that llama-quantize wrote and that was read again."""

    path: Path
    n_bytes: int
    sha256: str
    tensor_types: Mapping[str, str]
