"""`search best`: a study's best parameters, its config for `harness train`, or its policy; `search retry`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from harness.errors import BadInput
from harness.lifecycle.result import read_result
from search.display import number
from search.study.confirmed import CONFIRMATION
from search.study.existing import find
from search.study.study import OUTCOME, best_trial, enqueue_again
from search.study.study_dir import StudyDir

NOT_AGAIN = ("stopped", "invalid")
"""Outcomes of failed trials whose parameters are queued already, or can never be run."""


def best(name: str, storage: str | None, toml: bool, output: Path | None = None) -> None:
    """Prints the best trial's value and parameters; with `toml` its whole config, and nothing else. `output`: a file
    that its policy is exported to."""
    study, space = find(name, storage)
    trial = best_trial(study)
    if trial is None:
        raise BadInput(f"study {name} has no completed trial yet")
    if toml:
        print(best_toml(StudyDir(name).trial(trial.number), name), end="")
        return
    if output is not None:
        export_best(StudyDir(name), trial.number, study.user_attrs.get(CONFIRMATION), output)
        return
    print(f"trial {trial.number} with value {number(trial.value)}")
    confirmed = study.user_attrs.get(CONFIRMATION)
    if confirmed and confirmed["trial"] == trial.number and confirmed["mean"] is not None:
        print(
            f"confirmed: {confirmed['mean']:.6g} ± {confirmed['std']:.3g} over {len(confirmed['values'])} unseen seeds"
        )
    for setting, value in space.shown(trial.params).items():
        print(f"{setting} = {value}")


def best_toml(trial_dir: Path, name: str) -> str:
    """The config that the trial ran with."""
    path = trial_dir / "config.toml"
    if not path.is_file():
        raise BadInput(f"the best trial's config is not on this machine: {path}")
    text = path.read_text()
    if "command" in tomllib.loads(text):
        raise BadInput(f"study {name} runs a command of its own, so there is no config for harness train; see {path}")
    return text


def export_best(directory: StudyDir, trial: int, confirmed: dict[str, Any] | None, output: Path) -> None:
    """The policies of the seeds that confirmed the trial as one that decides by their mean; or the trial's own."""
    best_toml(directory.trial(trial), directory.path.name)  # BadInput where there is no policy, or it is not here
    parent = directory.confirm if confirmed and confirmed["trial"] == trial else directory.trial(trial)
    runs = [run for run in sorted(parent.glob("seed-*")) if getattr(read_result(run), "status", None) == "done"]
    if not runs:
        raise BadInput(f"{parent} has no run that is done: there is no policy to export")
    together = ["--ensemble", "mean"] if len(runs) > 1 else []
    command = [sys.executable, "-m", "harness", "export", *map(str, runs), *together, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)  # a process of its own: this one has no torch
    if done.returncode:
        raise BadInput((done.stderr.strip().splitlines() or ["it cannot be exported"])[-1].removeprefix("harness: "))
    print(done.stdout, end="")


def retry(name: str, storage: str | None) -> int:
    """Queues each failed trial's parameters again, once; how many. The next `search run` takes them first."""
    study, _ = find(name, storage)
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return sum(enqueue_again(study, trial) for trial in failed if trial.user_attrs.get(OUTCOME) not in NOT_AGAIN)
