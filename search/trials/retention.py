"""`trial.keep`: what stays on the disk of a trial that has ended, and how much that is."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from search.trial_dir import TrialDir

REPLAY = "replay"
"""Folder of a run's checkpoints: what an off-policy algorithm would learn from again, were the run continued."""


def tidy(directory: TrialDir, keep: str) -> None:
    """Deletes what is not kept of a trial's runs. A disk that does not let it is no reason to end a study."""
    for run in directory.path.glob("seed-*"):
        if run.is_dir():
            tidy_run(run, keep)


def tidy_run(run: Path, keep: str) -> None:
    """Of one run directory. Folders that are no checkpoints of `harness train` are a user's own, and stay."""
    checkpoints = run / "checkpoints"
    if keep == "everything" or not any(checkpoints.glob("step-*/manifest.json")):
        return
    with suppress(OSError):
        if keep == "results":
            shutil.rmtree(checkpoints)
            return
        shutil.rmtree(checkpoints / REPLAY, ignore_errors=True)
        best = checkpoints / "best"
        if keep == "best" and best.exists():
            kept = os.path.realpath(best)
            for step in checkpoints.glob("step-*"):
                if os.path.realpath(step) != kept:
                    shutil.rmtree(step)
            latest = checkpoints / "latest"
            latest.unlink(missing_ok=True)
            latest.symlink_to(os.readlink(best))


def size_of(directory: Path) -> int:
    """Bytes of all files in it; those that go meanwhile count for nothing."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def shown_size(size: float) -> str:
    """`62 MB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
