"""One run, from its config to its result, on the ranks that this process was started with: its start, its attempts, and
what a rank leaves behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.algorithms import algorithm_class
from harness.cluster.handshake import Handshake
from harness.distributed.sync import synchronizer_class
from harness.distributed.world import World
from harness.envs.inspection import close_spare, forget
from harness.envs.registration import register_from_parent
from harness.errors import StopAtStart
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.elastic import Membership, keep_going
from harness.lifecycle.failures import claim_failures, has_failures, report_end_without_result
from harness.lifecycle.heartbeat import Heartbeat, clear_heartbeats
from harness.lifecycle.lock import DirectoryLock
from harness.lifecycle.result import Result, versions
from harness.lifecycle.run_directory import refuse_unwritable, saves
from harness.lifecycle.signals import StopRequests
from harness.lifecycle.watchdog import RanksWatch
from harness.reporting import Reporter, Trial
from harness.run.attempt import Attempt
from harness.run.checks import check, default_run_dir, finished, notices, with_decisions
from harness.run.crash import end_for, failure, is_about_ranks, leave_alone
from harness.run.loop import Run
from harness.schema import RunConfig
from harness.training.process import threads_restored


def train(config: RunConfig, run_dir: Path | None = None, resume: str = "auto") -> Result:
    """Trains on the ranks that this process was started with; returns the same result on all of them.

    `resume`: `auto` resumes from the directory's last checkpoint, `never` starts over, a path names a checkpoint.
    Raises BadInput before anything is written where the run cannot be started. Nothing of the run is left in the
    process: it may train again.
    """
    run_dir, handshake = Path(run_dir) if run_dir is not None else default_run_dir(config), Handshake.read(os.environ)
    with threads_restored():
        try:
            if config.env is not None and handshake.registration is not None:
                register_from_parent(config.env.id, handshake.registration)
            start = train_elastic if handshake.elastic else train_on_world
            return start(config, run_dir, resume, handshake)
        finally:
            forget()


def train_on_world(config: RunConfig, run_dir: Path, resume: str, handshake: Handshake) -> Result:
    """As `train`, on as many ranks as there are at the start."""
    world = World()
    check(config, world.place.size, keeps=True)
    known: Result | None = None
    if world.place.rank == 0:
        known = finished(run_dir, config, resume)
        if known is None:
            refuse_unwritable(run_dir)
            report_end_without_result(run_dir)  # here, while the other ranks still wait for this one
        if resume != "never":
            config = with_decisions(config, run_dir, world, resume)
    communicator = world.start(config.sync.path, synchronizer_class(config.sync, config.compression).needs)
    known, config = communicator.broadcast_object((known, config))  # other hosts may not see the directory
    if known is None:
        with StopRequests() as requests:
            known = go(Attempt(config, run_dir, resume, world, requests, handshake, handshake.seconds_spent))
    else:
        close_spare()
    world.stop()
    return known


def go(attempt: Attempt) -> Result:
    """The run on the ranks that there are. A rank that cannot go on ends here, and leaves the others its reason."""
    config, run_dir, world, requests = attempt.config, attempt.run_dir, attempt.world, attempt.requests
    lock = DirectoryLock(run_dir)
    run: Run | None = None
    try:
        algorithm_class(config.algorithm.name).check_ranks(config, attempt.communicator)
        if attempt.rank == 0:
            lock.acquire()
        calls = look_around(attempt)
        group = attempt.communicator
        with Heartbeat(run_dir, attempt.rank, world.place.host, *calls, group=group) as heartbeat:
            # to Horovod's elastic driver a start that is broken off would be a rank that was lost
            requests.starting = attempt.membership is None
            run = Run(attempt)
            run.notices += [lock.notice] if lock.notice is not None else []
            run.notices += notices(config)
            heartbeat.watch(run.phases)
            result = run.go()
            attempt.communicator.barrier()  # nobody leaves before rank 0 has written all
            return result
    except StopAtStart as stop:
        requests.starting = False
        if world.place.size > 1 and has_failures(run_dir):  # no request: the launcher ends the ranks that are left
            world.abort(1)
        result = stopped_before_training(attempt, str(stop))
        if world.place.size > 1:  # the others may be anywhere, and not all of them need have been asked
            world.abort(result.exit_code)
        return result
    except BaseException as error:
        requests.starting = False  # rank 0's end, which asks the others to stop, must not break off their own
        if attempt.membership is None or not is_about_ranks(error):
            leave_alone(attempt, run, error)
        raise  # a rank that is alone tells it itself
    finally:
        requests.starting = False
        lock.release()
        close_spare()


def look_around(attempt: Attempt) -> list[Callable[[], None]]:
    """What the heartbeat's thread looks at, once a second, beside this rank's signs of life."""
    config, place = attempt.config, attempt.world.place
    calls: list[Callable[[], None]] = [attempt.requests.look_for_launcher]
    if place.rank < 2 <= place.size and attempt.membership is None and not attempt.handshake.watched:
        own = place.rank, place.size, place.host, config.run.hang_seconds
        calls.append(RanksWatch(attempt.run_dir, *own, partial(end_for, attempt.run_dir)).look)
    limit, began = config.run.max_minutes, time.monotonic() - attempt.spent
    if limit is not None and place.rank == 0:
        calls.append(partial(abort_late_start, attempt.requests, began + 60 * limit))
    return calls


def abort_late_start(requests: StopRequests, deadline: float) -> None:
    if requests.starting and time.monotonic() > deadline:
        requests.end_start("run.max_minutes is over")


def stopped_before_training(attempt: Attempt, reason: str) -> Result:
    """The result of a run that was asked to stop before its first iteration; what an earlier attempt has kept stays."""
    kept = [] if attempt.resume == "never" else checkpoint.saved_steps(attempt.run_dir / "checkpoints")
    result = Result(
        status="stopped",
        reason=f"{reason} at the start, before this attempt trained anything",
        hosts=[attempt.world.place.host],
        env_steps=int(kept[-1].name.partition("-")[2]) if kept else 0,
        ranks=attempt.world.place.size,
        seed=attempt.config.seed,
        versions=versions(),
    )
    if not Reporter(Trial.of(attempt.handshake), attempt.communicator).superseded():
        with suppress(OSError):
            result.write(attempt.run_dir)
    return result


def train_elastic(config: RunConfig, run_dir: Path, resume: str, handshake: Handshake) -> Result:
    """As `train`, on ranks whose number changes: after each change on from the last checkpoint, once there is one."""
    tried, before, began = False, saves(run_dir), time.monotonic() - handshake.seconds_spent

    def try_on(world: World, membership: Membership) -> Result:
        nonlocal tried, before, began
        attempt = Attempt(config, run_dir, resume, world, requests, handshake, time.monotonic() - began, membership)
        known: Result | None = None
        if attempt.rank == 0:  # it was there before, if any was
            how, decided = "auto" if saves(run_dir) - before else resume, config
            failures = claim_failures(run_dir) if tried else []
            clear_heartbeats(run_dir)
            if failures:  # that would come again
                known = failure(failures[0], config, world.place.size)
                known.write(run_dir)
            else:
                known = finished(run_dir, config, how)
                if how != "never":  # other ranks are no reason to decide otherwise
                    decided = with_decisions(config, run_dir, world, how)
            attempt = replace(attempt, config=decided, resume=how)
        found = known, before, attempt.config, attempt.resume, attempt.spent
        known, before, decided, how, spent = world.communicator.broadcast_object(found)
        began = time.monotonic() - spent  # rank 0's, whoever that is the next time
        if known is not None:
            return known
        tried = True
        return go(replace(attempt, config=decided, resume=how, spent=spent))

    with StopRequests() as requests:
        check(config, 1)
        return keep_going(try_on)
