"""The birth certificate of a row: command, date, commit, CPU, versions, and how busy the machine was."""

from __future__ import annotations

import os
import resource
import threading
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil

from harness.bench.certificate import cpu_model
from harness.lifecycle.result import git_commit, versions


@dataclass(frozen=True)
class Birth:
    command: str
    date: str
    commit: str
    cpu: str
    versions: dict[str, str]
    load_before: float
    """The load average of the minute before the row began."""
    load_during: float
    """The highest load average of a minute while it ran; its own ranks, one core each, are in it."""
    others: float
    """Cores that all other processes of the machine kept busy meanwhile, on average."""

    def line(self) -> str:
        load = f"load {self.load_before:.2f} before, at most {self.load_during:.2f} during"
        others = f"all other processes {self.others:.2f} cores"
        of = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"`{self.command}`, {self.date}, commit {self.commit}, {self.cpu}; {load}, {others}; {of}."


class Watch:
    """Watches the machine while a row runs: `with Watch() as watch: …`, then `watch.birth(command)`."""

    def __enter__(self) -> Watch:
        self.date = time.strftime("%Y-%m-%d %H:%M")
        self.load_before = self.load_during = os.getloadavg()[0]
        self.began, self.busy, self.own = time.monotonic(), busy_seconds(), own_seconds()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        elapsed = time.monotonic() - self.began
        self.others = max(0.0, busy_seconds() - self.busy - (own_seconds() - self.own)) / elapsed

    def _look(self) -> None:
        while not self.over.wait(2.0):
            self.load_during = max(self.load_during, os.getloadavg()[0])

    def birth(self, command: str) -> Birth:
        return Birth(
            command=command,
            date=self.date,
            commit=(git_commit() or "unknown")[:10],
            cpu=f"{cpu_model()}, {os.cpu_count()} cores",
            versions=shown_versions(),
            load_before=self.load_before,
            load_during=max(self.load_during, os.getloadavg()[0]),
            others=self.others,
        )


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.system + times.nice + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)


def own_seconds() -> float:
    """Seconds that this process and all its descendants that ended have worked."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def shown_versions() -> dict[str, str]:
    found = versions()
    try:
        found["stable-baselines3"] = version("stable-baselines3")
    except PackageNotFoundError:
        pass
    return found
