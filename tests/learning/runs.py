"""Runs of rows over seeds, side by side, by the real command line; what has finished is not run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.bench.certificate import commit, cpu_model
from harness.distributed.world import available_cores
from harness.files import append_json_line, read_json_lines
from harness.lifecycle.result import read_result, versions
from tests.command import ROOT, environment
from tests.learning.figures import curve
from tests.learning.rows import Row

STOPPED = 75
"""The exit code of a run that was asked to stop and can go on."""


@dataclass(frozen=True)
class Record:
    """One run that ended."""

    preset: str
    settings: str
    """As `Row.settings` has it."""
    ranks: int
    seed: int
    value: float | None
    """The mean over the episodes of the final evaluation; None where it diverged."""
    std: float | None
    episodes: int
    env_steps: int
    reason: str | None
    wall_seconds: float
    cpu_seconds: float
    """Of all its processes, with start-up and compilation."""
    interrupted: int
    """How often it was stopped and resumed from its checkpoint."""
    command: str
    commit: str | None
    cpu: str
    date: str
    versions: dict[str, str]
    backend: str = ""
    """What stepped its environments, which may depend on what is installed; empty where that was not kept."""
    curve: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Record:
        """As a file keeps it, which another version may have written."""
        return cls(**{key: value for key, value in kept.items() if key in cls.__dataclass_fields__})


def merged(row: Row, standing: Iterable[Record], made: Iterable[Record]) -> list[Record]:
    """The runs of the row as its preset is now, by seed: those that stand, wherever they were made, and those made
    here, which count where both have a seed."""
    current = row.settings()
    by_seed = {record.seed: record for record in (*standing, *made) if record.settings == current}
    return [by_seed[seed] for seed in sorted(by_seed)]


class Ledger:
    """Lines of JSON, one for each run that ended or was stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "results.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def lines(self, row: Row, kind: str) -> list[dict[str, Any]]:
        wanted = (row.preset, row.settings(), row.ranks)
        every = [line for line in read_json_lines(self.path)[0] if line["kind"] == kind]
        return [line for line in every if (line["preset"], line["settings"], line["ranks"]) == wanted]

    def records(self, row: Row) -> list[Record]:
        """Those of the row as its preset is now, by seed; the last one counts."""
        return merged(row, [], map(Record.of, self.lines(row, "done"))) if row.exists else []

    def add(self, record: Record) -> None:
        append_json_line(self.path, {"kind": "done", **asdict(record)})

    def stopped(self, run: Running, cpu_seconds: float) -> None:
        where = {"preset": run.row.preset, "settings": run.row.settings(), "ranks": run.row.ranks, "seed": run.seed}
        append_json_line(self.path, {"kind": "stopped", **where, "cpu_seconds": cpu_seconds})


@dataclass
class Running:
    """One run under way."""

    row: Row
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    date: str
    commit: str | None

    @classmethod
    def start(cls, row: Row, seed: int, folder: Path) -> Running:
        """Resumes from a checkpoint where there is one."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "harness", *row.command(seed), "--output", str(folder)]
        with (folder / "output.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        return cls(row, seed, folder, process, time.strftime("%Y-%m-%d %H:%M"), commit())

    def poll(self) -> tuple[int, float] | None:
        """Its exit code and the CPU seconds of its processes, once it has ended."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if not pid:
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, usage.ru_utime + usage.ru_stime

    def record(self, cpu_seconds: float, interrupted: int) -> Record | None:
        """None where it did not end as a run does; one that diverged did."""
        result = read_result(self.folder)
        if result is None or not (result.status == "done" or result.divergence):
            return None
        done = result.status == "done"
        return Record(
            preset=self.row.preset,
            settings=self.row.settings(),
            ranks=self.row.ranks,
            seed=self.seed,
            value=result.eval_return_mean if done else None,
            std=result.eval_return_std if done else None,
            episodes=result.eval_episodes,
            env_steps=result.env_steps,
            reason=result.reason,
            wall_seconds=result.wall_seconds,
            cpu_seconds=cpu_seconds,
            interrupted=interrupted,
            command=" ".join(["python -m harness", *self.row.command(self.seed)]),
            commit=self.commit,
            cpu=f"{len(available_cores())} cores of {cpu_model()}",
            date=self.date,
            versions=versions(),
            backend=tomllib.loads((self.folder / "config.toml").read_text()).get("env", {}).get("backend", ""),
            curve=curve(read_json_lines(self.folder / "metrics.jsonl")[0]),
        )


class StopRequest:
    """`with StopRequest(minutes) as stop: … stop.wanted`: after so many minutes, or a signal to end."""

    def __init__(self, minutes: float | None) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.signalled = False

    def __enter__(self) -> StopRequest:
        names = (signal.SIGTERM, signal.SIGINT)
        self.before = {name: signal.signal(name, self.hear) for name in names}
        return self

    def hear(self, *_: object) -> None:
        self.signalled = True

    def __exit__(self, *_: object) -> None:
        for name, handler in self.before.items():
            signal.signal(name, handler)

    @property
    def wanted(self) -> bool:
        return self.signalled or self.deadline is not None and time.monotonic() > self.deadline


def run_all(
    wanted: Sequence[tuple[Row, int]], ledger: Ledger, jobs: int, stop: StopRequest, say: Callable[[str], None]
) -> Iterator[Record]:
    """Runs (row, seed), `jobs` at once, and gives each as it ends. On a request to stop, runs are asked to stop too."""
    waiting, running, asked = list(wanted), list[Running](), False
    while running or waiting and not stop.wanted:
        while waiting and len(running) < jobs and not stop.wanted:
            row, seed = waiting.pop(0)
            running.append(Running.start(row, seed, ledger.folder / f"{row.preset}-{row.settings()}" / f"seed-{seed}"))
        if stop.wanted and not asked:
            asked = True
            for run in running:
                run.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        for run in list(running):
            if (ended := run.poll()) is None:
                continue
            running.remove(run)
            code, cpu_seconds = ended
            before = [line["cpu_seconds"] for line in ledger.lines(run.row, "stopped") if line["seed"] == run.seed]
            record = run.record(cpu_seconds + sum(before), len(before))
            if record is not None:
                ledger.add(record)
                yield record
            elif code == STOPPED:
                ledger.stopped(run, cpu_seconds)
                say(f"{run.row.preset} seed {run.seed}: stopped; it goes on next time")
            else:
                say(f"{run.row.preset} seed {run.seed}: failed with exit code {code}: {run.folder / 'output.log'}")
    if stop.wanted and waiting:
        say(f"{len(waiting)} runs were not begun")
