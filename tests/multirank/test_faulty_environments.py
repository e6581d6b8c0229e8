"""What is wrong with an environment of one rank is told by all of them, at the same place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.multirank.faulty_environments import CASES
from tests.multirank.launch import run_ranks

SCRIPT = Path(__file__).with_name("faulty_environments.py")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    return run_ranks(2, "mpirun", SCRIPT, tmp_path_factory.mktemp("faults"), sync_path="mpi").given


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_tell_of_the_environment_and_its_step(case: str, given: tuple[dict[str, Any], ...]) -> None:
    kwargs = CASES[case][2]
    what = "as its reward" if kwargs.get("what") == "reward" else "in its observation[1]"
    said = f"environment 1 gave {kwargs.get('bad', 'nan')} {what} in its step {kwargs.get('after', 37)} of this run"
    assert [rank[case] for rank in given] == [(said, 1, True)] * 2
