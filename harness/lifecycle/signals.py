"""Requests to stop: signals set a flag, and the ranks agree on it where they agree on everything else."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

from harness.errors import StopAtStart

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


class StopRequests:
    """While it is open, the STOP_SIGNALS only set `received`; a second SIGINT ends the process at once.

    A signal that was ignored before (`nohup`) stays so. While a run is `starting` a request raises StopAtStart instead,
    in whatever the main thread does.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """The first signal's name."""
        self.starting = False
        self._before: dict[int, object] = {}
        self._launcher = os.getppid()
        self._shell = shell_around(self._launcher)

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def look_for_launcher(self) -> None:
        """Counts the end of the shell that `horovodrun --mpi` has become as a request: a signal to it ends it alone,
        and nothing else would tell its mpirun and the ranks."""
        if self._shell is not None and parent_of(self._launcher) != self._shell:
            self.received = self.received or "the end of horovodrun"

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
        if self.starting:
            raise StopAtStart(f"stop requested ({self.received})")

    def end_start(self, reason: str) -> None:
        """From another thread: the start is broken off for another reason than a signal."""
        if self.starting and self._before:
            self.received = self.received or reason
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)


def shell_around(pid: int) -> int | None:
    """The shell that was started for process `pid` alone, `sh -c "mpirun …"`, if any was."""
    shell = parent_of(pid)
    try:
        words = Path(f"/proc/{shell}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return shell if words[1:2] == [b"-c"] and words[2].lstrip().startswith(b"mpirun ") else None


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
