"""What this machine gives to a process: cores, their quota, memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from harness.cluster.slurm import slurm_task_cores

GROUPS, MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_memory(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may have: of the machine, or of its job or container where that has a limit."""
    limits = [psutil.virtual_memory().total]
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            root, name = (mounted / "memory", "memory.limit_in_bytes") if kinds else (mounted, "memory.max")
            if kinds and "memory" not in kinds.split(","):
                continue
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                with suppress(OSError, ValueError):  # no limit there, or `max`
                    limits.append(int((folder / name).read_text()))
                if folder == root:
                    break
    return min(limits)


def free_memory() -> int:
    """Bytes that this process may still take: what nobody on the machine has taken, within the limit of its job."""
    taken = psutil.Process().memory_info().rss
    return min(psutil.virtual_memory().available, available_memory() - taken)


def available_cores() -> list[int]:
    """The cores that this process may run on, without what a quota says of them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_quota(groups: Path = GROUPS, mounted: Path = MOUNTED) -> float | None:
    """The cores that this process's container or job may use at once, a part of one included; None without a limit.

    Both versions of control groups are read, and every group around this process's own.
    """
    found: list[float] = []
    with suppress(OSError, ValueError):
        for line in groups.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            for root in (mounted / kinds, mounted / "cpu") if kinds else (mounted, mounted / "unified"):
                if root.is_dir():
                    found += _quotas(root, root / path.lstrip("/"), second_version=not kinds)
                    break
    return min(found, default=None)


def _quotas(root: Path, own: Path, second_version: bool) -> list[float]:
    found = []
    for folder in (own, *own.parents):
        with suppress(OSError, ValueError):  # no such group from here, no limit there, or `max`
            if second_version:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if int(quota) > 0 and int(period) > 0:
                found.append(int(quota) / int(period))
        if folder == root:
            break
    return found


def within_quota(cores: int, sharers: int = 1, quota: float | None = None) -> int:
    """Of so many cores, how many one of `sharers` can keep busy at once under the quota that they share, at least one.
    `quota`: instead of the one that is found."""
    quota = cpu_quota() if quota is None else quota
    # a hundredth: what a quota is given in thousandths of a core loses in rounding
    return cores if quota is None else max(1, min(cores, int((quota + 0.01) / sharers)))


def usable_cores() -> int:
    """How many cores can work at once here: those that this process may run on, what its quota is worth, or what Slurm
    gave to the one task that it is."""
    cores = within_quota(len(available_cores()))
    given = slurm_task_cores(os.environ)
    return cores if given is None else min(cores, given)
