"""A figure's birth certificate: the command, date, commit, machine and load that it was measured with; and spreads."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.cluster.machine import available_cores
from harness.cluster.place import host_name
from harness.lifecycle.result import versions

SPREAD = "10th to 90th percentile"


@dataclass(frozen=True)
class Certificate:
    command: str
    date: str
    """Of the beginning, with the offset from UTC."""
    commit: str | None
    """Of this project's checkout, with `-dirty` where it has changes that are in no commit; None where it is none."""
    host: str
    cpu: str
    cores: int
    """Those that this process may use."""
    load: float
    """Runnable processes, mean of the minute before the measurement began: other people's work."""
    versions: dict[str, str]

    def line(self) -> str:
        commit = f", commit {self.commit[:9]}{'-dirty' * self.commit.endswith('-dirty')}" if self.commit else ""
        return f"{self.cores} cores of {self.cpu}, load {self.load:.2f} before, {self.date}{commit}"


def certify() -> Certificate:
    """Of a measurement that this process is about to make."""
    return Certificate(
        command=shlex.join(["python", "-m", "harness", *sys.argv[1:]]),
        date=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        commit=commit(),
        host=host_name(),
        cpu=cpu_model(),
        cores=len(available_cores()),
        load=os.getloadavg()[0],
        versions=versions(),
    )


def commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # or git would tell of whatever folder this is installed in
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None


def cpu_model() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Figure:
    """A measured quantity: its median over the repeats, and their spread."""

    median: float
    low: float
    """10th percentile, interpolated where there are few values."""
    high: float
    """90th percentile."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        low, median, high = np.percentile(np.asarray(values, dtype=np.float64), [10, 50, 90])
        return cls(float(median), float(low), float(high), len(values))

    def text(self, digits: str = ",.0f") -> str:
        return f"{self.median:{digits}}"

    def spread(self, digits: str = ",.0f") -> str:
        return f"{self.low:{digits}} … {self.high:{digits}}"
