"""Signs of life: every rank writes a small file once a second, and the parent tells from them who hangs, and where.

A thread of the rank writes it, so that a long iteration, evaluation or compilation is no silence; a process that is
stopped, or a host that is lost, is. That the training thread itself goes on is a count beside it, with a limit of its
own (`run.hang_seconds`). The parent goes by its own clock and by what changes, never by the hosts' clocks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil

from harness.files import append_json_line, read_json
from harness.lifecycle.run_directory import take_failures

BEAT_SECONDS = 1.0
SILENT_SECONDS = 10.0
"""Without a sign of life a rank is looked for on its host; where it is stopped, gone or out of reach, the run ends."""
START_SECONDS = 600.0
"""What ranks have at least until all of them give one: to import on a slow file system takes minutes."""
SILENT_AMONG_RANKS = 30.0
"""The same where ranks look after each other: they cannot ask another host."""
LONGEST_LOOK = 2.0
"""Seconds that one look counts for at most: the time that the watcher itself was stopped is nobody's silence."""
BYTES = 1024
"""Of the file, always written over in place: on a full disk too."""
WAITING_IN = tuple(f"{os.sep}distributed{os.sep}{name}.py" for name in ("collectives", "shared_memory", "overlap"))


@dataclass(frozen=True)
class Beat:
    """What a rank's file holds."""

    rank: int
    host: str
    pid: int
    number: int
    """Of this sign of life."""
    progress: int
    """What its training thread has counted; the same twice is no progress."""
    waits: bool
    """Whether that thread is inside a collective, which another rank may keep waiting."""
    where: str
    """Where that thread is: `step (environment.py:55)`."""
    time: float
    """Of the rank's own clock, for people to read."""


class Counts(Protocol):
    starts: int


class Heartbeat:
    """While it is open, this process writes `heartbeats/rank-N.json` once a second; a good end takes the file away.

    Progress is what the thread that made it counts, in the `starts` of what it gives to `watch`. Each of `each_time` is
    called as often; they must not raise.
    """

    def __init__(self, run_dir: Path, rank: int, host: str, *each_time: Callable[[], None]) -> None:
        self.path = run_dir / "heartbeats" / f"rank-{rank}.json"
        self.rank, self.host, self.each_time = rank, host, each_time
        self.counts: Counts | None = None
        self.watched = threading.get_ident()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        if kind is None:
            self.path.unlink(missing_ok=True)

    def watch(self, counts: Counts) -> None:
        self.counts = counts

    def _beat(self) -> None:
        number = 0
        while True:
            number += 1
            frame = sys._current_frames().get(self.watched)
            waits, where = is_waiting(frame), shown(frame)
            progress = 0 if self.counts is None else self.counts.starts
            beat = Beat(self.rank, self.host, os.getpid(), number, progress, waits, where, time.time())
            try:
                write_over(self.path, json.dumps(asdict(beat)))
            except OSError:
                pass  # a directory that cannot be written to: the watcher tries that itself, and then does not judge
            for call in self.each_time:
                call()
            if self.ended.wait(BEAT_SECONDS):
                return


def write_over(path: Path, text: str) -> None:
    """Opens anew each time, as readers do: then NFS shows it to them."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, text[: BYTES - 1].ljust(BYTES - 1).encode() + b"\n", 0)
    finally:
        os.close(descriptor)


def is_waiting(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith(WAITING_IN):
            return True
        frame = frame.f_back
    return False


def shown(frame: FrameType | None) -> str:
    if frame is None:
        return "nowhere"
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"[:200]


def read_beats(run_dir: Path) -> dict[int, Beat]:
    """The last sign of life of each rank that has given one."""
    found = {}
    for path in (run_dir / "heartbeats").glob("rank-*.json"):
        beat = read_json(path)
        if isinstance(beat, dict) and set(beat) == set(Beat.__dataclass_fields__):
            found[int(beat["rank"])] = Beat(**beat)
    return found


def forget_beats(run_dir: Path) -> None:
    """Takes away what an earlier attempt left."""
    for path in (run_dir / "heartbeats").glob("*.json"):
        path.unlink(missing_ok=True)


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


def end_without_result(run_dir: Path) -> str | None:
    """How the attempt before this one ended, where nobody was left to write a result: what a rank recorded, or else
    when each gave its last sign of life. None where there was none, or it did write one."""
    if (run_dir / "result.json").exists():
        return None
    for path in sorted(run_dir.glob("failure.rank-*.json")):
        record = read_json(path)
        if isinstance(record, dict):
            return f"rank {record['rank']} on {record['host']} failed: {record['reason']}"
    beats = sorted(read_beats(run_dir).values(), key=lambda beat: (beat.time, beat.rank))
    signs = [
        f"rank {beat.rank} on {beat.host} at {time.strftime('%H:%M:%S', time.localtime(beat.time))} in {beat.where}"
        for beat in beats
    ]
    return f"its ranks were killed, or their hosts lost; last signs of life: {', '.join(signs)}" if signs else None


def tell_end(run_dir: Path) -> None:
    """Tells it, and keeps it in `attempts.jsonl`; before this attempt writes anything. What it is told from is taken
    away: it is told once, and is no later attempt's."""
    ended = end_without_result(run_dir)
    if ended is not None:
        print(f"the attempt before ended without a result: {ended}", file=sys.stderr, flush=True)
        with suppress(OSError):
            append_json_line(
                run_dir / "attempts.jsonl", {"ended": ended, "noticed": time.strftime("%Y-%m-%d %H:%M:%S")}
            )
    take_failures(run_dir)
    forget_beats(run_dir)
