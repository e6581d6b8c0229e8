"""Which environments are a rank's: the same environments on any number of ranks."""

from __future__ import annotations

from harness.distributed.share import Share, split_evenly
from harness.errors import BadInput

__all__ = ["Share", "share_of"]


def share_of(total: int, rank: int, size: int) -> Share:
    """Rank `rank`'s share of the environments: at least one."""
    if total < size:
        raise BadInput(f"env.count must be at least the number of ranks, {size}, so that none is idle; got {total}")
    return split_evenly(total, rank, size)
