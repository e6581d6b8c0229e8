"""Where the time goes: seconds per phase of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter


class PhaseTimer:
    """`start("act")` ends the phase before and begins this one; two clock reads a phase is all it costs.

    It measures this process: work that a GPU does later is counted where the process waits for it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds spent in each phase that has ended."""
        self.starts = 0
        """How many were begun: it rises as long as the process goes on."""
        self._phase: str | None = None
        self._since = 0.0

    def start(self, phase: str) -> None:
        now = perf_counter()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now
        self.starts += 1

    def stop(self) -> None:
        """Ends the phase; what follows until the next `start` is counted nowhere."""
        if self._phase is not None:
            self.start(self._phase)
            self._phase = None

    def shares(self) -> Mapping[str, float]:
        """Each phase's share of the time measured so far, the running phase included; they sum to 1."""
        seconds = dict(self.seconds)
        if self._phase is not None:
            seconds[self._phase] = seconds.get(self._phase, 0.0) + perf_counter() - self._since
        total = sum(seconds.values())
        return {phase: spent / total for phase, spent in seconds.items()} if total > 0 else {}
