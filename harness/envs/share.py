"""Which environments are a rank's: the same environments on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import BadInput


@dataclass(frozen=True)
class Share:
    """The environments `first … first + count - 1` of `total`."""

    first: int
    count: int
    total: int

    @property
    def slice(self) -> slice:
        return slice(self.first, self.first + self.count)


def share_of(total: int, rank: int, size: int) -> Share:
    """Rank `rank`'s share: shares differ by at most one, and lie in the order of the ranks."""
    if total < size:
        raise BadInput(f"env.count must be at least the number of ranks, {size}, so that none is idle; got {total}")
    each, more = divmod(total, size)
    return Share(rank * each + min(rank, more), each + (rank < more), total)
