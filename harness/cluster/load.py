"""How much of a host's cores other work takes while a run starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from harness.cluster.machine import available_cores

SHORTEST = 0.1
"""Seconds below which nothing is said: the kernel counts in hundredths."""
SPARE = 0.5
"""Cores that others may take of those that a run wants before it is told: what starts beside it ends soon."""


@dataclass(frozen=True)
class Usage:
    """Of one rank, since its meter began. In seconds."""

    host: str
    cores: tuple[int, ...]
    """Those that the rank may run on."""
    wall: float
    busy: float
    """Of these cores, whoever used them."""
    own: float
    """CPU time of the rank."""


class LoadMeter:
    """Begins when it is made."""

    def __init__(self) -> None:
        self.cores = tuple(available_cores())
        self.began, self.busy_before, self.own_before = time.monotonic(), self.busy(), time.process_time()

    def busy(self) -> float:
        """Seconds that the cores have worked since the host started; 0 where the system does not say."""
        every = psutil.cpu_times(percpu=True)
        if max(self.cores, default=0) >= len(every):
            return 0.0
        mine = [every[core] for core in self.cores]
        return sum(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0) for times in mine)

    def usage(self, host: str) -> Usage:
        wall = time.monotonic() - self.began
        return Usage(host, self.cores, wall, self.busy() - self.busy_before, time.process_time() - self.own_before)


def busy_notice(usages: Sequence[Usage], threads: int) -> str | None:
    """A line for the user where, on any host, other work leaves fewer cores than the ranks there want, by what all
    ranks have measured; None where there is room. `threads`: of each rank."""
    for host, cores in dict.fromkeys((usage.host, usage.cores) for usage in usages):
        ranks = [usage for usage in usages if usage.host == host and set(usage.cores) & set(cores)]
        meter = max((usage for usage in ranks if usage.cores == cores), key=lambda usage: usage.wall)
        if meter.wall < SHORTEST:
            continue
        others = (meter.busy - sum(usage.own for usage in ranks)) / meter.wall
        wanted = min(len(ranks) * threads, len(cores))
        if others > SPARE and len(cores) - others < wanted - SPARE:
            want = f"{len(ranks)} ranks want" if len(ranks) > 1 else "this rank wants"
            which = f"{len(cores)} cores" if len(cores) > 1 else "one core"
            return (
                f"other work takes {others:.1f} of {which} of {host}, where {want} {wanted}: ranks wait for the "
                "slowest of them, fewer may be quicker"
            )
    return None
