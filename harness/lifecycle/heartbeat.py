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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from harness.files import read_json

BEAT_SECONDS = 1.0
BYTES = 1024
"""Of the file, always written over in place: on a full disk too."""


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


class Waits(Protocol):
    def is_waiting(self) -> bool: ...


class Heartbeat:
    """While it is open, this process writes `heartbeats/rank-N.json` once a second; a good end takes the file away.

    Progress is what the thread that made it counts, in the `starts` of what it gives to `watch`. Each of `each_time` is
    called as often; they must not raise.
    """

    def __init__(
        self, run_dir: Path, rank: int, host: str, *each_time: Callable[[], None], group: Waits | None = None
    ) -> None:
        """`group`: what the ranks wait for each other in."""
        self.path = run_dir / "heartbeats" / f"rank-{rank}.json"
        self.rank, self.host, self.each_time, self.group = rank, host, each_time, group
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
            waits, where = self.group is not None and self.group.is_waiting(), shown(frame)
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


def clear_heartbeats(run_dir: Path) -> None:
    """Takes away what an earlier attempt left."""
    for path in (run_dir / "heartbeats").glob("*.json"):
        path.unlink(missing_ok=True)
