"""Checkpoints that are whole or not there, and what is in them.

`step-NNNNNNNNN/` holds `state.pt`, what is equal on all ranks; `rank-N.pt`, what rank N alone has; and, written last,
`manifest.json` with the size and checksum of each, and of the segments in `replay/` that the checkpoint needs. It is
written aside, synced, and renamed. Tensors and plain values alone: nothing in a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.files import plain, read_json, sync_directory, write_json
from harness.lifecycle.checkpoints.checksums import CheckSum, matches
from harness.lifecycle.checkpoints.manifest import RankPart, whole
from harness.lifecycle.checkpoints.shards import Part

NAME = re.compile(r"step-(\d{9,})")
STATE, MANIFEST, SUM, REPLACED = "state.pt", "manifest.json", "sha256", ".replaced."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are as they were written."""

    directory: Path
    state: dict[str, Any]
    """As the algorithm gave it."""
    progress: dict[str, Any]
    """As the run counts."""
    ranks: int = 1
    """How many wrote it."""
    parts: list[RankPart] = field(default_factory=list)
    config: dict[str, Any] | None = None

    def part(self, part: RankPart) -> tuple[Part, dict[str, Any]]:
        """What a rank had of its environments, and of itself."""
        from harness.lifecycle.checkpoints.serialization import as_arrays, read_tensors

        found = read_tensors(self.directory / part.file)
        return Part(part.first, part.count, part.total, as_arrays(found["own"])), found["rank"]


def aside_of(directory: Path, env_steps: int, token: str) -> Path:
    """Where it is written. `token`: of the attempt that writes it."""
    return directory / f".{name_of(env_steps)}.{token}"


def name_of(env_steps: int) -> str:
    return f"step-{env_steps:09d}"


def put_in_place(
    directory: Path, env_steps: int, aside: Path, written: dict[str, CheckSum], manifest: dict[str, Any]
) -> Path:
    """Writes the manifest, and renames what was written aside to where it counts."""
    files = {name: summed.as_json() for name, summed in written.items()}
    manifest = {**manifest, "files": files}
    write_json(aside / MANIFEST, {**manifest, SUM: sum_of(manifest)})
    sync_directory(aside)
    final = directory / name_of(env_steps)
    replaced = directory / f".{final.name}{REPLACED}{os.getpid()}"
    if final.exists():  # the same step again: the new one takes its place
        final.rename(replaced)
    aside.rename(final)
    sync_directory(directory)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def sum_of(manifest: dict[str, Any]) -> str:
    """The manifest's own checksum, which it holds: a count is as easily damaged as a tensor."""
    return hashlib.sha256(json.dumps(plain(manifest), sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest as it was written; None where it is damaged or not there."""
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or manifest.pop(SUM, None) != sum_of(manifest):
        return None
    return manifest


def point(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to its neighbour `target`, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def mark_latest(directory: Path) -> None:
    """Points `latest` at the newest."""
    steps = saved_steps(directory)
    if steps:
        point(directory / "latest", steps[-1].name)


def mark_best(directory: Path) -> None:
    """Points `best` at the checkpoint after the best evaluation; of several that follow it, at the first."""
    found = [
        (manifest["progress"].get("last"), path) for path in saved_steps(directory) if (manifest := read_manifest(path))
    ]
    evaluated = [(mean, path) for mean, path in found if mean is not None]
    if evaluated:
        point(directory / "best", max(evaluated, key=lambda each: each[0])[1].name)


def keep_newest(directory: Path, keep: int) -> None:
    """Deletes all but the newest `keep` and those that `latest` and `best` point at."""
    pointed = {os.readlink(directory / name) for name in ("latest", "best") if (directory / name).is_symlink()}
    for old in saved_steps(directory)[:-keep]:
        if old.name not in pointed:
            shutil.rmtree(old)


def delete_asides(directory: Path) -> None:
    """Deletes what attempts that are over have left half written; a checkpoint that was to be replaced, and was not,
    gets its name back."""
    for path in directory.glob(".step-*"):
        final = directory / path.name[1:].partition(".")[0]
        if REPLACED in path.name and not final.exists():
            path.rename(final)
        else:
            shutil.rmtree(path, ignore_errors=True)


def saved_steps(directory: Path) -> list[Path]:
    """The checkpoints, oldest first, whole or not."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def parts_of(manifest: dict[str, Any]) -> list[RankPart]:
    return [RankPart.from_json(part) for part in manifest.get("parts", ())]


def named_segments(directory: Path) -> set[str]:
    """The files that the checkpoints in `directory` name."""
    named: set[str] = set()
    for path in saved_steps(directory):
        manifest = read_manifest(path)
        if manifest is not None:
            named |= {segment.file for part in parts_of(manifest) for segment in part.segments}
    return named


def manifest_of(directory: Path, state_alone: bool = False, replay: bool = True) -> dict[str, Any] | None:
    """The manifest of the checkpoint in `directory`; None unless all that it names is there as it was written (or
    `state.pt` is, with `state_alone`; or all but the segments, without `replay`)."""
    manifest: Any = read_manifest(directory)
    try:
        files = {name: CheckSum.from_json(expected) for name, expected in manifest["files"].items()}
        if not all(matches(directory / name, files[name]) for name in ([STATE] if state_alone else files)):
            return None
        if (
            replay
            and not state_alone
            and not all(whole(directory.parent, part.segments) for part in parts_of(manifest))
        ):
            return None
        return manifest
    except (KeyError, TypeError, AttributeError):
        return None


def load(directory: Path, verified: bool = False, state_alone: bool = False) -> Checkpoint | None:
    """The checkpoint in `step-…/` (or where `latest` or `best` points); None where it is damaged or not there.

    `verified`: it was found whole a moment ago. `state_alone`: what ranks had of their own is not asked for.
    """
    directory = directory.resolve()
    manifest = read_manifest(directory) if verified else manifest_of(directory, state_alone)
    if manifest is None:
        return None
    from harness.lifecycle.checkpoints.serialization import read_tensors  # torch: parents look, and load none

    state = read_tensors(directory / STATE)
    ranks = manifest.get("ranks", 1)
    return Checkpoint(directory, state, manifest["progress"], ranks, parts_of(manifest), manifest.get("config"))


def newest(directory: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint, and the damaged ones that were passed over on the way to it."""
    damaged: list[Path] = []
    for path in reversed(saved_steps(directory)):
        if manifest_of(path) is not None:
            return path, damaged
        damaged.append(path)
    return None, damaged
