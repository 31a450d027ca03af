"""Finds which tensors of the checkpoint make each matrix of the file that llama.cpp's converter would write.

For `converter_child`, in the converter's process. In a dry run every tensor is a graph of postponed operations. Such a
graph is computed here with numbers in place of weights: where each weight of the checkpoint's matrix is the number of
its column, the matrix of the file shows which columns it has, and in which order; where it is the number of its row,
which rows. No weight is read, and rows that are all alike take no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LARGEST = 2**30  # elements of a matrix that is computed: an operation that copies it needs four times the bytes
_BLOCK = re.compile(r"^blk\.(\d+)\.")
COLUMNS, ROWS = -1, -2


class _Sparing(TorchFunctionMode):
    """Leaves repeated rows and experts unwritten: copies are the same tensor, and a stack of equals is a view."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.contiguous, Tensor.clone):
            return args[0]
        if func is Tensor.view and not isinstance(args[1], torch.dtype):
            return args[0].reshape(*args[1:])  # what was not copied may not have a view of this shape
        if func is torch.stack and _dimension(args, kwargs) == 0 and all(_same(part, args[0][0]) for part in args[0]):
            return args[0][0].expand(len(args[0]), *args[0][0].shape)
        return func(*args, **(kwargs or {}))


def _dimension(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> int:
    return int(args[1] if len(args) > 1 else (kwargs or {}).get("dim", 0))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


class Walk:
    """What is known of the file's matrices: `sources` by name, as `tensor_sources.tensor_source` reads them."""

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self._lazy: Any = None
        self._names: dict[tuple[str, int], str] = {}
        self._codes: dict[tuple[tuple[int, ...], int], Tensor] = {}
        self._kinds: dict[object, dict[str, Any]] = {}

    def watch(self, base: Any) -> None:
        """See all tensors that the models of the converter, whose module conversion.base this is, make from now on. Of
        one that does not read checkpoints as the pinned one does, nothing is seen."""
        files = getattr(base.gguf.utility, "SafetensorsLocal", None)
        if files is None:
            return
        self._lazy = base.LazyTorchTensor
        opened, prepare = files.__init__, base.ModelBase.prepare_tensors

        def open_file(file: Any, *args: Any) -> None:
            opened(file, *args)
            for name, tensor in file.tensors.items():
                self._names[str(tensor.data_range.filename), int(tensor.data_range.offset)] = name

        def prepare_tensors(model: Any) -> None:
            modify = model.modify_tensors

            def modify_tensors(*args: Any, **kwargs: Any) -> Iterable[tuple[str, Any]]:
                for name, tensor in modify(*args, **kwargs):
                    self.see(name, tensor)
                    yield name, tensor

            model.modify_tensors = modify_tensors
            prepare(model)

        files.__init__, base.ModelBase.prepare_tensors = open_file, prepare_tensors

    def see(self, name: str, tensor: Any) -> None:
        """Note one tensor that the converter will write; `tensor` is its graph. Layers of one kind are alike."""
        if not isinstance(tensor, self._lazy) or len(tensor.shape) < 2:
            return
        leaves = list(self._leaves(tensor))
        sources = [self._names[_place(leaf)] for leaf in leaves]  # type: ignore[index]
        if not sources:
            return
        largest = max(leaves, key=lambda leaf: int(leaf.shape.numel()))
        number = match[1] if (match := _BLOCK.match(name)) else ""
        kind = re.sub(r"\d+", "#", name), tuple(s.replace(f".{number}.", ".#.", 1) for s in sources)
        kind_key = (*kind, tuple(tuple(leaf.shape) for leaf in leaves), tuple(tensor.shape))
        if kind_key not in self._kinds:
            self._kinds[kind_key] = self._origin(tensor, leaves, largest.shape)
        self.sources[name] = {"sources": sources, "shape": list(largest.shape)} | self._kinds[kind_key]

    def _leaves(self, tensor: Any) -> Iterator[Any]:
        """The checkpoint's tensors that the graph begins with, each once, in the order of the operations."""
        seen: set[int] = set()
        waiting = [tensor]
        while waiting:
            node = waiting.pop()
            if isinstance(node, (list, tuple)):
                waiting += reversed(node)
            elif isinstance(node, self._lazy) and id(node) not in seen:
                seen.add(id(node))
                if _place(node):
                    yield node
                else:
                    waiting += reversed(node._args)

    def _origin(self, tensor: Any, leaves: list[Any], largest: torch.Size) -> dict[str, Any]:
        """Which axis of the sources the matrix has as its columns, their order where it is another one, and its rows of
        a single source. Empty where that cannot be told."""
        if len(largest) < 2 or largest.numel() > _LARGEST:
            return {}
        weights = [leaf for leaf in leaves if leaf.shape.numel() == largest.numel()]  # the others may be scales
        for coded in (leaves, weights):
            for axis in (COLUMNS, ROWS):
                order = _constant(self._computed(tensor, coded, axis), COLUMNS)
                size = min(leaf.shape[axis] for leaf in coded if len(leaf.shape) > 1)
                if order is None or not _chosen(order, size):
                    continue
                whole = axis == COLUMNS and len(leaves) == 1
                rows = _rows(self._computed(tensor, coded, ROWS)) if whole else None
                return {"axis": axis, "order": _ranges(_whole(order), size), "rows": rows and _ranges(rows, -1)}
        return {}

    def _computed(self, tensor: Any, coded: Sequence[Any], axis: int) -> Tensor | None:
        """The matrix, where weights of these sources are their numbers along an axis, and all others 1; None where its
        operations cannot be computed with such numbers."""
        ids = {id(leaf) for leaf in coded}
        values: dict[int, Any] = {}

        def value(node: Any) -> Any:
            if isinstance(node, (list, tuple)):
                return type(node)([value(item) for item in node])
            if not isinstance(node, self._lazy):
                return node
            if id(node) not in values:
                values[id(node)] = operation(node)
            return values[id(node)]

        def operation(node: Any) -> Any:
            if _place(node):
                return self._code(tuple(node.shape), axis if id(node) in ids else 0)
            if node._data is not None and node._func is None:
                return node._data
            return node._func(*value(node._args), **node._kwargs)

        try:
            with _Sparing():
                result = value(tensor)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return None
        return result if isinstance(result, Tensor) and result.shape == tensor.shape else None

    def _code(self, shape: tuple[int, ...], axis: int) -> Tensor:
        if axis == 0 or len(shape) < -axis:
            return torch.ones(1).expand(shape)
        if (shape, axis) not in self._codes:
            numbers = torch.arange(shape[axis], dtype=torch.float32)
            self._codes[shape, axis] = numbers.reshape(-1, *[1] * (-axis - 1)).expand(shape)
        return self._codes[shape, axis]


def _place(node: Any) -> tuple[str, int] | None:
    """Where the data of a node lies, if it is a tensor of the checkpoint."""
    only = node._args[0] if len(node._args) == 1 else None
    where = getattr(only, "data_range", None)
    return (str(where.filename), int(where.offset)) if where is not None else None


def _constant(result: Tensor | None, axis: int) -> Tensor | None:
    """The numbers along an axis, where they are the same everywhere else."""
    if result is None:
        return None
    moved = result.movedim(axis, -1)
    first = moved[(0,) * (moved.ndim - 1)]
    repeated = all(stride == 0 or size == 1 for stride, size in zip(moved.stride()[:-1], moved.shape[:-1], strict=True))
    return first if repeated or bool((moved == first).all()) else None


def _rows(result: Tensor | None) -> list[int] | None:
    """The numbers of the rows, sorted, where each row has one."""
    if result is None or bool((result != result[..., :1]).any()):
        return None
    return sorted(_whole(result[..., 0].reshape(-1)))


def _whole(numbers: Tensor) -> list[int]:
    return [int(number) for number in numbers.tolist()]


def _chosen(numbers: Tensor, size: int) -> bool:
    """Whether they are different whole numbers below `size`."""
    if bool((numbers != numbers.round()).any()) or float(numbers.min()) < 0 or float(numbers.max()) >= size:
        return False
    return len(set(numbers.tolist())) == len(numbers)


def _ranges(numbers: Sequence[int], size: int) -> list[list[int]] | None:
    """The numbers as [first, after the last] of each run; None for all of `size` numbers in order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    return None if runs == [[0, size]] else runs
