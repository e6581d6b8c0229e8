"""How a rank that cannot go on leaves the others."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.cluster.place import let_rank_0_speak_first
from harness.errors import BadInput
from harness.lifecycle.elastic import RanksChange
from harness.lifecycle.failures import made_of, record_failure
from harness.lifecycle.result import Made, Result, failed_result
from harness.lifecycle.watchdog import Hang
from harness.reporting.summary import summary
from harness.run.attempt import Attempt
from harness.run.loop import Run
from harness.run.summary import result
from harness.schema import RunConfig
from harness.text import one_line


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


def leave_alone(attempt: Attempt, run: Run | None, error: BaseException) -> None:
    """This rank cannot go on and the others wait for it: it records why, and ends them with itself."""
    world, run_dir = attempt.world, attempt.run_dir
    reason = one_line(f"{type(error).__name__}: {error}".strip().removesuffix(":"))
    lines = traceback.format_exc().splitlines()[-20:]
    place, made = world.place, Made() if run is None else run.made()
    if place.size == 1:
        if not isinstance(error, BadInput):
            with suppress(OSError):
                if run is not None:
                    failed = result(run, "failed", reason)
                    run.write(replace(failed, failed_rank=0, failed_host=place.host, last_lines=lines))
                else:
                    failed_result(reason, 0, place.host, lines, ranks=1, seed=attempt.config.seed).write(run_dir)
        return
    if isinstance(error, BadInput):
        let_rank_0_speak_first(place)
        print(f"harness: rank {place.rank} on {place.host}: {error}", file=sys.stderr)
        world.abort(2)
    traceback.print_exc()
    if type(error).__name__ != "HorovodInternalError":  # that is only what another rank's end looks like from here
        with suppress(OSError):  # of a full disk, which may be the reason itself
            record_failure(run_dir, place.rank, place.host, reason, lines, made)
        tell_failure(attempt, reason, made)
    world.abort(1)


def tell_failure(attempt: Attempt, reason: str, made: Made) -> None:
    """Where nobody watches the ranks, the one that ends them writes the result, and says what it is, itself."""
    if attempt.handshake.watched or attempt.handshake.elastic:
        return
    place, seed = attempt.world.place, attempt.config.seed
    reason = f"rank {place.rank} on {place.host} failed: {reason}"
    failed = failed_result(reason, place.rank, place.host, [], ranks=place.size, seed=seed, made=made)
    with suppress(OSError):
        failed.write(attempt.run_dir)
    print(summary(failed, attempt.run_dir), file=sys.stderr, flush=True)


def failure(record: dict[str, Any], config: RunConfig, ranks: int) -> Result:
    """The result that follows from what a rank recorded before it ended."""
    rank, host = record["rank"], record["host"]
    reason = f"rank {rank} on {host} failed: {record['reason']}"
    return failed_result(reason, rank, host, record["lines"], ranks=ranks, seed=config.seed, made=made_of(record))
