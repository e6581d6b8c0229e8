"""State as it is stored: tensors and plain values, which torch loads without running anything from the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def as_tensors(value: Any) -> Any:
    """`value` with its arrays as tensors, all of them copies on the CPU that nothing changes any more."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value, order="C"))
    if isinstance(value, Mapping):
        return {key: as_tensors(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(as_tensors(item) for item in value)
    return value


def as_arrays(value: Any) -> Any:
    """`value` with its tensors as arrays."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: as_arrays(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(as_arrays(item) for item in value)
    return value
