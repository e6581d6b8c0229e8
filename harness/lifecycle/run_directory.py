"""A run's directory: whose it is, whether its run is finished, and how its result is kept."""

from __future__ import annotations

import itertools
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import read_json
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.failures import claim_failures
from harness.lifecycle.result import read_result
from harness.schema import CompressionSettings, SyncSettings
from harness.settings import table_of

KEPT_DECISIONS = ("env.backend", "env.double_buffer", "sync.path", "compile.mode", "compile.products")
"""Settings that a run decides itself where they are `auto`, and on which the last bits of what it learns may depend: by
halves, the policy's products have other sizes."""
DECIDED = ("run.threads", *KEPT_DECISIONS)
"""All that it decides itself. Its threads follow the cores that it goes on with."""
BUDGET = ("run.steps", "evaluation.")
"""How far a run goes, and how it is looked at: a finished run may be given more."""
OF_ATTEMPTS = ("run.name", "run.max_minutes", "run.stop_seconds", "run.max_restarts", "run.hang_seconds")
MAY_CHANGE = (*OF_ATTEMPTS, "checkpoint.", "logging.", "compile.ahead", *BUDGET)
"""Settings, or sections of them, that change nothing in what a run learns from the same steps."""
GREW = {"sync": SyncSettings(), "compression": CompressionSettings()}
"""Sections of which runs of the release before have not all settings: theirs came to the defaults."""
MOST_TOLD = 3
"""Differing settings that are named."""
OURS = ("checkpoints", "metrics.jsonl", "tensorboard", "result.json")


def check_same_run(run_dir: Path, ours: Mapping[str, Any]) -> None:
    """Refuses a directory that holds another run, or files that are no run's: BadInput names what differs.

    What is left to the run in ours was decided when it began, and is no difference.
    """
    try:
        theirs = tomllib.loads((run_dir / "config.toml").read_text())
    except FileNotFoundError:
        foreign = [name for name in OURS if (run_dir / name).exists()]
        if foreign and not (foreign == ["result.json"] and began_nothing(run_dir)):
            raise BadInput(
                f"{run_dir} holds {', '.join(foreign)} but no config.toml, so it is no run of ours: choose another "
                "directory by --output"
            ) from None
        return
    except NotADirectoryError:
        raise BadInput(f"--output {run_dir} must be a directory") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{run_dir}/config.toml cannot be read: {error}") from None
    differing = differing_keys(ours, theirs)
    if differing:
        raise BadInput(f"{run_dir} holds another run: {differing}; choose another directory by --output")


def refuse_unwritable(run_dir: Path) -> None:
    """BadInput where nothing can be written into the directory, or where it would be made. Writes nothing itself."""
    folder = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not folder.is_dir():
        raise BadInput(f"--output {run_dir} must be a directory: {folder} is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"--output {run_dir} cannot be written: {folder} is read-only, or somebody else's")


def began_nothing(run_dir: Path) -> bool:
    """Whether the result is that of a start whose ranks died, or were stopped, before the run wrote anything of its
    own."""
    result = read_result(run_dir)
    return result is not None and result.status in ("failed", "stopped") and not result.env_steps


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Which settings make another run of ours than theirs was; empty where none does."""
    differing = [
        f"{key} is {there!r} there and {here!r} here"
        for key, here, there in differences(flatten(ours), defaults_of_sections_that_grew() | flatten(theirs))
        if not (key in DECIDED and here in ("auto", None)) and not key.startswith(MAY_CHANGE)
    ]
    more = len(differing) - MOST_TOLD
    return ", ".join(differing[:MOST_TOLD]) + (f" (and {more} more)" if more > 0 else "")


def decisions(run_dir: Path, ours: Mapping[str, Any], resume: str = "auto") -> dict[str, Any]:
    """What the run in the directory decided, or that of the checkpoint `resume`, where ours leaves it open."""
    try:
        if resume == "auto":
            theirs = flatten(tomllib.loads((run_dir / "config.toml").read_text()))
        else:
            theirs = flatten((checkpoint.read_manifest(Path(resume).resolve()) or {}).get("config", {}))
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    flat = flatten(ours)
    return {key: theirs[key] for key in KEPT_DECISIONS if flat.get(key) == "auto" and theirs.get(key, "auto") != "auto"}


def same_budget(run_dir: Path, ours: Mapping[str, Any]) -> bool:
    """Whether the run in the directory was to go as far as ours."""
    try:
        theirs = tomllib.loads((run_dir / "config.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return True
    return not any(key.startswith(BUDGET) for key, _, _ in differences(flatten(ours), flatten(theirs)))


def defaults_of_sections_that_grew() -> dict[str, Any]:
    return flatten({name: table_of(section) for name, section in GREW.items()})


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [(key, ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)]


@dataclass(frozen=True)
class Start:
    """Where an attempt begins."""

    checkpoint: Path | None
    notices: list[str]
    """Lines for the user."""
    state_alone: bool = False
    """Of the checkpoint `state.pt` is whole, and nothing else is to be taken."""


def prepare(run_dir: Path, resume: str) -> Start:
    """Makes the directory ready for another attempt.

    `resume` is `auto`, `never`, or a checkpoint's path. What is not resumed from is moved aside, where no later start
    takes it for this run's: damaged checkpoints, those that are newer than the one, and all of a run that resumes from
    elsewhere. `never` deletes it. Checkpoints share segments of the replay: where no checkpoint is whole for want of
    these, its run resumes without the replay.
    """
    kept = (run_dir / "checkpoints").resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "result.json").unlink(missing_ok=True)  # a result is that of the last attempt, or not there
    claim_failures(run_dir)
    checkpoint.delete_asides(kept)
    found = None if resume in ("auto", "never") else Path(resume).resolve()
    damaged: list[Path] = []
    state_alone = found is not None and checkpoint.manifest_of(found) is None
    if resume == "auto":
        found, damaged = checkpoint.newest(kept)
        if found is None:
            found = next((path for path in damaged if checkpoint.manifest_of(path, replay=False) is not None), None)
            state_alone = found is not None
    notices = [f"{path} is damaged: it is passed over" for path in damaged if path != found]
    if state_alone:
        notices.append(f"{found} is damaged: parameters, optimizer and counters are whole, and all that is taken of it")
    steps = checkpoint.saved_steps(kept)
    if found in steps:
        later = steps[steps.index(found) + 1 :]
        if later:
            notices.append(f"what was saved after {found.name} is in {move_aside(run_dir, later)} now")
            checkpoint.point(kept / "latest", found.name)
        return Start(found, notices, state_alone)
    series = [run_dir / "metrics.jsonl", run_dir / "tensorboard"]
    if steps and resume != "never":
        how = "the run starts over, and" if found is None else "the run resumes from elsewhere;"
        notices.append(f"{how} what there was is in {move_aside(run_dir, [kept, *series])} now")
    for path in (*series, kept):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    (run_dir / "progress.json").unlink(missing_ok=True)
    return Start(found, notices, state_alone)


def move_aside(run_dir: Path, paths: Sequence[Path]) -> Path:
    """Moves those that are there into a folder of their own, and returns it."""
    folder = next(path for n in itertools.count(1) if not (path := run_dir / f"aside-{n}").exists())
    folder.mkdir()
    for path in paths:
        if path.exists():
            shutil.move(path, folder / path.name)
    return folder


def saves(run_dir: Path) -> set[str]:
    """The checkpoints in the directory, by the sums of their manifests; only a save adds to them, also one of a step
    that was there before: it has taken another time."""
    manifests = (read_json(path / checkpoint.MANIFEST) for path in checkpoint.saved_steps(run_dir / "checkpoints"))
    return {str(manifest.get(checkpoint.SUM)) for manifest in manifests if isinstance(manifest, dict)}
