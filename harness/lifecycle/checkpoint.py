"""Checkpoints that are whole or not there: written aside, synced, renamed; loaded without running anything from
them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.files import read_json, write_json

NAME = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True)
class Checkpoint:
    """What `save` wrote: `state` as the algorithm gave it, `progress` as the run counts."""

    directory: Path
    state: dict[str, Any]
    progress: dict[str, Any]


def save(directory: Path, env_steps: int, state: dict[str, Any], progress: dict[str, Any]) -> Path:
    """Writes `step-NNNNNNNNN/` and points `latest` at it. One rank calls it.

    `state` holds tensors and plain values, `progress` what JSON can hold. The manifest, which names size and
    checksum, is
    written last, and the folder is renamed into place when all of it is on disk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"step-{env_steps:09d}"
    aside = directory / f".{final.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    with (aside / "state.pt").open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    data = (aside / "state.pt").read_bytes()
    write_json(
        aside / "manifest.json",
        {"progress": progress, "files": {"state.pt": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}},
    )
    sync_directory(aside)
    replaced = directory / f".{final.name}.replaced.{os.getpid()}"
    if final.exists():  # the same step again: the new one takes its place
        final.rename(replaced)
    aside.rename(final)
    sync_directory(directory)
    point(directory / "latest", final.name)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to its neighbour `target`, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def mark_best(directory: Path, saved: Path) -> None:
    point(directory / "best", saved.name)


def keep_newest(directory: Path, keep: int) -> None:
    """Deletes all but the newest `keep` and those that `latest` and `best` point at."""
    pointed = {os.readlink(directory / name) for name in ("latest", "best") if (directory / name).is_symlink()}
    for old in saved_steps(directory)[:-keep]:
        if old.name not in pointed:
            shutil.rmtree(old)


def saved_steps(directory: Path) -> list[Path]:
    """The checkpoints, oldest first, whole or not."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load(directory: Path) -> Checkpoint | None:
    """The checkpoint in `step-…/` (or where `latest` or `best` points); None where it is damaged or not there."""
    directory = directory.resolve()
    manifest = read_json(directory / "manifest.json")
    if not isinstance(manifest, dict):
        return None
    for name, expected in manifest["files"].items():
        try:
            data = (directory / name).read_bytes()
        except OSError:
            return None
        if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
            return None
    state = torch.load(directory / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(directory, state, manifest["progress"])


def load_newest(directory: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest whole checkpoint, and the damaged ones that were passed over on the way to it."""
    damaged: list[Path] = []
    for path in reversed(saved_steps(directory)):
        found = load(path)
        if found is not None:
            return found, damaged
        damaged.append(path)
    return None, damaged
