"""Points of a study: none twice, none that cannot be run, the known ones first; and spaces that become wider."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st
from optuna.samplers import TPESampler

from harness.errors import BadInput
from search.config import StudyConfig, resolve_study
from search.space.constraints import Constraint, check_names
from search.space.parse import read_space
from search.space.space import point_of
from search.space.widening import widened
from search.strategies.proposals import Drawer, NothingLeft
from search.strategies.samplers import SAMPLERS
from search.study.first import enqueue_first, read_first
from search.study.objective import Objective
from search.study.storage import open_storage
from search.study.study import open_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
NINE = {"a": {"choices": [1, 2, 3]}, "b": {"choices": [1, 2, 3]}}
SIZES = {
    "count": {"choices": [1, 2, 4]},
    "steps": {"choices": [8, 16, 32]},
    "batch": {"choices": [8, 64, 512]},
}
CONFIG: dict[str, Any] = {"study": {"name": "s"}, "trial": {"command": ["a", "{x}"]}}


def anything(settings: Mapping[str, Any]) -> None: ...


def fits(settings: Mapping[str, Any]) -> None:
    if settings["batch"] > settings["count"] * settings["steps"]:
        raise BadInput(f"batch = {settings['batch']} is too large")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_draws_a_point_twice_and_a_finite_space_ends(sampler: str) -> None:
    space = read_space(NINE)
    config = resolve_study({**CONFIG, "space": NINE, "study": {"name": "s", "sampler": sampler}})
    study = optuna.create_study(sampler=config.study.sampler.build(space, 1))
    drawer = Drawer(study, space, anything)
    while not drawer.exhausted:
        trial = study.ask()
        stored = drawer.draw(trial)
        study.tell(trial, 10.0 * stored["a"] + stored["b"])
    assert sorted((trial.params["a"], trial.params["b"]) for trial in study.trials) == [
        (a, b) for a in (1, 2, 3) for b in (1, 2, 3)
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_that_do_not_go_together_are_drawn_again_and_leave_nothing(sampler: str) -> None:
    space = read_space(SIZES)
    config = resolve_study({**CONFIG, "space": SIZES, "study": {"name": "s", "sampler": sampler}})
    study = optuna.create_study(sampler=config.study.sampler.build(space, 1))
    drawer = Drawer(study, space, fits)
    while not drawer.exhausted:
        trial = study.ask()
        fits(space.settings(drawer.draw(trial)))
        study.tell(trial, 1.0)
    runnable = [point for point in space.grid() if point["batch"] <= point["count"] * point["steps"]]
    assert {point_of(trial.params) for trial in study.trials} == {point_of(point) for point in runnable}
    assert len(study.trials) == len(runnable)


def test_a_space_of_which_nothing_can_be_run_says_so() -> None:
    def nothing(settings: Mapping[str, Any]) -> None:
        raise BadInput("never")

    study = optuna.create_study(sampler=TPESampler(seed=1))
    with pytest.raises(NothingLeft, match="none of 200 draws .* the last: never"):
        Drawer(study, read_space({"x": {"low": 0.0, "high": 1.0}}), nothing).draw(study.ask())


@given(st.dictionaries(
    st.sampled_from(["lr", "hidden", "opt", "momentum", "lrr", ""]),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.lists(st.integers(0, 99)),
        st.sampled_from(["64x64", "sgd", "adam", 0.5, 10**400, -(10**30)]),
    ),
))  # fmt: skip
@of_hypothesis(max_examples=150, deadline=None)
def test_whatever_is_queued_is_drawn_or_refused_in_one_line(params: dict[str, Any]) -> None:
    space = read_space({
        "lr": {"low": 0.1, "high": 0.9}, "hidden": {"choices": [[32, 32], [64, 64]]},
        "opt": {"choices": ["adam", "sgd"]},
        "momentum": {"low": 1, "high": 3, "when": {"opt": "sgd"}},
    })  # fmt: skip
    study = optuna.create_study(sampler=TPESampler(seed=1))
    study.enqueue_trial(params)
    trial = study.ask()
    try:
        stored = Drawer(study, space, anything).draw(trial)
    except BadInput as error:
        assert "\n" not in str(error) and trial.params == {}
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    assert {name: stored[name] for name in params} == params and trial.params == stored


def test_known_settings_are_read_as_users_write_them_and_queued_once() -> None:
    space = read_space({
        "algorithm.gamma": {"low": -3.0, "high": -1.0, "transform": "1 - 10**x"},
        "network.hidden": {"choices": [[32, 32], [64, 64]]},
        "n": {"low": 2, "high": 8, "step": 2, "transform": "x * 10"},
    })  # fmt: skip
    first = read_first([{"algorithm": {"gamma": 0.99}, "network.hidden": [64, 64], "n": 60}], space, anything)
    assert first[0]["algorithm.gamma"] == pytest.approx(-2.0, abs=1e-9)
    assert (first[0]["network.hidden"], first[0]["n"]) == ("64x64", 6)
    study = optuna.create_study()
    assert (enqueue_first(study, first), enqueue_first(study, first)) == (1, 0)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"count": 3}, "study.first, number 1: count = 3: it may be one of 1, 2, 4"),
        ({"cuont": 1}, "cuont is no parameter of the space; did you mean count?"),
        ({"count": 1, "steps": 8, "batch": 512}, "batch = 512 is too large"),
        ({"count": 1, "batch": 512}, "batch = 512 is too large"),
        ({}, "names no parameter; it may hold count, steps, batch"),
    ],
)
def test_known_settings_that_cannot_be_run_are_refused_before_anything_starts(entry: Any, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_first([entry], read_space(SIZES), fits)
    assert says in str(refused.value)


VALUES = {"env.count": 4, "steps": 32, "lr-max": 0.1, "opt": "adam", "hidden": [64, 32], "kl": None}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("env.count * steps >= 128", True),
        ("env.count * steps % 3 == 0", False),
        ("{lr-max} < 0.05 or opt == 'adam' and len(hidden) == 2", True),
        ("not opt in ['sgd', 'rmsprop']", True),
        ("hidden[0] == hidden[1]", False),
        ("1 < env.count <= 4", True),
        ("kl == none", True),
        ("momentum > 0.5", True),  # there is none in this trial
    ],
)
def test_a_constraint_holds_or_not(text: str, holds: bool) -> None:
    assert Constraint(text).holds(VALUES) is holds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps >=", "is no condition"),
        ("__import__('os')", "has"),
        ("steps.__class__()", "has"),
        ("[x for x in hidden]", "has"),
        ("lambda: 1", "has"),
    ],
)
def test_what_is_no_constraint_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Constraint(text)


def test_a_constraint_on_a_setting_that_is_not_there_names_the_near_one() -> None:
    with pytest.raises(BadInput, match="env.cuont is no setting; did you mean env.count"):
        check_names([Constraint("env.cuont > 1")], VALUES)
    with pytest.raises(BadInput, match="cannot be evaluated"):
        Constraint("opt > 3").holds(VALUES)


def study_with(tmp_path: Path, table: dict[str, Any]) -> tuple[optuna.Study, Any]:
    config: StudyConfig = resolve_study({**CONFIG, "space": table})
    storage = open_storage(f"sqlite:///{tmp_path}/s.db", create=True)
    return open_study(config, read_space(table), Objective((1,), None, "median"), storage), storage


def test_wider_bounds_and_more_choices_are_taken_up_and_the_sampler_learns_from_all(tmp_path: Path) -> None:
    before = {"lr": {"low": 0.1, "high": 0.5}, "n": {"choices": [[8], [16]]}, "k": {"low": 2, "high": 4, "step": 2}}
    after = {
        "lr": {"low": 0.1, "high": 0.9}, "n": {"choices": [[4], [8], [16]]}, "k": {"low": 1, "high": 5},
    }  # fmt: skip
    study, storage = study_with(tmp_path, before)
    for _ in range(3):
        trial = study.ask()
        Drawer(study, read_space(before), anything).draw(trial)
        study.tell(trial, 1.0)
    was = [trial.params for trial in study.trials]

    space, lines = widened(study, read_space(after), open_storage(f"sqlite:///{tmp_path}/s.db"))
    assert [line.split(" was")[0] for line in lines] == ["space.lr", "space.n", "space.k"]
    study, storage = study_with(tmp_path, after | {"n": {"choices": [[8], [16], [4]]}})

    assert [trial.params for trial in study.trials] == was
    assert space.settings({"n": "4"}) == {"n": [4]}
    drawer = Drawer(study, space, anything)
    for _ in range(20):
        trial = study.ask()
        drawer.draw(trial)
        study.tell(trial, 1.0)
    assert len({json.dumps(t.distributions, default=str, sort_keys=True) for t in study.trials}) == 1
    assert {trial.params["n"] for trial in study.trials} == {"4", "8", "16"}
    assert max(trial.params["lr"] for trial in study.trials) > 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"lr": {"low": 0.2, "high": 0.9}},
        {"lr": {"low": 0.1, "high": 0.9, "log": True}},
        {"lr": {"choices": [0.1, 0.5]}},
        {"n": {"choices": [[8]]}},
        {"k": {"low": 1, "high": 9, "step": 4}},
        {"more": {"low": 1, "high": 2}},
    ],
)
def test_what_is_not_wider_is_refused_and_changes_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    before = {"lr": {"low": 0.1, "high": 0.5}, "n": {"choices": [[8], [16]]}, "k": {"low": 2, "high": 4, "step": 2}}
    study, storage = study_with(tmp_path, before)
    described = study.user_attrs["space"]
    assert widened(study, read_space({**before, **change}), storage)[1] == []
    assert study.user_attrs["space"] == described
    with pytest.raises(BadInput, match="exists with another space"):
        study_with(tmp_path, {**before, **change})


def test_a_grid_of_too_many_points_is_refused_before_any_is_listed() -> None:
    for table in (
        {"n": {"low": 0, "high": 4_000_000_000}},
        {"n": {"low": 0.0, "high": 1.0, "step": 1e-9}},
        {name: {"low": 1, "high": 1000} for name in "abcd"},
    ):
        space = read_space(table)
        with pytest.raises(BadInput, match="more than 100000 points"):
            space.grid()
        assert space.size is None
