"""Files with a checksum each, summed while they are written, and synced."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

AT_ONCE = 2**20


@dataclass(frozen=True)
class CheckSum:
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> CheckSum:
        return cls(found["bytes"], found["sha256"])


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


def matches(path: Path, expected: CheckSum) -> bool:
    """Whether the file is as it was written."""
    found = hashlib.sha256()
    try:
        if path.stat().st_size != expected.bytes:
            return False
        with path.open("rb") as read:
            while data := read.read(AT_ONCE):
                found.update(data)
    except OSError:
        return False
    return found.hexdigest() == expected.sha256
