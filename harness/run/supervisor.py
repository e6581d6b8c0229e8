"""`--ranks N`: the process that the user started launches the ranks, draws how they do, and says how they ended."""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.cluster.handshake import Handshake
from harness.cluster.place import host_name
from harness.envs.registration import refuse_names_of_the_script, registration
from harness.errors import BadInput
from harness.files import write_text
from harness.launching import (
    ElasticHorovodrun,
    Host,
    Job,
    JobSpec,
    Launcher,
    Outcome,
    available_hosts,
    claim_slots,
    get_launcher,
    inside_launcher,
)
from harness.launching.own_module import python_module
from harness.lifecycle.failures import claim_failures, made_of, report_end_without_result
from harness.lifecycle.heartbeat import clear_heartbeats
from harness.lifecycle.result import Made, Result, failed_result, read_result
from harness.lifecycle.run_directory import refuse_unwritable, saves
from harness.lifecycle.signals import StopRequests
from harness.reporting import Progress, Status, open_display, read_progress
from harness.run.supervision import Supervision, supervise
from harness.schema import RunConfig


def train_on_ranks(
    config: RunConfig,
    run_dir: Path,
    ranks: int,
    launcher: str,
    hostfile: Path | str | None = None,
    resume: str = "auto",
    least: int | None = None,
) -> Result:
    """Trains on `ranks` ranks that this process starts; returns what `result.json` then says.

    With `least` the ranks are elastic: so many to `ranks`, whatever `launcher` says.
    Raises BadInput before anything is started: inside another launcher, without the slots, or where the launcher is not
    installed.
    """
    outer = inside_launcher(os.environ)
    if outer is not None:
        raise BadInput(
            f"--ranks {ranks} starts ranks itself, but this process is a rank of {outer} already: leave it out"
        )
    starter = get_launcher(launcher) if least is None else ElasticHorovodrun(least)
    hosts = claim_slots(available_hosts(hostfile, os.environ), ranks, str(hostfile or "this machine"))
    starter.check(hosts)
    if config.sync.path == "mpi" and not starter.carries_mpi:
        raise BadInput(f"sync.path = 'mpi' needs ranks started by mpirun or horovodrun; this is {starter.name}")
    refuse_unwritable(run_dir)
    registered = None
    if config.env is not None:
        wrappers = [each if isinstance(each, str) else each.class_ for each in config.env.wrappers]
        refuse_names_of_the_script("env.wrappers", *wrappers)
        refuse_names_of_the_script("env.backend", config.env.backend)
        registered = registration(config.env)
    for setting, name in (
        ("network.class", config.network.class_),
        ("algorithm.name", config.algorithm.name),
        ("optimizer.name", config.optimizer.name),
        ("sync.kind", config.sync.kind),
        ("sync.path", config.sync.path),
        ("compression.kind", config.compression.kind),
    ):
        refuse_names_of_the_script(setting, name)
    fresh = not run_dir.exists()
    report_end_without_result(run_dir)
    settings, handed = run_dir / "requested.toml", run_dir / "registration.pkl"
    write_text(settings, config.to_toml())
    if registered is not None:
        handed.write_bytes(registered)
    try:
        starter.open(ranks)
        return start_and_watch(config, run_dir, settings, ranks, starter, hosts, resume)
    except BadInput:
        if fresh:  # what the ranks refused, before there was anything to keep, leaves nothing behind
            shutil.rmtree(run_dir, ignore_errors=True)
        raise
    finally:
        starter.close()
        with suppress(OSError):  # it may lie in a directory that has become read-only
            settings.unlink(missing_ok=True)
            handed.unlink(missing_ok=True)


def start_and_watch(
    config: RunConfig,
    run_dir: Path,
    settings: Path,
    ranks: int,
    starter: Launcher,
    hosts: tuple[Host, ...],
    resume: str,
) -> Result:
    """Starts the ranks on `settings`, as often again as the config allows: from this run's last checkpoint
    where it has one, else as at first."""
    before, began = saves(run_dir), time.monotonic()
    handed = run_dir / "registration.pkl"
    registration = handed.resolve() if handed.exists() else None
    for restarts in range(config.run.max_restarts + 1):
        handshake = Handshake(
            has_parent=True, seconds_spent=time.monotonic() - began if restarts else 0.0, registration=registration
        )
        command = ("train", str(settings.resolve()), "--output", str(run_dir.resolve()), "--resume", resume)
        spec = JobSpec(
            command=(*python_module("harness"), *command),
            ranks=ranks,
            hosts=hosts,
            env={"PYTHONUNBUFFERED": "1", **handshake.variables()},
            run_id=f"{config.run.name}-{uuid.uuid4().hex[:12]}",
            output=run_dir / "output.log",
            cwd=Path.cwd(),
        )
        (run_dir / "result.json").unlink(missing_ok=True)
        (run_dir / "progress.json").unlink(missing_ok=True)
        clear_heartbeats(run_dir)
        with StopRequests() as requests:  # from before there are ranks, which would run on without this process
            least = starter.least if isinstance(starter, ElasticHorovodrun) else ranks
            outcome = watch(starter.start(spec), least, config, run_dir, requests, starter)
            asked = requests.received
        begun = restarts > 0 or bool(saves(run_dir) - before) or read_progress(run_dir)[0] is not None
        result = conclude(run_dir, outcome, asked, config, ranks, begun)
        if result.status != "failed" or result.divergence or asked:
            break
        if saves(run_dir) - before:
            resume = "auto"
        if restarts < config.run.max_restarts:
            origin = "the last checkpoint" if resume == "auto" else "where it began"
            print(f"{result.reason}; starting again from {origin}", file=sys.stderr, flush=True)
    return result


def watch(
    job: Job, least: int, config: RunConfig, run_dir: Path, requests: StopRequests, starter: Launcher
) -> Outcome:
    """Draws the run until it is over; returns how it ended. `least`: so many ranks are always there."""
    hosts, settings = job.rank_hosts()[:least], config.run
    supervision = Supervision(job, run_dir, settings.hang_seconds, hosts, settings.stop_seconds)
    with RunDisplay(config, run_dir) as display:
        if starter.told != starter.name:
            display.say(f"ranks by {starter.told}")

        def draw() -> None:
            for notice in starter.notices():
                display.say(notice)
            display.draw()

        outcome = supervise(supervision, requests, display.say, draw)
        draw()
    if (hang := supervision.hang) is not None:
        lines = job.last_lines(hang.rank)
        return replace(outcome, failed_rank=hang.rank, host=hang.host, last_lines=lines, hang=hang.cause)
    return outcome


class RunDisplay:
    """Shows what rank 0 writes into `progress.json`. A terminal that is gone ends the display, not the run."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.progress = open_display(config.run.name, every=config.logging.every_seconds)
        self.said: list[str] = []
        self.last: Status | None = None

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.draw()
        self.guarded(lambda: self.progress.close())

    def draw(self) -> None:
        status, lines = read_progress(self.run_dir)
        if lines[: len(self.said)] != self.said:  # ranks that began again
            self.said = []
        for line in lines[len(self.said) :]:
            self.say(line)
        self.said = lines
        if status is not None and status != self.last:
            latest = self.last = status
            self.guarded(lambda: self.progress.update(latest))

    def say(self, line: str) -> None:
        self.guarded(lambda: self.progress.say(line))

    def guarded(self, show: Callable[[], None]) -> None:
        try:
            show()
        except OSError:
            self.progress = Progress()


def conclude(run_dir: Path, outcome: Outcome, asked: str | None, config: RunConfig, ranks: int, begun: bool) -> Result:
    """The result that rank 0 wrote, or else one that says who died and how; BadInput for what the ranks refused, which
    they do not once training has `begun`."""
    failures, made = claim_failures(run_dir), Made()
    written = read_result(run_dir)
    # a rank that dies at the start has its launcher end the others, to which that looks like a request
    died = bool(failures) or (outcome.signal is not None and outcome.signal != "SIGTERM")
    if written is not None and not (written.status == "stopped" and died and not asked and not begun):
        return written
    if outcome.exit_code == 2 and not begun and not failures:
        said = [line for line in outcome.last_lines if line.startswith("harness: ")]
        raise BadInput(said[-1].removeprefix("harness: ") if said else "the ranks refused this input")
    # the rank that raised knows best; an abort hides it from its launcher
    if failures and outcome.signal is None and outcome.hang is None:
        first = failures[0]
        rank, host, lines = first["rank"], first["host"], first["lines"]
        reason = f"rank {rank} on {host} failed: {first['reason']}"
        made = made_of(first)
    else:
        rank, host, lines = outcome.failed_rank, outcome.host or host_name(), list(outcome.last_lines)
        reason = outcome.describe() if outcome.exit_code else "the ranks ended without a result"
    if asked:
        kept = (run_dir / "checkpoints" / "latest").exists()
        left = "its last checkpoint is kept" if kept else "before a checkpoint was written"
        reason = f"ended after {asked}, {left}: {reason}"
    if not made.env_steps and (status := read_progress(run_dir)[0]) is not None:
        made = Made(status.env_steps, 0, status.seconds)
    result = failed_result(reason, rank, host, lines, ranks=ranks, seed=config.seed, made=made)
    try:
        result.write(run_dir)
    except OSError as error:  # a full disk, say: the caller gets the result all the same
        print(f"result.json could not be written: {error}", file=sys.stderr, flush=True)
    return result


def default_launcher(env: Mapping[str, str]) -> str:
    """horovodrun; inside a Slurm allocation mpirun, which starts its ranks by Slurm's own means where horovodrun
    wants ssh."""
    return "mpirun" if "SLURM_JOB_ID" in env else "horovodrun"
