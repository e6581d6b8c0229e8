"""Compressed sums of real ranks: the same on all of them to the bit, with nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.command import harness
from tests.conftest import slow
from tests.multirank.compressing import AFTER, KINDS, UPDATES
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = Path(__file__).with_name("compressing.py")
ERRORS = {"fp16": 5e-4, "bf16": 4e-3, "int8": 0.02, "sign": 0.8, "top_k": 0.95, "random_k": 1.0, "powersgd": 0.98}
"""At most, of one update without what was left out before, relative to the sum."""
BYTES = {"fp16": 0.51, "bf16": 0.501, "int8": 0.26, "sign": 0.036, "top_k": 0.11, "random_k": 0.051, "powersgd": 0.08}


@pytest.fixture(scope="module", params=[(3, "mpi"), (2, "horovod-gloo"), slow((2, "mpi")), slow((3, "horovod-mpi"))])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    ranks, way = request.param
    launcher, sync_path = WAYS[way]
    return run_ranks(ranks, launcher, SCRIPT, tmp_path_factory.mktemp("ranks"), sync_path=sync_path).given


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_bit_equal_near_and_complete(kind: str, given: tuple[Any, ...]) -> None:
    for every, _ in given:
        for (exchange, name, error_feedback), found in every.items():
            if name != kind:
                continue
            where = f"{exchange}, error feedback {error_feedback}"
            assert found["equal"] == [True] * UPDATES, where
            assert found["resumes"] == [True] * AFTER, where
            assert not found["poisoned"], where
            assert found["bytes"] <= BYTES[kind], where
            if error_feedback:
                assert found["errors"][0] <= ERRORS[kind], where
                assert found["lost"] <= 1e-5, where
            if kind in ("fp16", "bf16", "int8", "sign"):
                assert found["largest"] == pytest.approx(6e4 * len(given), rel=0.02), where


def test_powersgd_is_exact_where_the_sum_has_its_rank(given: tuple[Any, ...]) -> None:
    assert all(error <= 1e-4 for _, error in given)


def test_what_the_ranks_refuse_is_one_line(tmp_path: Path) -> None:
    settings = ["compression.kind=powersgd", "compression.rank=200"]
    ran = harness("train", "ppo-cartpole", *settings, "--ranks", "2", "--output", "run", cwd=tmp_path)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1, ran.err
    assert "compression.rank = 200" in ran.err and not (tmp_path / "run").exists()
