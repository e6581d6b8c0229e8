"""Checksums of files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
