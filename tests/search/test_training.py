"""Studies of the real `harness train` on two ranks."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from typing import Any

import pytest

from harness.launching.processes import processes_of
from search.__main__ import main
from tests.search.conftest import Workplace

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SHORT = {
    "run.steps": 4096,
    "evaluation.count": 4,
    "evaluation.episodes": 4,
    "evaluation.final_episodes": 4,
    "logging.tensorboard": False,
}


def ppo_study(workplace: Workplace, space: dict[str, Any], **study: Any) -> None:
    import tomli_w

    table = {
        "study": {"name": "s", "trials": 2, "sampler": "random", **study},
        "trial": {"preset": "ppo-cartpole", "ranks": 2, "max_minutes": 3, "overrides": SHORT},
        "space": space,
        "confirm": {"seeds": 0},
    }
    (workplace.path / "study.toml").write_text(tomli_w.dumps(table))


LR = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}


def test_a_study_of_ppo_on_two_ranks_is_confirmed_and_its_best_is_a_config(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ppo_study(workplace, {**LR, "algorithm.gamma": {"low": -3.0, "high": -1.0, "transform": "1 - 10**x"}})

    workplace.run("confirm.seeds=1", "confirm.episodes=6")

    study, trials = workplace.path / "studies" / "s", workplace.trials()
    for trial in trials:
        result = json.loads((study / trial.user_attrs["directory"] / "seed-0" / "result.json").read_text())
        assert (result["status"], result["ranks"], result["value"]) == ("done", 2, trial.value)
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
    confirmed = json.loads((study / "confirm/seed-0/result.json").read_text())
    assert confirmed["eval_episodes"] == 6 and confirmed["seed"] not in trials[0].user_attrs["seeds"]

    monkeypatch.chdir(workplace.path)
    assert main(["best", "--study", "s", "--toml"]) == 0
    config = tomllib.loads(capsys.readouterr().out)
    best = max(trials, key=lambda trial: trial.value or 0)
    assert config["optimizer"]["lr"] == best.params["optimizer.lr"]
    assert config["algorithm"]["gamma"] == 1 - 10 ** best.params["algorithm.gamma"]
    assert config["run"]["steps"] == 4096


@pytest.mark.slow
def test_bad_trials_are_pruned_whatever_the_length_of_their_rollouts(workplace: Workplace) -> None:
    """Reports are numbered by evaluation, so that a trial meets others at its steps; by env steps it would not."""
    space = {"algorithm.rollout_steps": {"choices": [32, 64, 128]}, "optimizer.lr": {"choices": [1e-3, 1e-9]}}
    pruner = {"name": "percentile", "percentile": 25.0, "n_startup_trials": 2, "n_warmup_steps": 2}
    ppo_study(workplace, space, sampler="grid", trials=6, pruner=pruner)

    # long enough after the second evaluation for the rank to hear of the verdict, which it looks for once a second
    longer = ("run.steps=49152", "evaluation.count=10", "compile.mode=off", "algorithm.epochs=4")
    workplace.run(*(f"trial.overrides.{setting}" for setting in longer), "trial.launcher=mpirun", "trial.ranks=1")

    trials = workplace.trials()
    first_good = min(trial.number for trial in trials if trial.params["optimizer.lr"] == 1e-3)
    bad = [trial for trial in trials[max(first_good + 1, 2) :] if trial.params["optimizer.lr"] == 1e-9]
    assert len(bad) >= 2 and [trial.state.name for trial in bad] == ["PRUNED"] * len(bad)
    assert len({trial.params["algorithm.rollout_steps"] for trial in trials}) == 3
    assert all(set(trial.intermediate_values) <= set(range(1, 11)) for trial in trials)


def test_both_ranks_of_a_pruned_trial_leave_at_the_same_boundary(workplace: Workplace) -> None:
    ppo_study(workplace, LR, trials=1, pruner={"name": "threshold", "lower": 1000.0})

    workplace.run("trial.overrides.run.steps=200000", "trial.overrides.evaluation.count=40", rc=1)

    (trial,) = workplace.trials()
    result = json.loads((workplace.path / "studies/s/trial-00000/seed-0/result.json").read_text())
    assert trial.state.name == "PRUNED" and result["status"] == "pruned"
    assert result["env_steps"] < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_killed_or_stopped_in_training_is_named_and_the_next_trial_runs(
    number: signal.Signals, workplace: Workplace
) -> None:
    ppo_study(workplace, LR)
    driver = workplace.start("trial.overrides.run.steps=100000")
    reports = workplace.path / "studies/s/trial-00000/reports.jsonl"
    workplace.wait_for(reports.exists, 90, "report of the first trial")
    run_id = json.loads((workplace.path / "studies/s/trial-00000/job.json").read_text())["seeds"]["0"]["run_id"]
    (victim,) = [process.pid for process in processes_of(run_id).values() if process.rank == "1" and process.listens]
    os.kill(victim, number)

    workplace.wait_for(lambda: (workplace.path / "studies/s/trial-00001").exists(), 40, "second trial")
    killed = workplace.trials()[0]
    assert killed.state.name == "FAIL"
    assert "rank 1" in killed.user_attrs["reason"] and number.name in killed.user_attrs["reason"]
    assert not processes_of(run_id)
    driver.terminate()
    assert driver.wait(timeout=300) == 75
    assert workplace.states() == ["FAIL", "FAIL", "WAITING"]
