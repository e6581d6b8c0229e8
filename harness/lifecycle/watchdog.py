"""Who hangs: read from the signs of life of all ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.lifecycle.heartbeat import BEAT_SECONDS, Beat, read_beats, write_over

SILENT_SECONDS = 10.0
"""Without a sign of life a rank is looked for on its host; where it is stopped, gone or out of reach, the run ends."""

START_SECONDS = 600.0
"""What ranks have at least until all of them give one: to import on a slow file system takes minutes."""

SILENT_AMONG_RANKS = 30.0
"""The same where ranks look after each other: they cannot ask another host."""

LONGEST_LOOK = 2.0
"""Seconds that one look counts for at most: the time that the watcher itself was stopped is nobody's silence."""


@dataclass(frozen=True)
class Hang:
    """A rank that has to be given up, and why in words that follow "rank N on HOST"."""

    rank: int
    host: str
    cause: str


class Watch:
    """Looks at the ranks' signs of life; `look` may be called as often as one likes.

    `state_of(beat)` finds a rank's process on its host: `running`, `stopped`, `gone`, `unknown`, or in other words why
    its host does not say. `hosts`: by rank, where those run of which signs of life are awaited. A rank whose host does
    not share the directory never gives one, which is no harm while another goes on. `name`: of the one who looks.
    """

    def __init__(
        self,
        run_dir: Path,
        hang_seconds: float,
        state_of: Callable[[Beat], str],
        hosts: Sequence[str] = (),
        silent_seconds: float = SILENT_SECONDS,
        name: str = "parent",
    ) -> None:
        self.silent_seconds, self.name = silent_seconds, name
        self.run_dir, self.hang_seconds, self.state_of, self.hosts = run_dir, hang_seconds, state_of, hosts
        self.beats: dict[int, Beat] = {}
        self.unseen = 0.0
        """Seconds without a sign of life of any rank."""
        self.silent: dict[int, float] = {}
        self.stuck: dict[int, float] = {}
        self.looked = time.monotonic()

    def look(self) -> Hang | None:
        now = time.monotonic()
        if now - self.looked < BEAT_SECONDS:
            return None
        passed, self.looked = min(now - self.looked, LONGEST_LOOK), now
        if not self._can_write():  # nor can the ranks, perhaps
            return None
        known, self.beats = self.beats, read_beats(self.run_dir)
        for rank, beat in self.beats.items():
            before = known.get(rank)
            if before is None or beat.pid != before.pid:
                self.silent[rank] = self.stuck[rank] = 0.0
            else:
                self.silent[rank] = self.silent[rank] + passed if beat.number == before.number else 0.0
                self.stuck[rank] = self.stuck[rank] + passed if beat.progress == before.progress else 0.0
        self.unseen = 0.0 if self.beats else self.unseen + passed
        return self._silent_one() or self._stuck_one()

    def _can_write(self) -> bool:
        try:
            (self.run_dir / "heartbeats").mkdir(exist_ok=True)
            write_over(self.run_dir / "heartbeats" / f"{self.name}.json", "{}")
            return True
        except OSError:
            return False

    def _silent_one(self) -> Hang | None:
        silence = f"no sign of life for {self.silent_seconds:g} s"
        for rank, beat in sorted(self.beats.items()):
            if self.silent[rank] < self.silent_seconds:
                continue
            state = self.state_of(beat)
            if state == "unknown":  # it is given up only where nobody makes progress
                continue
            if state == "running":  # inside something that keeps all of Python waiting
                self.silent[rank] = 0.0
                continue
            causes = {"stopped": f"was stopped by SIGSTOP: {silence}", "gone": f"is gone: {silence}"}
            return Hang(rank, beat.host, causes.get(state, f"gave {silence}, and its host does not answer: {state}"))
        return None

    def _stuck_one(self) -> Hang | None:
        """The rank that keeps the others waiting, once none of them has gone on for long."""
        missing = [rank for rank in range(len(self.hosts)) if rank not in self.beats]
        limit = max(self.hang_seconds, START_SECONDS) if missing else self.hang_seconds
        if min((self.stuck[rank] for rank in self.beats), default=self.unseen if missing else 0.0) < limit:
            return None
        busy = [beat for beat in self.beats.values() if not beat.waits]
        if missing and not busy:
            cause = f"hangs: no sign of life, and no progress of the others for {limit:g} s"
            return Hang(missing[0], self.hosts[missing[0]], cause)
        silent = [beat for beat in self.beats.values() if self.silent[beat.rank] >= limit]
        first = min(silent or busy or list(self.beats.values()), key=lambda beat: (beat.progress, beat.rank))
        return Hang(first.rank, first.host, f"hangs: no progress for {limit:g} s, in {first.where}")


class RanksWatch:
    """Where no parent watches: rank 0 looks after the others, and rank 1 after rank 0.

    Nobody is judged before all have given signs of life: ranks whose hosts do not share the directory are not watched.
    `look` must be called as a heartbeat's `each_time`; `give_up` is then called once, and does not return.
    """

    def __init__(
        self, run_dir: Path, rank: int, size: int, host: str, hang_seconds: float, give_up: Callable[[Hang], None]
    ) -> None:
        self.rank, self.size, self.host, self.give_up = rank, size, host, give_up
        silent = min(SILENT_AMONG_RANKS, hang_seconds)
        self.watch = Watch(run_dir, hang_seconds, self._state_of, (), silent, f"watch-{rank}")

    def look(self) -> None:
        with suppress(OSError):
            hang = self.watch.look()
            if hang is not None and len(self.watch.beats) == self.size and (self.rank == 0 or hang.rank == 0):
                self.give_up(hang)

    def _state_of(self, beat: Beat) -> str:
        if beat.host != self.host:
            return "unknown"
        try:
            status = psutil.Process(beat.pid).status()
        except psutil.Error:
            return "gone"
        return {psutil.STATUS_STOPPED: "stopped", psutil.STATUS_ZOMBIE: "gone"}.get(status, "running")
