"""`search run --dry-run`: what would be launched for one sampled trial; makes nothing."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna

from harness.errors import BadInput
from search.run import Prepared
from search.space import Stored
from search.task import JOINT_SAMPLES


def dry_run(prepared: Prepared) -> Iterator[str]:
    """The lines that describe one trial: its slots, parameters, config and command."""
    config, directory = prepared.config, prepared.directory
    stored = runnable_sample(prepared)
    settings, seed = prepared.space.settings(stored), prepared.objective.seeds[0]
    lease = prepared.slots.lease(config.trial.ranks)
    assert lease is not None
    run = directory.trial(0) / "seed-0"
    with tempfile.TemporaryDirectory() as scratch:  # a command may need a file beside its run directory
        command = prepared.task.command(settings, seed, Path(scratch) / "seed-0", None)
        words = [word.replace(str(Path(scratch) / "seed-0"), str(run)) for word in command]
    yield f"study {config.study.name}: {config.study.trials} trials in {directory.path}, kept in {prepared.storage}"
    yield f"launcher: {prepared.launcher.name}, {config.trial.ranks} ranks on {lease.environment}"
    yield "parameters: " + ", ".join(f"{name} = {value}" for name, value in prepared.space.shown(stored).items())
    yield f"command of each rank: {shlex.join(words)}"
    if config.trial.command is not None:
        found = shutil.which("python") or "not there"
        yield f"PATH of each rank: as it is here, where python is {found}; the command's own first word python is ours"
    yield "config:"
    yield from ("  " + line for line in prepared.task.describe(settings, seed).splitlines())


def runnable_sample(prepared: Prepared) -> Stored:
    """The first draw of the study's sampler whose settings go together."""
    study = optuna.create_study(sampler=prepared.config.study.sampler.build(prepared.space, prepared.config.study.seed))
    while True:
        stored = prepared.space.suggest(study.ask())
        try:
            prepared.task.check_settings(prepared.space.settings(stored), prepared.config.trial.ranks)
            return stored
        except BadInput:  # as in a study, where such a trial is told as pruned
            if len(study.trials) == JOINT_SAMPLES:
                raise
