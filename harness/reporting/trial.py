"""The ranks' side of a trial: they report values to its directory and learn from it when to stop.

The directory is what counts, on any shared file system: rank 0 alone touches it, the others hear from rank 0. What
stands in it is read anew each time (opened, never only stat'ed: NFS caches what stat says).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.cluster.handshake import Handshake
from harness.files import append_json_line, read_json

SUPERSEDED = "superseded"
"""Why to stop when a newer attempt of the same trial runs: nothing more may be written for this one."""


@dataclass(frozen=True)
class Trial:
    """Which trial, attempt and seed this process belongs to."""

    directory: Path
    attempt: int
    seed: int
    """Index of the seed, 0 … seeds - 1, not the seed itself."""

    @classmethod
    def of(cls, handshake: Handshake) -> Trial | None:
        """None outside a trial."""
        if handshake.trial_dir is None:
            return None
        return cls(handshake.trial_dir, handshake.attempt, handshake.seed_index)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Trial | None:
        """None outside a trial; variables that are no numbers are `BadInput`."""
        return cls.of(Handshake.read(env))

    @property
    def seed_directory(self) -> Path:
        return self.directory / f"seed-{self.seed}"

    def verdict(self) -> str | None:
        """What the driver wants of this attempt and seed: `pruned`, `stopped`, …; `superseded`; None to go on."""
        job, verdict = self._read("job.json"), self._read("verdict.json")
        if max(whole(job.get("attempt")), whole(verdict.get("attempt"))) > self.attempt:
            return SUPERSEDED
        if verdict.get("attempt", self.attempt) != self.attempt or verdict.get("seed", self.seed) != self.seed:
            return None
        stop = verdict.get("stop")
        return str(stop) if stop else None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = read_json(self.directory / name)
        except OSError:  # a stale handle, a server that is away: as good as not written yet
            found = None
        return found if isinstance(found, dict) else {}


class Ranks(Protocol):
    """The ranks of a run, as far as a trial asks them; `Communicator` are such."""

    transport: str
    rank: int
    size: int

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Rank `root`'s `value` on every rank."""


def whole(value: Any) -> int:
    """`value` where it is a whole number, else 0: a file may be half somebody else's."""
    return value if isinstance(value, int) else 0


class Reporter:
    """Reports and verdicts of one run. Outside a trial (`trial` is None) both do nothing.

    The directory is read at most once in `interval` seconds, by rank 0 alone.
    """

    interval = 1.0

    def __init__(self, trial: Trial | None, communicator: Ranks, clock: Callable[[], float] = time.monotonic) -> None:
        self.trial = trial
        self.communicator = communicator
        self.verdict: str | None = None
        """Why `should_stop` said so, the same on all ranks: `pruned`, `stopped`, …, `superseded`."""
        self.last_value: float | None = None
        self.last_env_steps: int | None = None
        self._clock = clock
        self._next_look = clock()
        self._seen: str | None = None

    @classmethod
    def from_environment(cls, communicator: Ranks, env: Mapping[str, str] | None = None) -> Reporter:
        return cls(Trial.from_environment(os.environ if env is None else env), communicator)

    def report(self, step: int, value: float, env_steps: int | None = None) -> None:
        """Evaluation number `step` (1, 2, …) has given `value`; called by any ranks, rank 0's counts.

        A step that is reported twice counts once; a value that is not finite is written as null.
        """
        if self.trial is None or self.communicator.rank != 0:
            return
        self.last_value, self.last_env_steps = float(value), None if env_steps is None else int(env_steps)
        line = {
            "step": int(step),
            "value": self.last_value,
            "env_steps": self.last_env_steps,
            "attempt": self.trial.attempt,
            "seed": self.trial.seed,
        }
        append_json_line(self.trial.directory / "reports.jsonl", line)

    def poll(self) -> str | None:
        """Rank 0's own view of the verdict, None on the others. No collective: who acts on it agrees on it first."""
        if self.trial is None or self.communicator.rank != 0:
            return None
        now = self._clock()
        if self._seen is None and now >= self._next_look:
            self._next_look = now + self.interval
            self._seen = self.trial.verdict()
        return self._seen

    def should_stop(self) -> bool:
        """Whether the driver wants this run to stop; once True it stays True.

        A collective: every rank calls it at the same place, and all of them get the same answer.
        """
        if self.trial is None or self.verdict is not None:
            return self.verdict is not None
        seen = self.poll()
        if self.communicator.size == 1:
            self.verdict = seen
        elif self.communicator.transport == "mpi":  # as quick as a tensor, and a script without torch need not load it
            self.verdict = self.communicator.broadcast_object(seen)
        elif self._one_says_so(seen is not None):  # one small collective in the common case, the reason at the end
            self.verdict = self.communicator.broadcast_object(seen)
        return self.verdict is not None

    def _one_says_so(self, mine: bool) -> bool:
        """Rank 0's answer, on all ranks."""
        import torch  # here: a script that only reports must not wait for it

        ranks: Any = self.communicator  # by Horovod or torch, which carry tensors
        return bool(ranks.broadcast_(torch.tensor([mine], dtype=torch.int32)).item())

    def superseded(self) -> bool:
        """Rank 0, now: whether a newer attempt runs, so that writing a result would overwrite that one's."""
        return self.trial is not None and self.trial.verdict() == SUPERSEDED
