"""`search run --dry-run`: what would be launched for one sampled trial; makes nothing."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna

from harness.errors import BadInput
from search.display import plural
from search.space.space import Stored
from search.strategies.proposals import Drawer, NothingLeft
from search.strategies.samplers import sampler_seed
from search.study.storage import without_password
from search.trials.prepared import Prepared


def dry_run(prepared: Prepared) -> Iterator[str]:
    """The lines that describe one trial: its slots, parameters, config and command."""
    config, directory = prepared.config, prepared.directory
    stored = drawn(prepared, prepared.first[0] if prepared.first else None)
    settings, seed = prepared.space.settings(stored), prepared.objective.seeds[0]
    lease = prepared.slots.lease(config.trial.ranks)
    assert lease is not None
    run = directory.trial(0) / "seed-0"
    with tempfile.TemporaryDirectory() as scratch:  # a command may need a file beside its run directory
        command = prepared.task.command(settings, seed, Path(scratch) / "seed-0", None)
        words = [word.replace(str(Path(scratch) / "seed-0"), str(run)) for word in command]
    kept = without_password(prepared.storage)
    yield f"study {config.study.name}: {plural(config.study.trials, 'trial')} in {directory.path}, kept in {kept}"
    yield f"launcher: {prepared.launcher.name}, {plural(config.trial.ranks, 'rank')} on {lease.environment}"
    yield "parameters: " + ", ".join(f"{name} = {value}" for name, value in prepared.space.shown(stored).items())
    yield f"command of each rank: {shlex.join(words)}"
    if config.trial.command is not None:
        found = shutil.which("python") or "not there"
        yield f"PATH of each rank: as it is here, where python is {found}; the command's own first word python is ours"
    yield "config:"
    yield from ("  " + line for line in prepared.task.describe(settings, seed).splitlines())


def drawn(prepared: Prepared, known: Stored | None = None) -> Stored:
    """A point as a study would draw it, beside what is known of it."""
    seed = sampler_seed(prepared.config.study.seed, 0)
    study = optuna.create_study(sampler=prepared.config.study.sampler.build(prepared.space, seed))
    if known:
        study.enqueue_trial(known)
    try:
        return Drawer(study, prepared.space, prepared.check).draw(study.ask())
    except NothingLeft as error:
        raise BadInput(str(error)) from None
