"""A job under watch, whoever started it: the parent of a run, a search, a bench. Ranks that hang, stop requests, limits
of time, and the end."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from harness.launching import Job, Outcome
from harness.lifecycle.signals import StopRequests
from harness.lifecycle.watchdog import Hang, Watch

REQUEST_SECONDS = 1.0
"""Between stop requests while not all ranks listen yet; inside a Slurm allocation each of them is a job step."""


class Overdue(Enum):
    """Why a job has to be ended."""

    HANG = "a rank hangs"
    STOP = "it did not stop within its grace"
    SILENCE = "nothing was heard of it for too long"


class Supervision:
    """What is known of a job that runs; `overdue` may be called as often as one likes.

    hang_seconds: without progress, of ranks whose signs of life lie in `run_dir`; `hosts` are those of the ranks that
    must give one. grace_seconds: from a stop request to the end. silence_seconds: from one `heard` to the next.
    """

    def __init__(
        self,
        job: Job,
        run_dir: Path | None = None,
        hang_seconds: float = math.inf,
        hosts: Sequence[str] = (),
        grace_seconds: float = 0.0,
        silence_seconds: float = math.inf,
    ) -> None:
        self.job = job
        self.grace_seconds = grace_seconds
        self.silence_seconds = silence_seconds
        self.hang: Hang | None = None
        self.cause: Overdue | None = None
        """Why the job was found overdue first."""
        self._watch: Watch | None = None
        if run_dir is not None:
            self._watch = Watch(run_dir, hang_seconds, lambda it: job.state_of(it.rank, it.host, it.pid), hosts)
        self._heard_at = time.monotonic()
        self._stop_at: float | None = None
        self._signals = False
        self._next_signal = 0.0
        self._reached = 0

    @property
    def asked_to_stop(self) -> bool:
        return self._stop_at is not None

    def heard(self) -> None:
        """The job has reported: the limit on its silence restarts."""
        self._heard_at = time.monotonic()

    def request_stop(self, by_signal: bool = True) -> None:
        """From now on the job has its grace. `by_signal`: `overdue` signals its ranks, until all of them listened."""
        if self._stop_at is None:
            self._stop_at, self._signals = time.monotonic() + self.grace_seconds, by_signal

    def overdue(self) -> Overdue | None:
        """Why the job has to be ended now, None where it may run on."""
        cause = self._overdue()
        self.cause = self.cause or cause
        return cause

    def _overdue(self) -> Overdue | None:
        now = time.monotonic()
        if self._stop_at is not None and now >= self._stop_at:
            return Overdue.STOP
        if self._watch is not None and self.hang is None:
            self.hang = self._watch.look()
        if self.hang is not None:
            return Overdue.HANG
        if now - self._heard_at > self.silence_seconds:
            return Overdue.SILENCE
        if self._signals and now >= self._next_signal and self._reached < len(self.job.rank_hosts()):
            self._reached += self.job.request_stop()  # a rank that is still importing does not listen yet
            self._next_signal = time.monotonic() + REQUEST_SECONDS
        return None


def supervise(
    supervision: Supervision,
    requests: StopRequests,
    say: Callable[[str], None] = lambda line: None,
    each_time: Callable[[], None] = lambda: None,
    poll_seconds: float = 0.1,
) -> Outcome:
    """Waits for the end of a job that this process started, and passes stop requests on to it; how it ended.

    A job that is overdue and a second Ctrl-C end it. Nothing of it is left afterwards, on any host.
    """
    job, announced = supervision.job, False
    try:
        while (outcome := job.poll()) is None:
            each_time()
            if requests.received and not supervision.asked_to_stop:
                say(f"{requests.received}: asking the ranks to stop at the next boundary")
                supervision.request_stop()
            match supervision.overdue():
                case Overdue.HANG if (hang := supervision.hang) is not None:
                    if not announced:
                        say(f"rank {hang.rank} on {hang.host} {hang.cause}: ending the run")
                    announced = True
                    job.end(grace=0.0)  # mpirun would let a stopped rank continue
                case Overdue.STOP:
                    grace = supervision.grace_seconds
                    say(f"the ranks did not stop within {grace:g} s (run.stop_seconds): ending them")
                    job.end()
                case Overdue.SILENCE:
                    job.end()
            time.sleep(poll_seconds)
    except KeyboardInterrupt:  # the second one
        job.end(grace=0.0)
        outcome = job.poll() or Outcome(128 + signal.SIGINT)
    finally:
        for problem in job.end():
            print(problem, file=sys.stderr, flush=True)
    return outcome
