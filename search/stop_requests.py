"""Stop requests that the event loop reads: signals (the first asks all to stop, the second ends them at once), `search
stop`, and the end of `study.max_minutes`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
LOOK_SECONDS = 0.5  # between two looks at a file that may lie on another host


class StopRequests:
    """Counts the requests that came since it was entered. In another thread than the main one no signal can come."""

    def __init__(self) -> None:
        self._signals = 0
        self._before: dict[int, Any] = {}
        self._requested: Callable[[], bool] = lambda: False
        self._minutes: float | None = None
        self._began = time.monotonic()
        self._next_look = 0.0
        self._from_outside: str | None = None

    def watch(self, requested: Callable[[], bool], minutes: float | None) -> None:
        """From now on `requested` is asked too, and the minutes count from when this was made."""
        self._requested, self._minutes = requested, minutes

    @property
    def count(self) -> int:
        """0: go on; 1: ask all to stop; more: end them at once."""
        if self._from_outside is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self._requested():
                self._from_outside = "stopped by `search stop`"
            elif self._minutes is not None and time.monotonic() - self._began > 60 * self._minutes:
                self._from_outside = f"stopped after {self._minutes:g} minutes (study.max_minutes)"
        return self._signals + (self._from_outside is not None)

    @property
    def why(self) -> str:
        """Why it stops, in a few words."""
        return "stopped on request" if self._signals or self._from_outside is None else self._from_outside

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            heeded = (number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)  # nohup
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
