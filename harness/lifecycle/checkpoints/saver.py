"""Saving while training goes on: each rank copies what it has, and a thread of it writes the copy.

Rank 0's thread writes what is equal on all ranks, waits for the parts of the others, and writes the manifest last. No
thread takes part in a collective: how the last save went is agreed on before the next one begins, and at the end.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.buffers.ring import Ring
from harness.distributed.transports.base import Communicator
from harness.files import names_in, read_json, sync_directory, write_json, write_text
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.checkpoints.checksums import CheckSum
from harness.lifecycle.checkpoints.manifest import RankPart
from harness.lifecycle.checkpoints.rng_state import generators_state
from harness.lifecycle.checkpoints.segments import Piece, Segments, delete_unnamed
from harness.lifecycle.checkpoints.serialization import as_tensors, write_tensors

PATIENCE = 120.0
"""Seconds that rank 0 waits for the parts of the others once its own is written."""
POLL_SECONDS = 0.02
CLOSE_SECONDS = 2.0
"""What a save has that is in flight when a rank cannot go on."""


@dataclass(frozen=True)
class Snapshot:
    """What a run is at a boundary; equal on all ranks but for `own`, `rings` and `rank`."""

    env_steps: int
    state: dict[str, Any]
    progress: dict[str, Any]
    """As the run counts; `last`, the mean of the last evaluation, says which checkpoint is the best."""
    config: dict[str, Any]
    own: dict[str, Any]
    """Of this rank's environments."""
    rings: dict[str, Ring]
    rank: dict[str, Any] = field(default_factory=dict)
    """Of this rank alone, beside its generators: only as many ranks can resume from it."""


@dataclass(frozen=True)
class Copy:
    """What the thread writes."""

    number: int
    env_steps: int
    state: dict[str, Any] | None
    """On rank 0."""
    manifest: dict[str, Any]
    part: dict[str, Any]
    piece: Piece


class Saver:
    """At most one save is in flight. Its methods are collective, but for `trouble` and `busy`."""

    def __init__(
        self,
        directory: Path,
        communicator: Communicator,
        share: tuple[int, int, int],
        keep: int = 2,
        settle_files: Callable[[], None] = lambda: None,
    ) -> None:
        """`share`: this rank's environments: the first, how many, of how many. `settle_files`: on rank 0 before each
        manifest is written, from the thread: brings to the disk what must not be older than the checkpoint."""
        self.directory = directory = directory.resolve()  # as checkpoint.load tells a checkpoint's
        self.communicator, self.share, self.keep = communicator, share, keep
        self.settle_files = settle_files
        self.rank = communicator.rank
        self.token: str = communicator.broadcast_object(uuid.uuid4().hex[:12])
        self.writers = self._ranks_that_see_the_directory()
        self.segments = Segments(directory, self.rank, share[0], self.token)
        self.number = 0
        self.env_steps = 0
        """Of the save that is in flight, or was."""
        self.thread: threading.Thread | None = None
        self.given_up = threading.Event()
        self.trouble: str | None = None
        """Why this rank could not write the last save."""
        self.notices: list[str] = []
        """On rank 0: what went wrong beside saves that came about, for the user."""

    def _ranks_that_see_the_directory(self) -> list[int]:
        """Those whose parts can be kept: of ranks on hosts that do not share the file system they cannot."""
        probe, wrote = self.directory / f".{self.token}", True
        if self.rank == 0:
            try:
                write_text(probe, "")
                sync_directory(self.directory.parent)  # it may be new
                checkpoint.mark_latest(self.directory)  # an attempt may have died before it could
                checkpoint.mark_best(self.directory)
            except OSError:
                wrote = False
        if not self.communicator.broadcast_object(wrote):  # told when a checkpoint cannot be written
            return list(range(self.communicator.size))
        seen = self.communicator.gather_objects(self.rank == 0 or probe.exists())
        if self.rank == 0:
            probe.unlink(missing_ok=True)
        return [rank for rank, sees in enumerate(seen) if sees]

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def save(self, snapshot: Snapshot) -> str | None:
        """Copies it, and lets a thread write the copy; returns why the save before did not come about, if so."""
        problem = self.settle()
        self.number += 1
        self.env_steps = snapshot.env_steps
        first, count, total = self.share
        manifest = {"progress": snapshot.progress, "config": snapshot.config, "ranks": self.communicator.size}
        copy = Copy(
            self.number,
            snapshot.env_steps,
            as_tensors(snapshot.state) if self.rank == 0 else None,
            manifest,
            as_tensors({"own": snapshot.own, "rank": {"generators": generators_state(), **snapshot.rank}}),
            self.segments.cut(snapshot.rings),
        )
        self.thread = threading.Thread(target=self._write, args=(copy,), name="checkpoint", daemon=True)
        self.thread.start()
        return problem

    def settle(self) -> str | None:
        """Waits for the save in flight; returns, on all ranks alike, why it did not come about, or None."""
        if self.number == 0:
            return None
        if self.thread is not None and self.rank != 0:
            self.thread.join()
        if self.communicator.agree({"trouble": float(self.trouble is not None)}, "max")["trouble"]:
            self.give_up()
        if self.thread is not None:
            self.thread.join()
        if self.rank == 0 and self.trouble is not None:
            with suppress(OSError):
                checkpoint.delete_asides(self.directory)
        problems = self.communicator.gather_objects(self.trouble) if self.communicator.size > 1 else [self.trouble]
        problem = next((f"rank {rank}: {why}" for rank, why in enumerate(problems) if why and rank), problems[0])
        self.thread, self.trouble = None, None
        self.given_up.clear()
        return None if problem is None else f"no checkpoint of {self.env_steps:,} steps: {problem}"

    def give_up(self) -> None:
        """Another rank could not write its part: rank 0 need not wait for it."""
        self.given_up.set()

    def close(self) -> None:
        """Ends the save in flight, whatever becomes of the other ranks; not collective."""
        if self.thread is not None:
            self.thread.join(CLOSE_SECONDS)
            self.give_up()
            self.thread.join(CLOSE_SECONDS)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _write(self, copy: Copy) -> None:
        aside = checkpoint.aside_of(self.directory, copy.env_steps, f"{self.token}.{copy.number}")
        try:
            if self.rank in self.writers:
                self._write_part(copy, aside)
            if self.rank == 0:
                self._write_rest(copy, aside)
        except Exception as error:  # the thread is not the run: what went wrong is told, and the run goes on
            self.trouble = reason_of(error)
            if self.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)

    def _write_part(self, copy: Copy, aside: Path) -> None:
        aside.mkdir(parents=True, exist_ok=True)
        part = RankPart(self.rank, *self.share, self.segments.write(copy.piece, copy.number))
        written = write_tensors(aside / part.file, copy.part)
        write_json(aside / f"rank-{self.rank}.json", {**part.as_json(), **written.as_json()})

    def _write_rest(self, copy: Copy, aside: Path) -> None:
        written = {checkpoint.STATE: write_tensors(aside / checkpoint.STATE, copy.state)}
        parts = []
        deadline = time.monotonic() + PATIENCE
        for rank in self.writers:
            name = f"rank-{rank}.json"
            while name not in names_in(aside) or not isinstance(found := read_json(aside / name), dict):
                if self.given_up.wait(POLL_SECONDS):
                    raise OSError(0, "another rank could not write its part")
                if time.monotonic() > deadline:
                    raise OSError(0, f"the part of rank {rank} did not come within {PATIENCE:.0f} s")
            part = RankPart.from_json(found)
            parts.append(part.as_json())
            written[part.file] = CheckSum.from_json(found)
            (aside / name).unlink()
        self.settle_files()
        manifest = {**copy.manifest, "parts": parts}
        checkpoint.put_in_place(self.directory, copy.env_steps, aside, written, manifest)
        for tidy in (
            lambda: checkpoint.mark_latest(self.directory),
            lambda: checkpoint.mark_best(self.directory),
            lambda: checkpoint.keep_newest(self.directory, self.keep),
            lambda: delete_unnamed(self.directory, checkpoint.named_segments(self.directory)),
        ):
            try:
                tidy()
            except OSError as error:
                kept = f"the checkpoint of {copy.env_steps:,} steps is kept, but not all around it is in order"
                self.notices.append(f"{kept} before the next: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
