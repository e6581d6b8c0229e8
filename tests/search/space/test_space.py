"""From `[space]` to what Optuna samples and stores, and back to settings."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.errors import BadInput
from search.space.parse import read_space
from search.space.space import same_space


def sample(table: dict[str, Any], count: int = 50) -> list[dict[str, Any]]:
    """The stored values of so many random trials."""
    space = read_space(table)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_numbers_and_choices_become_optunas_distributions() -> None:
    space = read_space(
        {
            "lr": {"low": 1e-5, "high": 1e-2, "log": True},
            "layers": {"low": 1, "high": 4},
            "width": {"low": 32, "high": 128, "step": 32},
            "clip": {"low": 0, "high": 1, "type": "float"},
            "name": {"choices": ["adam", "sgd"]},
        }
    )
    assert [parameter.distribution for parameter in space.parameters] == [
        FloatDistribution(1e-5, 1e-2, log=True),
        IntDistribution(1, 4),
        IntDistribution(32, 128, step=32),
        FloatDistribution(0.0, 1.0),
        CategoricalDistribution(["adam", "sgd"]),
    ]


def test_lists_are_stored_under_a_readable_name_and_come_back_as_lists() -> None:
    table = {"network.hidden": {"choices": [[64, 64], [256], [0.5, 1.0]]}}
    space = read_space(table)

    assert list(space.parameters[0].choices) == ["64x64", "256", "[0.5, 1.0]"]
    assert space.settings({"network.hidden": "64x64"}) == {"network.hidden": [64, 64]}
    assert {stored["network.hidden"] for stored in sample(table)} == {"64x64", "256", "[0.5, 1.0]"}


def test_names_that_would_be_the_same_are_told_apart() -> None:
    choices = read_space({"a": {"choices": ["64x64", [64, 64]]}}).parameters[0].choices
    assert choices == {"64x64": "64x64", "[64, 64]": [64, 64]}


def test_a_transformed_parameter_stores_x_and_sets_its_value() -> None:
    space = read_space({"algorithm.gamma": {"low": -3.0, "high": -1.0, "transform": "1 - 10^x"}})

    assert space.settings({"algorithm.gamma": -2.0}) == {"algorithm.gamma": 0.99}
    assert space.shown({"algorithm.gamma": -2.0}) == {"algorithm.gamma": "0.99 (x = -2)"}


def test_conditional_parameters_exist_only_under_their_parents_values() -> None:
    table = {
        "momentum": {"low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},  # before its parent
        "optimizer": {"choices": ["adam", "sgd", "rmsprop"]},
        "beta": {"low": 0.8, "high": 0.99, "when": {"optimizer": ["adam", "rmsprop"]}},
        "nesterov": {"choices": [True, False], "when": {"momentum": 0.5}},
        "heads": {"low": 1, "high": 2, "when": {"hidden": [64, 64]}},  # one choice that is a list
        "hidden": {"choices": [[64, 64], [32, 32]]},
    }
    for stored in sample(table):
        assert ("momentum" in stored) == (stored["optimizer"] == "sgd")
        assert ("beta" in stored) == (stored["optimizer"] in ("adam", "rmsprop"))
        assert "nesterov" not in stored or stored["momentum"] == 0.5
        assert ("heads" in stored) == (stored["hidden"] == "64x64")


def test_nested_names_and_overrides_are_the_quoted_ones() -> None:
    table = {
        "optimizer.lr": {"low": 0.1, "high": 0.5},
        "optimizer": {"lr": {"low": 0.2}},
        "env": {"count": {"choices": [1]}},
    }
    space = read_space(table)
    assert space.names == ["optimizer.lr", "env.count"]
    assert space.parameters[0].distribution == FloatDistribution(0.2, 0.5)


def test_a_grid_has_each_point_once_and_nothing_that_does_not_exist() -> None:
    space = read_space(
        {
            "a": {"choices": ["x", "y"]},
            "b": {"low": 1, "high": 3, "when": {"a": "x"}},
            "c": {"low": 0.0, "high": 0.5, "step": 0.25},
        }
    )
    points = space.grid()
    assert len(points) == 3 * 3 + 3
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    assert all(("b" in point) == (point["a"] == "x") for point in points)
    assert {point["c"] for point in points} == {0.0, 0.25, 0.5}


def test_probes_hold_both_bounds_and_what_they_need_to_exist() -> None:
    space = read_space(
        {"opt": {"choices": ["adam", "sgd"]}, "momentum": {"low": 0.0, "high": 0.9, "when": {"opt": "sgd"}}}
    )
    assert [stored for parameter, stored in space.probes() if parameter.name == "momentum"] == [
        {"opt": "sgd", "momentum": 0.0},
        {"opt": "sgd", "momentum": 0.9},
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"low": 1.0}, "needs low and high, or choices"),
        ({"low": 2.0, "high": 1.0}, "high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "log"),
        ({"low": 1, "high": 9, "lgo": True}, r"space.p.lgo is no setting"),
        ({"low": 1, "high": 9.5, "type": "int"}, "not all whole numbers"),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "step"),
        ({"choices": []}, "at least one"),
        ({"choices": [1, 1]}, "twice"),
        ({"choices": [1, 2], "low": 3}, "choices, so it cannot have low"),
        ({"low": -1.0, "high": 1.0, "transform": "1 / x0"}, "uses x0"),
        ({"low": 0.0, "high": 1.0, "transform": "1 / x"}, "no value at x"),
        ({"choices": [1], "when": {"q": 1}}, "q, which is not in the space"),
        ({"choices": [1], "when": {"parent": "c"}}, "parent is never c; it may be a, b"),
        ({"low": "1", "high": 2}, "space.p.low"),
        (3, "space.p must be a table such as"),
    ],
)
def test_a_line_that_cannot_be_is_refused_by_name(line: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_space({"parent": {"choices": ["a", "b"]}, "p": line})


def test_conditions_in_a_circle_are_refused() -> None:
    with pytest.raises(BadInput, match="depend on each other"):
        read_space({"a": {"choices": [1], "when": {"b": 1}}, "b": {"choices": [1], "when": {"a": 1}}})


def test_two_spaces_are_the_same_whatever_the_order_of_their_tables() -> None:
    one = read_space({"a": {"low": 1, "high": 2}, "b": {"choices": [[1], 2]}}).describe()
    same = read_space({"b": {"choices": [[1], 2]}, "a": {"high": 2, "low": 1}}).describe()
    other = read_space({"a": {"low": 1, "high": 3}, "b": {"choices": [[1], 2]}}).describe()
    assert same_space(one, same) is None
    assert "a was" in (same_space(other, one) or "") and "b was searched" == same_space({"a": one["a"]}, one)
