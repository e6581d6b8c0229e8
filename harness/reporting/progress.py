"""How far a run is: drawn live on a terminal, plain lines elsewhere, a small file where a parent process draws it."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from harness.cluster.place import Place
from harness.files import read_json, write_json
from harness.reporting.status import Status, status_line

Clock = Callable[[], float]


class Progress:
    """What a run tells of itself. This one tells nothing: that of the ranks other than 0."""

    def say(self, line: str) -> None:
        """A line that stays, such as the first one, which tells the ranks and their path."""

    def update(self, status: Status) -> None:
        """The latest status. Called as often as is handy: each display shows what it has time for."""

    def close(self) -> None:
        """Shows the last status and gives the terminal back."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PlainProgress(Progress):
    """Lines for logs: one every `every` seconds and one for each evaluation, at most one a second, and the last."""

    at_least_apart = 1.0

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic, every: float = 10.0) -> None:
        self.every = every
        self._stream = stream
        self._clock = clock
        self._shown: Status | None = None
        self._shown_at = clock()
        self._waiting: Status | None = None

    def say(self, line: str) -> None:
        print(line, file=self._stream or sys.stdout, flush=True)

    def update(self, status: Status) -> None:
        self._waiting = status
        waited = self._clock() - self._shown_at
        evaluated = status.eval_mean != (self._shown.eval_mean if self._shown is not None else None)
        if waited >= (self.at_least_apart if evaluated else self.every):
            self._show()

    def close(self) -> None:
        if self._waiting is not None:
            self._show()

    def _show(self) -> None:
        assert self._waiting is not None
        self.say(status_line(self._waiting))
        self._shown, self._shown_at, self._waiting = self._waiting, self._clock(), None


class LiveProgress(Progress):
    """A small picture that stays in its place on a terminal: steps, speed, returns, time left, time per phase."""

    at_least_apart = 0.25

    def __init__(self, title: str, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._clock = clock
        self._drawn_at = -self.at_least_apart
        self._status: Status | None = None
        # no thread of its own: it would take the interpreter from the training loop
        self._live = Live(console=Console(file=stream), auto_refresh=False)
        self._live.start()

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False)

    def update(self, status: Status) -> None:
        self._status = status
        if self._clock() - self._drawn_at >= self.at_least_apart:
            self._draw()

    def close(self) -> None:
        if self._status is not None:
            self._draw()
        self._live.stop()

    def _draw(self) -> None:
        from harness.reporting.picture import picture

        assert self._status is not None
        self._live.update(picture(self._title, self._status), refresh=True)
        self._drawn_at = self._clock()


class FileProgress(Progress):
    """`progress.json` in the run directory, at most once a second: rank 0 writes it, the parent draws it."""

    at_least_apart = 1.0

    def __init__(self, run_dir: Path, clock: Clock = time.monotonic) -> None:
        self._path = Path(run_dir) / "progress.json"
        self._clock = clock
        self._written_at = -self.at_least_apart
        self._said: list[str] = []
        self._status: Status | None = None
        self._is_written = True

    def say(self, line: str) -> None:
        self._said.append(line)
        self._write()

    def update(self, status: Status) -> None:
        self._status, self._is_written = status, False
        if self._clock() - self._written_at >= self.at_least_apart:
            self._write()

    def close(self) -> None:
        if not self._is_written:
            self._write()

    def _write(self) -> None:
        # Nobody needs this file after a crash: that it is synced is for nothing, and once a second it does not show.
        status = None if self._status is None else dataclasses.asdict(self._status)
        with suppress(OSError):  # a full disk costs the picture, not the run
            write_json(self._path, {"said": self._said, "status": status})
        self._written_at, self._is_written = self._clock(), True


class Several(Progress):
    """The same to each of `members`."""

    def __init__(self, *members: Progress) -> None:
        self._members = members

    def say(self, line: str) -> None:
        for member in self._members:
            member.say(line)

    def update(self, status: Status) -> None:
        for member in self._members:
            member.update(status)

    def close(self) -> None:
        for member in self._members:
            member.close()


def read_progress(run_dir: Path) -> tuple[Status | None, list[str]]:
    """The latest status that rank 0 wrote into `progress.json`, and the lines it said; nothing before the first."""
    found = read_json(Path(run_dir) / "progress.json")
    if not isinstance(found, dict):
        return None, []
    return Status(**found["status"]) if found["status"] is not None else None, list(found["said"])


def open_display(title: str, stream: TextIO | None = None, every: float = 10.0) -> Progress:
    """For the process that the user started: live where `stream` is a terminal that can be drawn on, else lines."""
    from rich.console import Console

    console = Console(file=stream)
    terminal = console.file.isatty() and not console.is_dumb_terminal
    return LiveProgress(title, stream) if terminal else PlainProgress(stream, every=every)


def open_progress(title: str, place: Place, run_dir: Path, has_parent: bool = False, every: float = 10.0) -> Progress:
    """What this rank tells.

    Only a process without a launcher draws: under mpirun a rank sees a terminal even where the output is a file. Where
    a parent (`--ranks N`) watches, rank 0 leaves it `progress.json`; its lines go to the job's output all the same.
    """
    if place.rank != 0:
        return Progress()
    if has_parent:
        return Several(FileProgress(run_dir), PlainProgress(every=every))
    return PlainProgress(every=every) if place.launcher != "none" else open_display(title, every=every)
