"""What a checkpoint's manifest says of its files: read without torch, by whoever only asks whether they are whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.lifecycle.checkpoints.checksums import CheckSum, matches


@dataclass(frozen=True)
class Segment:
    """A file, and what it holds: of the environments from `first` on the numbers of each ring."""

    file: str
    """In the folder of the checkpoints."""
    sum: CheckSum
    first: int
    ranges: dict[str, list[list[int]]]
    """By ring: [from, to) of each environment."""

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, **self.sum.as_json(), "first": self.first, "ranges": self.ranges}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Segment:
        return cls(found["file"], CheckSum.from_json(found), found["first"], found["ranges"])


@dataclass(frozen=True)
class RankPart:
    """What the manifest says of a rank's part."""

    rank: int
    first: int
    """Its first environment."""
    count: int
    total: int
    segments: list[Segment] = field(default_factory=list)

    @property
    def file(self) -> str:
        return f"rank-{self.rank}.pt"

    def as_json(self) -> dict[str, Any]:
        own = {"rank": self.rank, "first": self.first, "count": self.count, "total": self.total}
        return {**own, "segments": [segment.as_json() for segment in self.segments]}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> RankPart:
        named = [Segment.from_json(segment) for segment in found["segments"]]
        return cls(found["rank"], found["first"], found["count"], found["total"], named)


def whole(directory: Path, segments: Iterable[Segment]) -> bool:
    """Whether each is there as it was written."""
    return all(matches(directory / segment.file, segment.sum) for segment in segments)
