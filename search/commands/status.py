"""`search status`: a study's trials as a table, drawn anew while the study runs."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.display import Row, near, number, plural, trial_table
from search.space.space import Space
from search.study.budget import BUDGET
from search.study.confirmed import CONFIRMATION
from search.study.existing import find
from search.study.study import OUTCOME, best_trial
from search.study.study_dir import StudyDir
from search.trials.retention import shown_size, size_of

REFRESH_SECONDS = 2.0
NARROWEST = 160  # columns of a table that goes to a file or a pipe


def status(name: str, storage: str | None, once: bool) -> None:
    """Prints the table; on a terminal and without `once` it stays until the study's run is over."""
    study, space = find(name, storage)
    directory = StudyDir(name).path
    console = Console()
    if not console.is_terminal:
        Console(width=NARROWEST).print(overview(study, space, directory))
    elif once:
        console.print(overview(study, space, directory))
    else:
        with (
            contextlib.suppress(KeyboardInterrupt),
            Live(overview(study, space, directory), console=console, auto_refresh=False) as live,
        ):
            while not study.user_attrs.get(BUDGET, {"done": True})["done"]:
                time.sleep(REFRESH_SECONDS)
                live.update(overview(study, space, directory), refresh=True)


def overview(study: optuna.Study, space: Space, directory: Path) -> Group:
    trials = study.get_trials(deepcopy=False)
    lines = [f"study {study.study_name}: {plural(len(trials), 'trial')}, {study.direction.name.lower()}"]
    best, confirmed = best_trial(study), study.user_attrs.get(CONFIRMATION)
    if best is not None:
        lines.append(f"best value: {number(best.value)} (trial {best.number})")
    if confirmed and confirmed["mean"] is not None:
        lines.append(f"confirmed: trial {confirmed['trial']} with {confirmed['mean']:.6g} ± {confirmed['std']:.3g}")
    if directory.is_dir():
        lines.append(f"files: {shown_size(size_of(directory))} in {near(directory)}")
    return Group(trial_table([row(trial, space) for trial in trials]), Text("\n".join(lines)))


def row(trial: FrozenTrial, space: Space) -> Row:
    outcome = trial.user_attrs.get(OUTCOME)
    state = trial.state.name.lower() + (f" ({outcome})" if outcome in ("diverged", "invalid", "stopped") else "")
    value = trial.value
    if value is None and trial.last_step is not None:
        value = trial.intermediate_values[trial.last_step]
    params = ", ".join(f"{name} = {value}" for name, value in space.shown(trial.params).items())
    return Row(str(trial.number), state, params, trial.last_step, value, seconds_of(trial))


def seconds_of(trial: FrozenTrial) -> float:
    if trial.datetime_start is None:
        return 0.0
    return ((trial.datetime_complete or datetime.now()) - trial.datetime_start).total_seconds()
