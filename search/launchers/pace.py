"""How a search has spent its slots' time: how many runs a minute, and how much of it they trained."""

from __future__ import annotations

import time

from search.display import duration
from search.launchers.lease import Lease


class Pace:
    """Counts from the first lease to the last that was given back. Slot seconds: one slot for one second."""

    def __init__(self) -> None:
        self.runs = 0
        """Trials, and runs of the confirmation, whose slots were given back."""
        self.busy = self.trained = 0.0
        """Slot seconds that were leased, and those of them in which ranks trained or evaluated."""
        self._since: list[tuple[Lease, float]] = []
        self._first = self._last = 0.0

    def begin(self, lease: Lease) -> None:
        now = time.monotonic()
        self._first = self._first or now
        self._since.append((lease, now))

    def end(self, lease: Lease) -> None:
        self._last = time.monotonic()
        for entry in self._since:
            if entry[0] is lease:
                self._since.remove(entry)
                self.runs += 1
                self.busy += lease.size * (self._last - entry[1])
                return

    def describe(self, slots: int) -> str | None:
        """The line for people; None where nothing has run."""
        seconds = self._last - self._first
        if not self.runs or seconds <= 0:
            return None
        share = 100 / (slots * seconds)
        trained = f", and trained for {self.trained * share:.0f} %" if self.trained else ""
        return (
            f"pace: {self.runs} runs in {duration(seconds)}, {60 * self.runs / seconds:.1f} a minute; the slots were "
            f"busy for {self.busy * share:.0f} % of the time{trained}"
        )
