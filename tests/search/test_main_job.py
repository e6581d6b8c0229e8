"""The main job, `make run`'s command: the study as it is shipped, whole; and once more, which adds to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness.files import read_json
from tests.command import ROOT, environment


def search(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "search", "run", "ppo-cartpole", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.learning
@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_shipped_study_prunes_finds_and_confirms_and_grows(tmp_path: Path) -> None:
    assert "-m search run ppo-cartpole\n" in (ROOT / "Makefile").read_text(), "this is what `make run` does"
    out = search(cwd=tmp_path)
    folder = tmp_path / "studies" / "ppo-cartpole"
    study = optuna.load_study(storage=f"sqlite:///{folder}/study.db", study_name="ppo-cartpole")
    trials = study.trials
    assert len(trials) >= 12 and all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert len(pruned) >= 3 and all(trial.intermediate_values for trial in pruned)
    results = [read_json(path) for path in sorted(folder.glob("trial-*/seed-0/result.json"))]
    assert len(results) == len(trials) and {result["ranks"] for result in results} == {2}

    confirmed = [read_json(path) for path in sorted(folder.glob("confirm/seed-*/result.json"))]
    assert len(confirmed) == 3 and {result["eval_episodes"] for result in confirmed} == {100}
    assert sum(result["eval_return_mean"] for result in confirmed) / 3 >= 475
    searched = {result["seed"] for result in results}
    assert not searched & {result["seed"] for result in confirmed}, "seeds that the search never saw"
    for words in ("best value:", "optimizer.lr = ", "confirmation:", "files:", "search dashboard --study ppo-cartpole"):
        assert words in out

    search("study.trials=1", cwd=tmp_path)
    assert len(study.trials) == len(trials) + 1, "run again it adds to the same study"
