"""One run, from its config to its result, on the ranks that this process was started with: what is refused before it
starts, its start, and how a rank that cannot go on leaves the others."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from harness.algorithms import algorithm_class
from harness.distributed.world import World
from harness.envs.inspection import close_spare
from harness.errors import StopAtStart
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.elastic import Membership, is_elastic, keep_going
from harness.lifecycle.failures import has_failures, take_failures, tell_end
from harness.lifecycle.heartbeat import Heartbeat, clear_heartbeats
from harness.lifecycle.lock import DirectoryLock
from harness.lifecycle.result import Result, versions
from harness.lifecycle.run_directory import refuse_unwritable, saves
from harness.lifecycle.signals import StopRequests
from harness.lifecycle.watchdog import RanksWatch
from harness.reporting import Reporter
from harness.run.checks import check, default_run_dir, finished, notices, with_decisions
from harness.run.crash import end_for, failure, is_about_ranks, is_watched, leave_alone
from harness.run.loop import Run
from harness.schema import RunConfig

SECONDS_SPENT = "HARNESS_SECONDS_SPENT"
"""The variable by which a parent that starts ranks again tells them how much of `run.max_minutes` is spent."""


def train(config: RunConfig, run_dir: Path | None = None, resume: str = "auto") -> Result:
    """Trains on the ranks that this process was started with; returns the same result on all of them.

    `resume`: `auto` goes on from the directory's last checkpoint, `never` begins anew, a path names a checkpoint.
    Raises BadInput before anything is written where the run cannot be started.
    """
    run_dir = Path(run_dir) if run_dir is not None else default_run_dir(config)
    if is_elastic(os.environ):
        return train_elastic(config, run_dir, resume)
    world = World()
    check(config, world.place.size, keeps=True)
    known: Result | None = None
    if world.place.rank == 0:
        known = finished(run_dir, config, resume)
        if known is None:
            refuse_unwritable(run_dir)
            tell_end(run_dir)  # here, while the other ranks still wait for this one
        if resume != "never":
            config = with_decisions(config, run_dir, world, resume)
    communicator = world.start(config.sync.path)
    known, config = communicator.broadcast_object((known, config))  # other hosts may not see the directory
    if known is not None:
        close_spare()
        world.stop()
        return known
    with StopRequests() as requests:
        result = attempt(config, run_dir, resume, world, requests, seconds_spent())
    world.stop()
    return result


def attempt(
    config: RunConfig,
    run_dir: Path,
    resume: str,
    world: World,
    requests: StopRequests,
    spent: float,
    membership: Membership | None = None,
) -> Result:
    """The run on the ranks that there are. A rank that cannot go on ends here, and leaves the others its reason."""
    lock = DirectoryLock(run_dir)
    run: Run | None = None
    try:
        algorithm_class(config.algorithm.name).check_ranks(config, world.communicator)
        if world.place.rank == 0:
            lock.acquire()
        place = world.place
        look_around = [requests.look_for_launcher]
        if place.rank < 2 <= place.size and membership is None and not is_watched(os.environ):
            own = place.rank, place.size, place.host, config.run.hang_seconds
            look_around.append(RanksWatch(run_dir, *own, partial(end_for, run_dir)).look)
        limit, began = config.run.max_minutes, time.monotonic() - spent
        if limit is not None and place.rank == 0:
            look_around.append(partial(abort_late_start, requests, began + 60 * limit))
        with Heartbeat(run_dir, place.rank, place.host, *look_around, group=world.communicator) as heartbeat:
            requests.starting = membership is None  # to Horovod's elastic driver that would be a rank that was lost
            run = Run(config, run_dir, world, world.communicator, requests, spent, membership)
            run.notices += [lock.notice] if lock.notice is not None else []
            run.notices += notices(config)
            heartbeat.watch(run.phases)
            result = run.go(resume)
            world.communicator.barrier()  # nobody leaves before rank 0 has written all
            return result
    except StopAtStart as stop:
        requests.starting = False
        if world.place.size > 1 and has_failures(run_dir):  # no request: the launcher ends the ranks that are left
            world.abort(1)
        result = stopped_before_training(config, run_dir, resume, world, str(stop))
        if world.place.size > 1:  # the others may be anywhere, and not all of them need have been asked
            world.abort(result.exit_code)
        return result
    except BaseException as error:
        if membership is None or not is_about_ranks(error):
            leave_alone(world, config, run_dir, run, error)
        raise  # a rank that is alone tells it itself
    finally:
        requests.starting = False
        lock.release()
        close_spare()


def abort_late_start(requests: StopRequests, deadline: float) -> None:
    if requests.starting and time.monotonic() > deadline:
        requests.end_start("run.max_minutes is over")


def stopped_before_training(config: RunConfig, run_dir: Path, resume: str, world: World, reason: str) -> Result:
    """The result of a run that was asked to stop before its first iteration; what an earlier attempt has kept stays."""
    kept = [] if resume == "never" else checkpoint.saved_steps(run_dir / "checkpoints")
    result = Result(
        status="stopped",
        reason=f"{reason} at the start, before this attempt trained anything",
        hosts=[world.place.host],
        env_steps=int(kept[-1].name.partition("-")[2]) if kept else 0,
        ranks=world.place.size,
        seed=config.seed,
        versions=versions(),
    )
    if not Reporter.from_environment(world.communicator).superseded():
        with suppress(OSError):
            result.write(run_dir)
    return result


def train_elastic(config: RunConfig, run_dir: Path, resume: str) -> Result:
    """As `train`, on ranks whose number changes: after each change on from the last checkpoint, once there is one."""
    tried, before, began = False, saves(run_dir), time.monotonic() - seconds_spent()

    def try_on(world: World, membership: Membership) -> Result:
        nonlocal tried, before, began
        known: Result | None = None
        how, decided = resume, config
        if world.place.rank == 0:  # it was there before, if any was
            how = "auto" if saves(run_dir) - before else resume
            failures = take_failures(run_dir) if tried else []
            clear_heartbeats(run_dir)
            if failures:  # that would come again
                known = failure(failures[0], config, world.place.size)
                known.write(run_dir)
            else:
                known = finished(run_dir, config, how)
                if how != "never":  # other ranks are no reason to decide otherwise
                    decided = with_decisions(config, run_dir, world, how)
        spent = time.monotonic() - began
        found = known, how, before, decided, spent
        known, how, before, decided, spent = world.communicator.broadcast_object(found)
        began = time.monotonic() - spent  # rank 0's, whoever that is the next time
        if known is not None:
            return known
        tried = True
        return attempt(decided, run_dir, how, world, requests, spent, membership)

    with StopRequests() as requests:
        check(config, 1)
        return keep_going(try_on)


def seconds_spent() -> float:
    return float(os.environ.get(SECONDS_SPENT, "0"))
