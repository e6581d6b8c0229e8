"""What batches and outputs come in: tensors in lists, tuples, mappings, dataclasses and whatever moves itself."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with each tensor, and each thing else that moves itself (`to`), changed; containers stay of their kind.

    What is neither, nor holds any, is handed on as it is.
    """
    if isinstance(value, (torch.Tensor, PackedSequence)) or hasattr(value, "to"):
        return change(value)
    if isinstance(value, Mapping):
        return as_mapping(value, {key: map_leaves(change, inner) for key, inner in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(change, inner) for inner in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_leaves(change, inner) for inner in value)
    if is_dataclass(value):
        changed = copy.copy(value)  # not through __init__, which may take other arguments and compute
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                object.__setattr__(changed, field.name, map_leaves(change, getattr(value, field.name)))
        return changed
    return value


def as_mapping(like: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """`items` in a mapping of the kind of `like`, with whatever else that one holds; a dict where it cannot be."""
    if type(like) is dict:
        return items
    try:
        changed = copy.copy(like)
        changed.update(items)  # type: ignore[attr-defined]
        return changed
    except (AttributeError, TypeError):
        return items


def is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def to_device(value: Any, device: torch.device) -> Any:
    """`value` with all tensors in it on `device`."""

    def moved(leaf: Any) -> Any:
        return leaf.to(device, non_blocking=True) if isinstance(leaf, torch.Tensor) else leaf.to(device)

    return map_leaves(moved, value)


def arrays_in(value: Any) -> Iterator[Any]:
    """The tensors, arrays and packed sequences in `value`, in the order they stand in."""
    if isinstance(value, (torch.Tensor, PackedSequence)) or hasattr(value, "shape"):  # a nested tensor has no shape
        yield value
        return
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value):
        value = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from arrays_in(inner)


def length_of(array: Any) -> int | None:
    """How many samples a tensor, an array or a packed sequence holds; None where it has no dimension to tell by."""
    if isinstance(array, PackedSequence):
        return int(array.batch_sizes[0])
    if isinstance(array, torch.Tensor):
        return int(array.size(0)) if array.dim() else None
    return int(array.shape[0]) if len(array.shape) else None


def is_sequence(batch: Any) -> bool:
    """Whether `batch` is (inputs, …, targets), rather than one thing that goes to the model as it is."""
    return isinstance(batch, (list, tuple)) and not isinstance(batch, PackedSequence)


def count_samples(batch: Any) -> int:
    """How many samples `batch` holds: the length of its targets, which the loss is taken over, where it is (inputs, …,
    targets); else of the first tensor or array in it that has a length."""
    parts = [batch[-1], batch] if is_sequence(batch) and len(batch) > 1 else [batch]
    arrays = [array for part in parts for array in arrays_in(part)]
    if not arrays:
        raise ValueError(f"cannot count the samples of a batch without tensors: {type(batch).__name__}")
    lengths = [length for length in map(length_of, arrays) if length is not None]
    return lengths[0] if lengths else 1
