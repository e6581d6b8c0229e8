"""What grows on a rank, and is too large to be written whole each time: append-only segments, which no checkpoint's
save ever changes.

A ring keeps the newest of what was ever put into it (harness/buffers/ring.py). A save writes what is new in
the rings into a file of its own, and names the files that hold what they still have. A file is deleted when no kept
checkpoint names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.buffers.ring import Ring
from harness.files import sync_directory
from harness.lifecycle.checkpoints.manifest import Segment
from harness.lifecycle.checkpoints.serialization import write_tensors

FOLDER = "replay"


@dataclass(frozen=True)
class Piece:
    """What is new in the rings, copied out of them."""

    ranges: dict[str, list[list[int]]]
    data: dict[str, torch.Tensor]
    """By ring: the numbers of the first environment, then of the next, …"""
    needed: dict[str, np.ndarray]
    """By ring: the oldest number of each environment that is still needed."""


class Segments:
    """The segments of a rank. `cut` copies what is new, `write` brings it to the disk, perhaps from a thread."""

    def __init__(self, directory: Path, rank: int, first: int, token: str) -> None:
        """`directory`: that of the checkpoints. `first`: the rank's first environment. `token`: of this attempt, so
        that its files are never those of another."""
        self.directory, self.rank, self.first, self.token = directory, rank, first, token
        self.kept: list[Segment] = []
        self.saved: dict[str, np.ndarray] = {}
        """By ring: the number up to which each environment is on the disk."""

    def cut(self, rings: dict[str, Ring]) -> Piece:
        ranges, data, needed = {}, {}, {}
        for name, ring in rings.items():
            slots, starts = ring.array.shape[1], np.maximum(ring.first, ring.end - ring.array.shape[1])
            starts = np.maximum(starts, self.saved.get(name, np.zeros_like(ring.end)))
            ranges[name] = np.stack([starts, ring.end], axis=1).tolist()
            out, at = np.empty((int((ring.end - starts).sum()), *ring.array.shape[2:]), ring.array.dtype), 0
            for env, (low, high) in enumerate(ranges[name]):
                for place, part in turns(low, high, slots):
                    out[at + part.start : at + part.stop] = ring.array[env, place]
                at += high - low
            data[name] = torch.from_numpy(out)
            needed[name] = ring.first.copy()
        return Piece(ranges, data, needed)

    def write(self, piece: Piece, number: int) -> list[Segment]:
        """Writes it for save number `number`; returns all segments that what it was cut from needs. OSError leaves
        nothing behind."""
        if any(high > low for ranges in piece.ranges.values() for low, high in ranges):
            file = f"{FOLDER}/rank-{self.rank}/{self.token}-{number:06d}.pt"
            path = self.directory / file
            first = not path.parent.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                written = write_tensors(path, piece.data)
                sync_directory(path.parent)
                if first:
                    sync_directory(path.parent.parent)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            self.kept.append(Segment(file, written, self.first, piece.ranges))
            self.saved = {name: np.array(ranges)[:, 1] for name, ranges in piece.ranges.items()}
        self.kept = [segment for segment in self.kept if self.is_needed(segment, piece)]
        return list(self.kept)

    def is_needed(self, segment: Segment, piece: Piece) -> bool:
        """Whether it holds a number of this rank's environments that is still needed."""
        for name, needed in piece.needed.items():
            for env, (low, high) in enumerate(segment.ranges[name], segment.first - self.first):
                if 0 <= env < len(needed) and high > max(low, needed[env]):
                    return True
        return False

    def load(self, directory: Path, segments: Sequence[Segment], rings: dict[str, Ring]) -> None:
        """Fills the rings from the segments of a checkpoint, which may be those of several ranks: each environment's in
        the order of its numbers, whatever their own is, and each file once, though several ranks may name it.

        The last number of each environment is written again with the next save: a resumed run may have to mark that
        its episode does not go on.
        """
        segments = list({segment.file: segment for segment in segments}.values())
        files = [
            torch.load(directory / segment.file, map_location="cpu", weights_only=True, mmap=True)
            for segment in segments
        ]
        for name, ring in rings.items():
            saved = self.saved[name] = np.zeros(len(ring.end), np.int64)
            found: list[tuple[int, int, int, torch.Tensor]] = []
            for segment, data in zip(segments, files):
                at = 0
                for env, (low, high) in enumerate(segment.ranges[name], segment.first - self.first):
                    if 0 <= env < len(saved):
                        found.append((env, low, high, data[name][at : at + high - low]))
                    at += high - low
            for env, low, high, values in sorted(found, key=lambda each: each[:3]):
                for place, part in turns(low, high, ring.array.shape[1]):
                    ring.array[env, place] = values[part].numpy()
                saved[env] = max(high - 1, 0)
        if directory == self.directory:
            self.kept = segments
        else:
            self.saved = {}  # another run's files are not ours to name


def turns(low: int, high: int, slots: int) -> Iterator[tuple[slice, slice]]:
    """Where the numbers low … high - 1 lie in a ring, in turns of it: slots, and which of the numbers those are."""
    at = low
    while at < high:
        end = min(high, (at // slots + 1) * slots)
        yield slice(at % slots, at % slots + end - at), slice(at - low, end - low)
        at = end


def delete_unnamed(directory: Path, named: set[str]) -> None:
    """Deletes the segments that no checkpoint names. Meanwhile no rank writes any: none begins the next save before all
    have settled this one."""
    for path in (directory / FOLDER).glob("rank-*/*"):
        if f"{FOLDER}/{path.parent.name}/{path.name}" not in named:
            path.unlink(missing_ok=True)
