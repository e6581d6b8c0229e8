"""The checkpoints that a run makes, and how another attempt resumes from one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.algorithms import Algorithm
from harness.distributed.sync.base import Synchronizer
from harness.distributed.transports.base import Communicator
from harness.envs import Environments, Share
from harness.errors import BadInput
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.checkpoints.checkpoint import Checkpoint
from harness.lifecycle.checkpoints.rng_state import load_generators
from harness.lifecycle.checkpoints.saver import Saver, Snapshot
from harness.lifecycle.checkpoints.shards import share_from
from harness.schema import RunConfig

SYNCHRONIZER, REPLICA = "synchronizer", "replica"
"""Of a checkpoint: what the synchronizer keeps, equal on all ranks and by rank; and an algorithm's `replica_state`."""
MUCH = 50 * 2**20
"""Bytes of a rank's environments in each checkpoint from which on they are told."""
ITEM_BYTES = 16
"""What a plain value takes, about."""


def bytes_in(value: Any) -> int:
    """Of a state, about."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, dict):
        return sum(bytes_in(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(bytes_in(item) for item in value)
    return ITEM_BYTES


class Checkpointer:
    """Its methods are collective, but for `agenda` and `close`."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        algorithm: Algorithm,
        environments: Environments | None,
        communicator: Communicator,
        synchronizer: Synchronizer,
        say: Callable[[str], None],
        settle_files: Callable[[], None],
    ) -> None:
        """`config`: with all that was decided. `directory`: that of the checkpoints. `say` tells the user a line;
        `settle_files` is the saver's."""
        self.config, self.algorithm, self.environments = config, algorithm, environments
        self.communicator, self.synchronizer, self.say = communicator, synchronizer, say
        share = environments.share if environments is not None else Share(0, 0, 0)
        places = share.first, share.count, share.total
        self.saver = Saver(directory, communicator, places, config.checkpoint.keep, settle_files)
        if blind := ", ".join(str(rank) for rank in range(communicator.size) if rank not in self.saver.writers):
            say(f"rank {blind} does not see {directory}: checkpoints lack its part, and no run resumes from them there")
        self.table = config.to_table()
        self.due = self.best = self.busy = False
        """Whether a save is due, whether it is of the best policy so far, and whether any rank still writes the one
        before."""
        self.iteration: int | None = None
        """That of the newest checkpoint of this run."""
        self.saved_at = time.monotonic()
        self.unsaved: str | None = None
        """Why the newest save did not come about, if so: whoever heard of it first, the run's end tells it too."""

    # -- while the run goes on -----------------------------------------------------------------------------------------

    def agenda(self) -> dict[str, float]:
        """What this rank has to say when all agree, by their largest: rank 0's clock, a save that goes on or failed."""
        late = time.monotonic() - self.saved_at > 60 * self.config.checkpoint.every_minutes
        clock, trouble = self.communicator.rank == 0 and late, self.saver.trouble is not None
        return {"save": float(clock), "busy": float(self.saver.busy), "trouble": float(trouble)}

    def on_agreement(self, agreed: dict[str, float]) -> None:
        """What all ranks have said."""
        self.due, self.busy = self.due or bool(agreed["save"]), bool(agreed["busy"])
        if agreed["trouble"]:
            self.settle()

    @property
    def ready(self) -> bool:
        """Whether to save at this boundary: training does not wait for the disk, but where the best policy would not be
        kept as it was evaluated."""
        return self.due and (self.best or not self.busy)

    def save(self, iteration: int, env_steps: int, progress: dict[str, Any]) -> None:
        """A checkpoint of this boundary, unless there is one: copied now, written while training goes on."""
        self.due = self.best = False
        if self.iteration == iteration:
            return
        self.unsaved = None
        own = self.algorithm.local_state()
        with self.synchronizer.settled() as of_rank:
            state = {**self.algorithm.state(), SYNCHRONIZER: self.synchronizer.state()}
            rings, rank = self.algorithm.rings(), {SYNCHRONIZER: of_rank}
            if not self.synchronizer.replicas_equal:
                rank[REPLICA] = self.algorithm.replica_state()
            problem = self.saver.save(Snapshot(env_steps, state, progress, self.table, own, rings, rank))
        self._report(problem)
        if self.iteration is None and own and own["environments"]["vector"] is None and self.config.env is not None:
            what = self.config.env.id
            self.say(f"checkpoints do not hold the state of {what}: a resumed run begins new episodes")
        elif self.iteration is None and own and self.config.env is not None:
            size = bytes_in(own["environments"]["vector"])
            if size >= MUCH:
                count = f"{self.environments.share.count}" if self.environments is not None else "its"
                self.say(
                    f"the state of {count} environments of {self.config.env.id} on a rank takes {size >> 20} MB in "
                    "each checkpoint: all that they hold and a reset does not leave as it was; where they offer "
                    "get_state() and set_state(state), it is what these say"
                )
        self.iteration, self.saved_at = iteration, time.monotonic()

    def settle(self) -> str | None:
        """Waits for the save in flight; tells why it did not come about, if so; returns why the newest did not."""
        problem = self.saver.settle()
        if problem is not None:
            self.iteration = -1  # that boundary may be saved again
            self.unsaved = problem
        self._report(problem)
        return self.unsaved

    def _report(self, problem: str | None) -> None:
        if problem is not None:
            self.say(problem)
        while self.saver.notices:
            self.say(self.saver.notices.pop(0))

    def close(self) -> None:
        self.saver.close()

    # -- when it resumes from a checkpoint -----------------------------------------------------------------------------

    def restore(self, directory: Path, state_alone: bool = False) -> dict[str, Any]:
        """Loads a checkpoint that rank 0 has found whole, or of which it has found `state.pt` whole; returns its
        progress. Tells what could not carry over.

        The ranks may be others than those that wrote it: each takes over what there is of the environments that are
        now its own.
        """
        found = checkpoint.load(directory, verified=True)
        if found is None:
            raise BadInput(f"{directory}: no whole checkpoint there, as this rank sees it")
        if state_alone:
            found = replace(found, parts=[])
        self.algorithm.load_state(found.state)
        self.synchronizer.load_state(found.state.get(SYNCHRONIZER, {}))
        self.say(f"resumed from {directory}: {found.progress['env_steps']:,} steps done")
        communicator = self.communicator
        if self.environments is not None:
            self._redistribute(found, self.environments.share)
        own = next((part for part in found.parts if part.rank == communicator.rank), None)
        of_rank: dict[str, Any] = {}
        if found.ranks != communicator.size:
            self.say(
                f"{found.ranks} ranks wrote the checkpoint and {communicator.size} go on: the process-wide generators "
                "of Python, numpy and torch are re-seeded"
            )
        elif own is not None:
            of_rank = found.part(own)[1]
            load_generators(of_rank["generators"])
        self._load_rank_state(of_rank)
        ours = self.communicator.broadcast_object(found.directory.parent == self.saver.directory)
        if ours and not state_alone and found.progress.get("pending") is None:
            self.iteration = found.progress["iteration"]
        return found.progress

    def _load_rank_state(self, of_rank: dict[str, Any]) -> None:
        """What the ranks keep of their own is had by all or by none: schedules are part of it."""
        missing = self.communicator.agree({"missing": float(SYNCHRONIZER not in of_rank)})["missing"]
        lost = self.synchronizer.load_rank_state(None if missing else of_rank[SYNCHRONIZER])
        if not missing and REPLICA in of_rank:
            self.algorithm.load_replica_state(of_rank[REPLICA])
        if lost := next(filter(None, self.communicator.gather_objects(lost)), None):
            self.say(lost)

    def _redistribute(self, found: Checkpoint, share: Share) -> None:
        """Goes on with this rank's environments, and with what is remembered of them, where the checkpoint holds these
        for all ranks."""
        last = share.first + share.count
        parts = [part for part in found.parts if part.first < last and part.first + part.count > share.first]
        own = share_from([found.part(part)[0] for part in parts], share.first, share.count, share.total)
        goes_on, rings = 0, self.algorithm.rings()
        if self.communicator.agree({"missing": float(own is None)})["missing"]:
            self.say("the parts of some ranks are not in the checkpoint" + (": the replay is empty" if rings else ""))
        else:
            assert own is not None
            segments = [segment for part in parts for segment in part.segments]
            self.saver.segments.load(found.directory.parent, segments, rings)
            goes_on = int(self.algorithm.load_local_state(own).sum())
        begun = share.total - self.communicator.agree({"goes_on": float(goes_on)})["goes_on"]
        if begun:
            count = f"{begun:.0f} of {share.total} environments"
            self.say(f"{count} begin a new episode: the checkpoint does not hold their state")
