"""Samplers, pruners and storages as studies use them: by ask and tell, on a real database."""

from __future__ import annotations

import inspect
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.errors import BadInput
from search.config import StudyConfig, dotted, load_study, resolve_study
from search.space.parse import read_space
from search.space.space import Space
from search.strategies.proposals import Drawer
from search.strategies.pruners import PRUNERS
from search.strategies.samplers import SAMPLERS, sampler_seed
from search.study.budget import TrialBudget
from search.study.objective import Objective
from search.study.storage import open_storage
from search.study.study import OUTCOME, best_trial, changed_settings, enqueue_again, open_study, worst_value
from tests.conftest import slow

SPACE: dict[str, Any] = {
    "opt": {"choices": ["adam", "sgd"]},
    "lr": {"low": 0.1, "high": 0.9, "step": 0.2},
    "momentum": {"low": 1, "high": 3, "when": {"opt": "sgd"}},
}
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
OBJECTIVE = Objective((1,), 4, "median")


def config_of(study: dict[str, Any] | None = None, space: dict[str, Any] = SPACE, **sections: Any) -> StudyConfig:
    return resolve_study(
        {"study": {"name": "s", **(study or {})}, "trial": {"command": ["a", "{x}"]}, "space": space, **sections}
    )


def opened(tmp_path: Path, config: StudyConfig) -> tuple[optuna.Study, Space]:
    space = read_space(config.space)
    return open_study(config, space, OBJECTIVE, open_storage(f"sqlite:///{tmp_path}/s.db", create=True)), space


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_proposes_points_of_a_conditional_space(sampler: str, tmp_path: Path) -> None:
    study, space = opened(tmp_path, config_of({"sampler": sampler}))
    for number in range(14):
        trial = study.ask()
        stored = space.suggest(trial)
        assert ("momentum" in stored) == (stored["opt"] == "sgd")
        study.tell(trial, stored["lr"])
    assert len(study.trials) == 14


def test_the_grid_is_each_point_once_and_then_over(tmp_path: Path) -> None:
    study, space = opened(tmp_path, config_of({"sampler": "grid"}))
    points: list[dict[str, Any]] = []
    drawer = Drawer(study, space, lambda settings: None)
    while not drawer.exhausted:
        pair = [study.ask(), study.ask()] if len(points) < 6 else [study.ask()]  # at times two are running
        points += [space.suggest(trial) for trial in pair]
        for trial in pair:
            study.tell(
                trial, state=TrialState.FAIL if trial.number == 3 else None, values=None if trial.number == 3 else 1
            )
    keys = {tuple(sorted(point.items())) for point in points}
    assert len(points) == len(keys) == len(space.grid()) == 5 + 5 * 3


def test_a_queued_point_is_run_before_the_grid_is_over(tmp_path: Path) -> None:
    study, space = opened(tmp_path, config_of({"sampler": "grid"}, {"a": {"choices": [1, 2]}}))
    for _ in range(2):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, state=TrialState.FAIL)
    drawer = Drawer(study, space, lambda settings: None)
    assert drawer.exhausted
    enqueue_again(study, study.trials[0])
    assert not drawer.exhausted


@pytest.mark.parametrize(
    "pruner",
    [
        "median",
        {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 1},
        {"name": "percentile", "percentile": 50.0, "n_startup_trials": 1},
        {"name": "halving", "min_resource": 1, "reduction_factor": 2},
        slow({"name": "hyperband", "reduction_factor": 2}),
        {"name": "threshold", "lower": 0.5},
        {"name": "patient", "patience": 1, "wrapped_pruner": {"name": "median", "n_startup_trials": 1}},
        slow({"name": "wilcoxon", "p_threshold": 0.2}),  # its statistics' library takes seconds to load
        "none",
    ],
)
def test_every_pruner_judges_reports(pruner: Any, tmp_path: Path) -> None:
    """Eight trials, the even ones bad from their first step: no pruner ends the first, `none` ends none."""
    study, space = opened(tmp_path, config_of({"pruner": pruner, "sampler": "random"}))
    for number in range(8):
        trial = study.ask()
        space.suggest(trial)
        state = TrialState.COMPLETE
        for step in range(1, 31):
            trial.report(step * (1.0 if number % 2 else -1.0), step)
            if trial.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(trial, float(number % 2) if state == TrialState.COMPLETE else None, state)
    pruned = [trial.number for trial in study.trials if trial.state == TrialState.PRUNED]
    if pruner == "none":
        assert not pruned
    else:
        assert pruned and all(number % 2 == 0 for number in pruned)


def test_every_name_of_a_strategy_is_tested_here() -> None:
    names = {"median", "percentile", "halving", "hyperband", "threshold", "patient", "wilcoxon", "none"}
    assert set(PRUNERS) == names and set(SAMPLERS) == {"tpe", "gp", "cmaes", "random", "grid"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pruner": "medain"}, "study.pruner: medain is no pruner; did you mean median"),
        ({"sampler": "tpee"}, "study.sampler: tpee is no sampler; did you mean tpe"),
        ({"pruner": {"name": "median", "startup": 1}}, "study.pruner.startup is no setting"),
        ({"pruner": {"name": "threshold"}}, "needs lower or upper"),
        ({"pruner": {"name": "patient", "wrapped_pruner": "x"}}, "study.pruner.wrapped_pruner: x is no pruner"),
        ({"sampler": {"name": "tpe", "n_startup_trials": -1}}, "study.sampler.n_startup_trials must be >= 0, got -1"),
        (
            {"sampler": {"name": "gp", "startup_trials": 1, "n_startup_trials": 1}},
            "startup_trials is the old name of n_",
        ),
        ({"trials": 0}, "study.trials must be >= 1, got 0"),
        ({"name": "a/b"}, "study.name"),
        ({"direction": "up"}, "study.direction must be 'maximize' or 'minimize'"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        config_of(settings)


def test_names_of_the_release_before_are_read_and_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    patient = {"name": "patient", "pruner": {"name": "wilcoxon", "startup_steps": 4}}
    config = config_of({"sampler": {"name": "gp", "startup_trials": 3}, "pruner": patient})

    assert config.study.sampler == SAMPLERS["gp"](name="gp", n_startup_trials=3)
    assert config.study.pruner.build(8)._wrapped_pruner._n_startup_steps == 4
    assert capsys.readouterr().err.splitlines() == [
        "study.sampler.startup_trials is now n_startup_trials",
        "study.pruner.pruner is now wrapped_pruner",
        "study.pruner.wrapped_pruner.startup_steps is now n_startup_steps",
    ]


@pytest.mark.parametrize("names", [SAMPLERS, PRUNERS])
def test_each_setting_of_a_strategy_is_an_argument_of_optunas(names: dict[str, Any]) -> None:
    space = read_space({"x": {"choices": [1, 2]}})
    for name, settings in names.items():
        made = settings(name=name, **({"lower": 1.0} if name == "threshold" else {}))
        built = made.build(space, 0) if names is SAMPLERS else made.build(4)
        known = inspect.signature(type(built).__init__).parameters
        assert set(settings.model_fields) - {"name"} <= set(known), name


def test_the_shipped_study_is_read_and_written_as_it_is() -> None:
    config = load_study("ppo-cartpole", ["study.trials=3", "space.optimizer.lr.high=0.5"], {"name": "mine"})
    assert (config.study.name, config.study.trials, config.trial.ranks) == ("mine", 3, 2)
    assert resolve_study(config.to_table()) == config


def test_fixed_settings_may_be_nested_or_dotted() -> None:
    assert dotted({"run": {"steps": 1}, "env.kwargs": {}, "a.b": {"c": 2}}) == {
        "run.steps": 1,
        "env.kwargs": {},
        "a.b.c": 2,
    }


def test_another_space_or_direction_is_refused_and_the_same_is_not(tmp_path: Path) -> None:
    study, _ = opened(tmp_path, config_of())
    opened(tmp_path, config_of({"trials": 5, "sampler": "random"}))
    with pytest.raises(BadInput, match="exists with study.direction = 'maximize', got 'minimize'"):
        opened(tmp_path, config_of({"direction": "minimize"}))
    with pytest.raises(BadInput, match=r"exists with another space \(lr was .*0.9.*, is now .*0.7"):
        opened(tmp_path, config_of(space={**SPACE, "lr": {"low": 0.1, "high": 0.7, "step": 0.2}}))
    with pytest.raises(BadInput, match="momentum was searched"):
        opened(tmp_path, config_of(space={"opt": SPACE["opt"], "lr": SPACE["lr"]}))


def test_a_study_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db", create=True)
    foreign = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    foreign.tell(foreign.ask(), 1.0)
    with pytest.raises(BadInput, match="not made by `search run`"):
        opened(tmp_path, config_of())


def test_a_change_of_the_question_is_noted(tmp_path: Path) -> None:
    study, _ = opened(tmp_path, config_of())
    study.set_user_attr("config", config_of().to_table())
    assert changed_settings(study, config_of({"trials": 9})) == []
    changed = config_of(trial={"command": ["a", "{x}"], "overrides": {"steps": 3}})
    assert changed_settings(study, changed) == ["trial.overrides was {}, is now {'steps': 3}"]


def test_a_second_run_draws_other_parameters_than_the_first(tmp_path: Path) -> None:
    assert sampler_seed(0, 0) == sampler_seed(0, 0) != sampler_seed(0, 3)


def test_an_interrupted_plan_goes_on_and_a_finished_one_grows(tmp_path: Path) -> None:
    study, space = opened(tmp_path, config_of())
    plan = TrialBudget(study, 3)
    for state in (None, TrialState.FAIL):
        trial = study.ask()
        if state is not None:
            trial.set_user_attr(OUTCOME, "stopped")
        study.tell(trial, 1.0 if state is None else None, state)
    assert plan.left(0) == 2  # a stopped trial is not one of those asked for

    again = TrialBudget(study, 3)
    assert again.resumes and again.left(1) == 1
    again.done()
    assert not TrialBudget(study, 4).resumes and TrialBudget(study, 4).left(0) == 4
    changed = TrialBudget(study, 9)
    assert not changed.resumes and changed.left(0) == 9, "asked for another number, it starts over"


def test_the_worst_value_is_of_all_that_was_reported_and_the_best_of_what_was_completed(tmp_path: Path) -> None:
    study, _ = opened(tmp_path, config_of())
    assert worst_value(study) is None and best_trial(study) is None
    first, second = study.ask(), study.ask()
    first.report(-3.0, 1)
    study.tell(first, 2.0)
    second.report(9.0, 1)
    study.tell(second, state=TrialState.PRUNED)
    best = best_trial(study)
    assert worst_value(study) == -3.0 and best is not None and best.number == 0


@pytest.mark.slow
def test_sqlite_is_in_wal_mode_and_a_writer_waits_for_a_slow_one(tmp_path: Path) -> None:
    study, _ = opened(tmp_path, config_of())
    path = tmp_path / "s.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(6.0, lambda: other.execute("COMMIT")).start()  # longer than SQLite's own patience of 5 s

    began = time.monotonic()
    study.get_trials()  # readers do not wait for writers
    assert time.monotonic() - began < 5
    study.set_user_attr("a", 1)
    assert study.user_attrs["a"] == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("study.db", "is no database URL"),
        ("sqlite:////nowhere/at/all/study.db", "unable to open"),
        ("postgresql://user:secret@127.0.0.1:9/x", r"user:\*\*\*@127.0.0.1:9/x cannot be reached at 127.0.0.1:9"),
        ("mysql://no.such.host.invalid/x", "cannot be reached at no.such.host.invalid:3306"),
        ("nodb://x/y", "no database of the kind 'nodb'"),
    ],
)
def test_a_storage_that_cannot_be_had_is_one_line_within_seconds(url: str, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match=says) as refused:
        open_storage(url, create=True)
    assert time.monotonic() - began < 60
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("this is no database at all, and long enough to be looked at " * 20)
    with pytest.raises(BadInput, match="not a database"):
        open_storage(f"sqlite:///{tmp_path}/a.db", create=True)
    with pytest.raises(BadInput, match="no such file"):
        open_storage(f"sqlite:///{tmp_path}/b.db")
