"""Checkpoints for tests: written without a run, and read without knowing which is the newest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.checkpoints.checkpoint import Checkpoint
from harness.lifecycle.checkpoints.serialization import write_tensors


def save(directory: Path, env_steps: int, state: dict[str, Any], progress: dict[str, Any], **more: Any) -> Path:
    """One without parts of ranks, with `more` in its manifest; `latest` points at it."""
    aside = checkpoint.aside_of(directory, env_steps, str(os.getpid()))
    aside.mkdir(parents=True)
    written = {checkpoint.STATE: write_tensors(aside / checkpoint.STATE, state)}
    final = checkpoint.put_in_place(directory, env_steps, aside, written, {"progress": progress, **more})
    checkpoint.mark_latest(directory)
    return final


def load_newest(directory: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest whole checkpoint, and the damaged ones that are newer."""
    path, damaged = checkpoint.newest(directory)
    return None if path is None else checkpoint.load(path, verified=True), damaged
