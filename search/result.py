"""The result of a search, as an object and as the lines that end it on the screen."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from harness.launching.own_module import python_module
from search.display import near, number, plural
from search.space.space import Space
from search.study.confirmed import Confirmation
from search.study.storage import without_password
from search.study.study import best_trial
from search.study.study_dir import StudyDir


@dataclass(frozen=True)
class Ending:
    status: Literal["done", "stopped", "failed"]
    """stopped: on request, run it again to resume. failed: `reason` says why."""
    reason: str = ""


@dataclass(frozen=True)
class StudyResult:
    study: str
    ending: Ending
    directory: Path
    storage: str
    """URL of the storage, without a password."""
    trials: Mapping[str, int]
    """Optuna's state -> number of trials in the whole study."""
    best_trial: int | None = None
    best_value: float | None = None
    best_settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted setting -> value, of the best trial."""
    best_shown: Mapping[str, str] = field(default_factory=dict)
    """The same for people."""
    confirmation: Confirmation | None = None

    def lines(self) -> Iterator[str]:
        """The end of a search, for people."""
        counted = ", ".join(f"{count} {state.lower()}" for state, count in self.trials.items())
        yield f"study {self.study}: {plural(sum(self.trials.values()), 'trial')} ({counted})"
        if self.best_trial is not None:
            yield f"best value: {number(self.best_value)} (trial {self.best_trial})"
            for name, value in self.best_shown.items():
                yield f"  {name} = {value}"
        if self.confirmation is not None:
            yield f"confirmation: {self.confirmation.describe()}"
            for failure in self.confirmation.failures:
                yield f"  {failure}"
        yield f"files: {near(self.directory)}"
        yield f"storage: {self.storage}"
        if self.best_trial is not None:
            yield f"best again: {self.command('best')}"
        yield f"dashboard: {self.command('dashboard')}"

    def command(self, name: str, *options: str) -> str:
        """A command of this package on this study, as it can be typed here."""
        own_storage = self.storage == StudyDir(self.study).database
        words = [*python_module("search", python_here()), name, "--study", self.study, *options]
        if own_storage:
            return shlex.join(words)
        if ":***@" in self.storage:  # the password is not to be shown: whoever types this puts the URL there
            return f'{shlex.join(words)} --storage "$STORAGE"'
        return shlex.join([*words, "--storage", self.storage])


def collect(
    study: optuna.Study,
    space: Space,
    directory: StudyDir,
    storage: str,
    confirmation: Confirmation | None,
    ending: Ending,
) -> StudyResult:
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    counts = {state.name: states[state.name] for state in TrialState if states[state.name]}
    best = best_trial(study)
    common = (directory.name, ending, directory.path, without_password(storage), counts)
    if best is None:
        return StudyResult(*common)
    settings, shown = space.settings(best.params), space.shown(best.params)
    return StudyResult(*common, best.number, best.value, settings, shown, confirmation)


def python_here() -> str:
    """How this Python is called from this directory: `python` where the PATH leads to it."""
    if shutil.which("python") == sys.executable:
        return "python"
    return near(Path(os.path.abspath(sys.executable)))
