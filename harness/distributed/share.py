"""What of a number of items is a rank's: environments, or samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The items `first … first + count - 1` of `total`."""

    first: int
    count: int
    total: int

    @property
    def slice(self) -> slice:
        return slice(self.first, self.first + self.count)


def split_evenly(total: int, rank: int, size: int) -> Share:
    """Rank `rank`'s share: shares differ by at most one, and lie in the order of the ranks."""
    each, more = divmod(total, size)
    return Share(rank * each + min(rank, more), each + (rank < more), total)
