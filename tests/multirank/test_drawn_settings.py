"""Whatever environment, algorithm and network are drawn: two ranks learn what one does, or all refuse it in a line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.multirank.drawn_settings import CASES, ITERATIONS, Case
from tests.multirank.launch import run_ranks

SCRIPT = Path(__file__).with_name("drawn_settings.py")
FEWEST = 25
"""Of the cases, which must not be refused: else the generator draws too much that nobody would."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], ...]:
    ranks = run_ranks(2, "mpirun", SCRIPT, tmp_path_factory.mktemp("drawn"), sync_path="mpi", seconds=600)
    return tuple([Case(**each) for each in given] for given in ranks.given)


def test_two_ranks_learn_what_one_does_or_all_refuse_it_in_one_line(given: tuple[list[Case], ...]) -> None:
    assert ITERATIONS == 3 and len(given[0]) == CASES
    apart: list[tuple[float, str]] = []
    for case in given[0] + given[1]:
        if case.refused != (None, None):
            assert None not in case.refused and case.refused[0] == case.refused[1], case
            assert "\n" not in (case.refused[0] or ""), case
            continue
        apart += [(case.distance, case.settings)] if not case.distance < 1e-5 else []
        together, alone = case.metrics
        assert together.keys() == alone.keys(), case
        for name, value in alone.items():
            close = math.isclose(together[name], value, rel_tol=1e-3, abs_tol=1e-4)
            assert close or math.isnan(value) and math.isnan(together[name]), (name, case)
    assert not apart


def test_most_of_what_is_drawn_is_trained(given: tuple[list[Case], ...]) -> None:
    assert sum(case.refused == (None, None) for case in given[0]) >= FEWEST
