"""State as it is stored: tensors and plain values, which torch loads without running anything from the file; summed
while it is written, and synced."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.lifecycle.checkpoints.checksums import CheckSum


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


class Summed:
    """A file that sums what is written into it."""

    def __init__(self, out: Any) -> None:
        self.out, self.bytes, self.sum = out, 0, hashlib.sha256()
        self.problem: OSError | None = None
        """Why the disk took no more: torch tells something else."""

    def write(self, data: Any) -> int:
        self.sum.update(data)
        self.bytes += len(data)
        try:
            return self.out.write(data)
        except OSError as problem:
            self.problem = problem
            raise

    def flush(self) -> None:
        self.out.flush()


def write_tensors(path: Path, value: Any) -> CheckSum:
    """Writes tensors and plain values, and waits until they are on the disk."""
    with path.open("wb") as out:
        summed = Summed(out)
        try:
            torch.save(value, summed)  # type: ignore[arg-type]
        except RuntimeError:
            if summed.problem is not None:
                raise summed.problem from None
            raise
        out.flush()
        os.fsync(out.fileno())
    return CheckSum(summed.bytes, summed.sum.hexdigest())


def read_tensors(path: Path) -> Any:
    """What `write_tensors` wrote."""
    return torch.load(path, map_location="cpu", weights_only=True)
