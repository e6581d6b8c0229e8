"""Derived settings: arithmetic of x and nothing else."""

from __future__ import annotations

import math

import pytest

from harness.errors import BadInput
from search.space.transform import Transform


@pytest.mark.parametrize(
    ("text", "x", "value"),
    [
        ("1 - 10**x", -2, 1 - 10**-2),
        ("1 - 10^x", -2.5, 1 - 10**-2.5),
        ("2**x", 5, 32),
        ("-x / 4 + x % 3", 7, -7 / 4 + 1),
        ("int(sqrt(x)) * 64", 9, 192),
        ("max(1, round(exp(x), 2))", 1, 2.72),
    ],
)
def test_a_formula_has_the_value_that_arithmetic_gives_it(text: str, x: float, value: float) -> None:
    assert math.isclose(Transform(text)(x), value)


def test_a_whole_number_stays_one() -> None:
    assert type(Transform("2**x")(5)) is int


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "x.real",
        "open(x)",
        "x if x else 1",
        "[x]",
        "y + x",
        "3",
        "1 -",
        "'x' * x",
        "exp + x",
        "x << 2",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="transform"):
        Transform(text)


@pytest.mark.parametrize(
    ("text", "x"), [("1 / x", 0), ("log(x)", -1), ("10**x", 400.0), ("9**9**9 + x", 1), ("x**0.5", -1)]
)
def test_an_x_without_a_finite_value_is_refused(text: str, x: float) -> None:
    with pytest.raises(BadInput, match="at x"):
        Transform(text)(x)
