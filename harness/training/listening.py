"""To hear requests to stop between the batches of something long, at the same batch on all ranks."""

from __future__ import annotations

import time
from collections.abc import Callable

LISTEN_SECONDS = 0.2
"""About how often it listens."""


class Listener:
    """`step` is called by all ranks at the same places. How many of them go by between two times that it listens
    follows from how long the slowest rank takes, which all ranks know when they have listened."""

    def __init__(self, listen: Callable[[float], float], clock: Callable[[], float] = time.perf_counter) -> None:
        """`listen`: collective; gives the largest of what the ranks give, and raises where they agree to stop."""
        self.listen, self.clock = listen, clock
        self.every = self.left = 1
        self.since = clock()

    def step(self) -> None:
        self.left -= 1
        if self.left > 0:
            return
        slowest = self.listen(self.clock() - self.since)
        fits = int(self.every * LISTEN_SECONDS / max(slowest, 1e-9))
        self.every = self.left = max(1, min(fits, 2 * self.every))
        self.since = self.clock()
