"""Hooks the decoder while it computes: outputs of layers and inputs of matrices. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.calibration.reservoir import Reservoir
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.hf import experts
from luq_gguf.hf.decoder import Part, decoder_layers, decoder_matrices


class CalibrationHooks:
    """Sums of squared inputs per matrix, and sampled output vectors per layer, over all batches seen.

    Inputs that several linear layers share (query, key and value; gate and up) are summed once.
    """

    def __init__(self, model: nn.Module, sources: Mapping[str, MatrixSource], reservoir: Reservoir) -> None:
        self._layers = decoder_layers(model)
        self._matrices = decoder_matrices(model, sources)
        self._reservoir = reservoir
        shapes = self._matrices.shapes
        self._sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._counts = {name: np.zeros(n_mat, dtype=np.int64) for name, (n_mat, _) in shapes.items()}
        self._mask = torch.empty(0, dtype=torch.bool)  # of all tokens: which are valid
        self._valid: Tensor | None = None  # flat indices of valid tokens; None when all are
        self._rows: Tensor | None = None
        self._slots: np.ndarray = np.empty(0, dtype=np.int64)
        self._shared: tuple[Any, np.ndarray, int] | None = None
        self._multimodal = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the hooks to the model inside this context only."""
        handles = [linear.register_forward_pre_hook(self._on_input) for linear in self._matrices.linears]
        for number, layer in enumerate(self._layers):
            handles.append(layer.register_forward_hook(self._on_output(number)))
        undo = [
            experts.set_hook(module, self._on_expert(products)) for module, products in self._matrices.experts.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for remove in undo:
                remove()
            self._shared = None

    def expect(self, valid: Tensor, ids: tuple[int, ...], *, multimodal: bool) -> None:
        """Say what the next forward pass contains: valid tokens bool [batch, tokens] of these samples."""
        self._mask = valid.reshape(-1)
        positions = self._mask.nonzero().reshape(-1)
        self._valid = None if bool(self._mask.all()) else positions
        self._multimodal = multimodal
        chosen, self._slots = self._reservoir.choose(ids, [int(n) for n in valid.sum(1)], multimodal=multimodal)
        self._rows = positions[torch.from_numpy(chosen)]

    def importance(self, n_samples: int) -> ImportanceMatrix:
        """Return the sums so far as an importance matrix."""
        return ImportanceMatrix(dict(self._sums), dict(self._counts), n_samples)

    def restore(self, matrix: ImportanceMatrix) -> None:
        """Resume from the sums of an interrupted pass."""
        self._sums = {name: matrix.in_sum2[name].copy() for name in self._sums}
        self._counts = {name: matrix.counts[name].copy() for name in self._counts}

    def _on_input(self, linear: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if self._shared is None or self._shared[0] is not x:
            flat = x.detach().reshape(-1, x.shape[-1])
            if self._valid is not None:
                flat = flat.index_select(0, self._valid.to(flat.device))
            self._shared = (x, flat.float().square().sum(0).cpu().numpy(), len(flat))
        for part in self._matrices.linears[linear]:  # type: ignore[index]
            self._sums[part.name] += part.sums(self._shared[1])
            self._counts[part.name] += self._shared[2]

    def _on_expert(self, products: dict[str, tuple[Part, ...]]) -> experts.ExpertHook:
        def hook(which: str, expert: int, x: Tensor, tokens: Tensor) -> None:
            if self._valid is not None:
                x = x[self._mask.to(x.device)[tokens]]
            sums = x.float().square().sum(0).cpu().numpy()
            for part in products.get(which, ()):
                self._sums[part.name][expert] += part.sums(sums)
                self._counts[part.name][expert] += len(x)

        return hook

    def _on_output(self, number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if len(self._slots):
                hidden = output[0] if isinstance(output, tuple) else output
                flat = hidden.detach().reshape(-1, hidden.shape[-1])
                assert self._rows is not None
                vectors = flat.index_select(0, self._rows.to(flat.device)).cpu()
                self._reservoir.write(number, self._slots, vectors, multimodal=self._multimodal)

        return hook
