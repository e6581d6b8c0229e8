"""Two functions that make any training script a trial: `report` and `should_stop`. Outside a trial both do nothing.

The ranks are found when they are first needed (`ranks.py`). A script writes no result of its own, so that is done for
it when it ends: `seed-S/result.json` holds the value it reported last and how it came to its end.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from typing import Any

from harness.distributed.attach import OneRank, find_ranks, leave_mpi, rank_and_size
from harness.errors import Diverged
from harness.files import write_json
from harness.reporting.trial import SUPERSEDED, Reporter, Trial
from harness.text import one_line


class Script:
    """This process as a rank of a trial whose command is the user's own."""

    def __init__(self, trial: Trial) -> None:
        self.reporter = Reporter(trial, OneRank())
        self.trial = trial
        self.found = False
        self.started_ranks = False
        self.rank, self.size = rank_and_size()
        self.process = os.getpid()
        atexit.register(self.at_exit)

    def report(self, step: int, value: float, env_steps: int | None) -> None:
        self.rank, self.size = rank_and_size()  # anew: the script may have started its ranks since
        if self.rank == 0:
            self.reporter.report(step, value, env_steps)

    def should_stop(self) -> bool:
        if not self.found:
            self.reporter.communicator, self.started_ranks = find_ranks()
            self.rank, self.size = self.reporter.communicator.rank, self.reporter.communicator.size
            self.found = True
        return self.reporter.should_stop()

    def at_exit(self) -> None:
        if os.getpid() != self.process:  # a worker that the script forked
            return
        error = getattr(sys, "last_value", None)  # what ended the main program; SystemExit does not stand here
        if self.rank == 0 and self.reporter.verdict != SUPERSEDED and not self.reporter.superseded():
            write_json(self.trial.seed_directory / "result.json", self.result(error))
        if self.started_ranks and self.reporter.communicator.transport == "mpi":
            # The script does not know that MPI runs, and MPI would wait at its end for ranks that wait for this one.
            sys.stdout.flush()
            sys.stderr.flush()
            if error is not None:
                sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(1)
            leave_mpi()

    def result(self, error: BaseException | None) -> dict[str, Any]:
        value = self.reporter.last_value
        reason: str | None = None
        diverged = False
        if self.reporter.verdict is not None:
            status = "pruned" if self.reporter.verdict == "pruned" else "stopped"
            reason = f"the driver's verdict: {self.reporter.verdict}"
        elif error is not None:
            status, reason = "failed", one_line(f"{type(error).__name__}: {error}")
            diverged = isinstance(error, Diverged)
        elif value is None:
            status, reason = "failed", "the script ended without a report"
        elif not math.isfinite(value):
            status, reason, diverged = "failed", f"the last reported value is {value}", True
        else:
            status = "done"
        return {
            "status": status,
            "reason": reason,
            "divergence": diverged,
            "value": value,
            "attempt": self.trial.attempt,
            "env_steps": self.reporter.last_env_steps,
            "wall_seconds": seconds_since_start(),
            "ranks": self.size,
        }


def seconds_since_start() -> float:
    """Of this process's life."""
    import psutil  # here, at the end: no report waits for it

    return time.time() - psutil.Process().create_time()


_script: Script | None = None


def _own_script() -> Script | None:
    """None outside a trial."""
    global _script
    if _script is None:
        trial = Trial.from_environment(os.environ)
        _script = Script(trial) if trial is not None else None
    return _script


def report(step: int, value: float, env_steps: int | None = None) -> None:
    """Tells the search that evaluation number `step` (1, 2, …) gave `value`, after `env_steps` environment steps.

    Rank 0's call counts; the other ranks may call it too. Number the evaluations at fixed fractions of the budget, so
    that a pruner compares like with like whatever is searched. The value reported last is the trial's.
    """
    script = _own_script()
    if script is not None:
        script.report(step, value, env_steps)


def should_stop() -> bool:
    """Whether the search wants this trial to end now.

    Every rank calls it at the same place, and all get the same answer.
    """
    script = _own_script()
    return script is not None and script.should_stop()
