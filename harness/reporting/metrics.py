"""The series of a run: one JSON object a line in metrics.jsonl, and the same series for TensorBoard."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.files import PatientFile, plain, read_json_lines, write_text


class Board:
    """TensorBoard's event file, one event for a whole record.

    Events are written here and now, into a buffer: tensorboard's own writer hands each to a thread, which costs eight
    times as much as writing it, and `SummaryWriter.add_scalar` for each number five times that again. The imports stand
    here since they cost 0.1 s, which ranks that write nothing need not pay.
    """

    flush_seconds = 5.0
    """How long events may wait in memory."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        directory.mkdir(parents=True, exist_ok=True)
        now, unique = time.time(), uuid.uuid4().hex[:8]
        # TensorBoard reads files in the order of their names, in which those of one second come by chance
        earlier = [int(path.name.split(".")[3]) for path in directory.glob("events.out.tfevents.*")]
        second = max(int(now), *(each + 1 for each in earlier), 0)
        name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.{unique}"
        self._writer: Any = RecordWriter(PatientFile(directory / name))
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        self._writer.flush()
        self._flushed = time.monotonic()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def flush_where_due(self) -> None:
        if time.monotonic() - self._flushed > self.flush_seconds:
            self.sync()

    def start_again(self, after: int) -> None:
        """What an earlier attempt wrote of steps past `after` is not shown."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        session = SessionLog(status=SessionLog.START)
        self._write(self._event(wall_time=time.time(), step=after + 1, session_log=session))

    def sync(self) -> None:
        """Until what was written is in its file."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


class MetricsWriter:
    """Writes on rank 0; `NoMetrics` stands in for it on the others.

    Each record is one write of one line, so that a reader sees whole lines. A number that is not finite is null there,
    and as it is in TensorBoard. What a full disk does not take waits in memory for the next record, or for `sync`.
    """

    def __init__(
        self,
        run_dir: Path,
        tensorboard: bool = True,
        after_update: int | None = None,
        after_env_steps: int | None = None,
    ) -> None:
        """`after_update`: the run goes on after this one (0: it begins); later ones are cut off."""
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        if after_update is not None:
            cut_after(run_dir / "metrics.jsonl", after_update)
        self._lines = PatientFile(run_dir / "metrics.jsonl")
        self._late = False
        self._board = Board(run_dir / "tensorboard") if tensorboard else None
        if self._board is not None and after_update:
            self._board.start_again(after_update if after_env_steps is None else after_env_steps)

    def log(self, update: int, scalars: Mapping[str, float], env_steps: int | None = None) -> str | None:
        """One record: the number of the update, the environment steps up to it where there are any, and flat scalars.

        TensorBoard's steps are `env_steps`, or `update` without them. Returns why it cannot be written, the first time
        that it cannot.
        """
        steps = {} if env_steps is None else {"env_steps": env_steps}
        line = json.dumps(plain({"update": update, **steps, **scalars}), allow_nan=False) + "\n"
        self._lines.write(line.encode())
        if self._board is not None:
            self._board.log(update if env_steps is None else env_steps, scalars)
        was_late, self._late = self._late, False
        try:
            self._lines.flush()
            if self._board is not None:
                self._board.flush_where_due()
        except OSError as error:
            self._late = True
            return None if was_late else f"metrics wait in memory until they can be written: {error.strerror}"
        return None

    def sync(self) -> None:
        """Brings all records to the disk, so that a checkpoint is never ahead of them; OSError where it does not."""
        self._lines.sync()
        if self._board is not None:
            self._board.sync()

    def close(self) -> None:
        """Records that wait and still cannot be written are lost, as is any checkpoint that would follow them."""
        with suppress(OSError):
            self._lines.close()
        if self._board is not None:
            with suppress(OSError):
                self._board.close()


class NoMetrics:
    """Takes what `MetricsWriter` takes, and writes nothing."""

    def sync(self) -> None:
        pass

    def log(self, update: int, scalars: Mapping[str, float], env_steps: int | None = None) -> str | None:
        return None

    def close(self) -> None:
        pass


def cut_after(path: Path, update: int) -> None:
    """Leaves the lines of updates up to `update`, each of them whole."""
    records, _ = read_json_lines(path)
    if path.exists():
        kept = [record for record in records if record["update"] <= update]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def open_metrics(
    run_dir: Path,
    rank: int,
    tensorboard: bool = True,
    after_update: int | None = None,
    after_env_steps: int | None = None,
) -> MetricsWriter | NoMetrics:
    """The writer of this rank: rank 0 writes, the others do not."""
    return MetricsWriter(run_dir, tensorboard, after_update, after_env_steps) if rank == 0 else NoMetrics()
