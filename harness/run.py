"""One run, from its config to its result, on the ranks that this process was started with: what is refused before it
starts, its start, and how a rank that cannot go on leaves the others."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.algorithms import algorithm_class
from harness.brief import one_line
from harness.cluster.place import Place, let_rank_0_speak_first
from harness.config import RunConfig
from harness.distributed.world import World
from harness.envs import share_of
from harness.envs.choosing import check_backend
from harness.envs.inspection import close_spare, inspect_environment, inspected
from harness.errors import BadInput, StopAtStart
from harness.lifecycle import checkpoint
from harness.lifecycle.elastic import Membership, RanksChange, is_elastic, keep_going
from harness.lifecycle.heartbeat import Hang, Heartbeat, RanksWatch, forget_beats, tell_end
from harness.lifecycle.lock import DirectoryLock, check_free
from harness.lifecycle.run_directory import (
    Made,
    Result,
    check_same_run,
    decisions,
    differing_keys,
    failed_result,
    made_of,
    read_result,
    record_failure,
    refuse_unwritable,
    same_budget,
    saves,
    take_failures,
    versions,
)
from harness.lifecycle.signals import StopRequests
from harness.loop import Run
from harness.reporting import Reporter
from harness.reporting.summary import summary

SECONDS_SPENT = "HARNESS_SECONDS_SPENT"
"""The variable by which a parent that starts ranks again tells them how much of `run.max_minutes` is spent."""


def default_run_dir(config: RunConfig) -> Path:
    return Path("runs") / f"{config.run.name}-seed{config.seed}"


def check(config: RunConfig, ranks: int, keeps: bool = False) -> None:
    """Refuses, before anything starts, what this machine or so many ranks cannot run. `keeps`: the environment that was
    looked at stays open, for the run to take it."""
    if ranks < 1:
        raise BadInput(f"--ranks must be >= 1, got {ranks}")
    if config.env is not None:
        share_of(config.env.count, 0, ranks)
        try:
            found = inspect_environment(config.env)
            algorithm_class(config.algorithm.name).check(config, found.observation_space, found.action_space)
            check_backend(config.env)
        except BaseException:
            close_spare()
            raise
        if not keeps:
            close_spare()
    else:
        algorithm_class(config.algorithm.name).check_data(config, ranks)


def with_decisions(config: RunConfig, run_dir: Path, world: World, resume: str = "auto") -> RunConfig:
    """The config with what the run that goes on decided when it began, where ours leaves it open: another way of
    stepping or reducing could differ in the last bits."""
    found = decisions(run_dir, config.to_table(), resume)
    if world.place.launcher != "mpi" or world.device.type != "cpu":
        found.pop("sync.path", None)  # only there is there a choice
    for key, value in found.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
    return config


def finished(run_dir: Path, config: RunConfig, resume: str = "auto") -> Result | None:
    """The result of this very run where the directory holds it finished; BadInput where it holds another one."""
    check_same_run(run_dir, config.to_table())
    if resume not in ("auto", "never"):
        manifest = checkpoint.manifest_of(Path(resume).resolve(), state_alone=True)
        if manifest is None:
            raise BadInput(f"--resume must be auto, never, or the path of a whole checkpoint, got {resume}")
        differing = differing_keys(config.to_table(), manifest.get("config", config.to_table()))
        if differing:
            raise BadInput(f"--resume {resume} is a checkpoint of another run: {differing}")
    check_free(run_dir)
    result = read_result(run_dir)
    over = result is not None and result.status == "done" and same_budget(run_dir, config.to_table())
    return result if over and resume == "auto" else None


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
    collectives = world.start(config.sync.path)
    known, config = collectives.broadcast_object((known, config))  # other hosts may not see the directory
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
        algorithm_class(config.algorithm.name).check_ranks(config, world.collectives)
        if world.place.rank == 0:
            lock.take()
        place = world.place
        look_around = [requests.look_for_launcher]
        if place.rank < 2 <= place.size and membership is None and not is_watched(os.environ):
            own = place.rank, place.size, place.host, config.run.hang_seconds
            look_around.append(RanksWatch(run_dir, *own, partial(end_for, run_dir)).look)
        limit, began = config.run.max_minutes, time.monotonic() - spent
        if limit is not None and place.rank == 0:
            look_around.append(partial(end_late_start, requests, began + 60 * limit))
        with Heartbeat(run_dir, place.rank, place.host, *look_around) as heartbeat:
            requests.starting = membership is None  # to Horovod's elastic driver that would be a rank that was lost
            run = Run(config, run_dir, world, world.collectives, requests, spent, membership)
            run.told += [lock.remark] if lock.remark is not None else []
            run.told += notices(config)
            heartbeat.watch(run.phases)
            result = run.go(resume)
            world.collectives.barrier()  # nobody leaves before rank 0 has written all
            return result
    except StopAtStart as stop:
        requests.starting = False
        result = stopped_at_start(config, run_dir, resume, world, str(stop))
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


def notices(config: RunConfig) -> tuple[str, ...]:
    """What was noticed of the environment before the run."""
    found = inspected(config.env) if config.env is not None else None
    return () if found is None else found.notices


def end_late_start(requests: StopRequests, deadline: float) -> None:
    if requests.starting and time.monotonic() > deadline:
        requests.end_start("run.max_minutes is over")


def stopped_at_start(config: RunConfig, run_dir: Path, resume: str, world: World, reason: str) -> Result:
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
    if not Reporter.from_environment(world.collectives).superseded():
        with suppress(OSError):
            result.write(run_dir)
    return result


def is_watched(env: Mapping[str, str]) -> bool:
    """Whether a parent or a search's driver watches the ranks."""
    return "HARNESS_HAS_PARENT" in env or "HARNESS_TRIAL_DIR" in env


def end_for(run_dir: Path, hang: Hang) -> None:
    """Another rank hangs, or this one's training does: that is recorded, and the launcher ends the others for want of
    this one. The training thread may be inside MPI, which cannot be asked for an abort beside it."""
    print(f"rank {hang.rank} on {hang.host} {hang.cause}: ending the run", file=sys.stderr, flush=True)
    with suppress(OSError):
        record_failure(run_dir, hang.rank, hang.host, hang.cause, [])
    os._exit(1)


def is_about_ranks(error: BaseException) -> bool:
    """Whether it only says that another rank is gone, or that their number changes."""
    return isinstance(error, RanksChange) or type(error).__name__ == "HorovodInternalError"


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
            forget_beats(run_dir)
            if failures:  # that would come again
                known = failure(failures[0], config, world.place.size)
                known.write(run_dir)
            else:
                known = finished(run_dir, config, how)
                if how != "never":  # other ranks are no reason to decide otherwise
                    decided = with_decisions(config, run_dir, world, how)
        spent = time.monotonic() - began
        found = known, how, before, decided, spent
        known, how, before, decided, spent = world.collectives.broadcast_object(found)
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


def leave_alone(world: World, config: RunConfig, run_dir: Path, run: Run | None, error: BaseException) -> None:
    """This rank cannot go on and the others wait for it: it records why, and ends them with itself."""
    reason = one_line(f"{type(error).__name__}: {error}".strip().removesuffix(":"))
    lines = traceback.format_exc().splitlines()[-20:]
    place, made = world.place, Made() if run is None else run.made()
    if place.size == 1:
        if not isinstance(error, BadInput):
            with suppress(OSError):
                if run is not None:
                    failed = run.result("failed", reason)
                    run.write(replace(failed, failed_rank=0, failed_host=place.host, last_lines=lines))
                else:
                    failed_result(reason, 0, place.host, lines, ranks=1, seed=config.seed).write(run_dir)
        return
    if isinstance(error, BadInput):
        let_rank_0_speak_first(place)
        print(f"harness: rank {place.rank} on {place.host}: {error}", file=sys.stderr)
        world.abort(2)
    traceback.print_exc()
    if type(error).__name__ != "HorovodInternalError":  # that is only what another rank's end looks like from here
        with suppress(OSError):  # of a full disk, which may be the reason itself
            record_failure(run_dir, place.rank, place.host, reason, lines, made)
        tell_failure(config, run_dir, place, reason, made)
    world.abort(1)


def tell_failure(config: RunConfig, run_dir: Path, place: Place, reason: str, made: Made) -> None:
    """Where nobody watches the ranks, the one that ends them writes the result, and says what it is, itself."""
    if is_watched(os.environ) or is_elastic(os.environ):
        return
    reason = f"rank {place.rank} on {place.host} failed: {reason}"
    result = failed_result(reason, place.rank, place.host, [], ranks=place.size, seed=config.seed, made=made)
    with suppress(OSError):
        result.write(run_dir)
    print(summary(result, run_dir), file=sys.stderr, flush=True)


def failure(record: dict[str, Any], config: RunConfig, ranks: int) -> Result:
    """The result that follows from what a rank recorded before it ended."""
    rank, host = record["rank"], record["host"]
    reason = f"rank {rank} on {host} failed: {record['reason']}"
    return failed_result(reason, rank, host, record["lines"], ranks=ranks, seed=config.seed, made=made_of(record))
