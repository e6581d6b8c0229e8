"""Ranks that are forked from the tests' server and ranks that import everything themselves do the same, to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need, slow
from tests.forkserver import ADDRESS
from tests.multirank.launch import WAYS, run_ranks
from tests.multirank.test_exact_resume import DQN, PENDULUM, PPO, SAC, assert_same

HERE = Path(__file__).parent
RUNS = {
    "ppo": ("stopped_run.py", PPO),
    "ppo, normalised": ("stopped_run.py", PENDULUM),
    "dqn": ("stopped_run.py", DQN),
    "sac": ("stopped_run.py", SAC),
    "modules": ("modules.py", []),
}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("ppo", "horovod-mpi"),
        slow("ppo, normalised", "mpi"),
        slow("dqn", "mpi"),
        slow("sac", "horovod-gloo"),
        slow("modules", "mpi"),
    ],
)
def test_both_give_the_same_bits(name: str, way: str, tmp_path: Path) -> None:
    need(ADDRESS in os.environ, "the fork server (HARNESS_TESTS_FRESH is set)")
    script, settings = RUNS[name]
    launcher, sync_path = WAYS[way]
    ends: dict[str, Any] = {}
    for how, address in (("forked", os.environ[ADDRESS]), ("fresh", "")):
        runs = [json.dumps([{"run_dir": str(tmp_path / how), "settings": settings}])] if settings else []
        ranks = run_ranks(2, launcher, HERE / script, tmp_path, *runs, sync_path=sync_path, env={ADDRESS: address})
        ends[how] = ranks.given
    assert len(ends["forked"]) == 2 and ends["forked"][0]
    assert_same(flat(ends["forked"]), flat(ends["fresh"]))


def flat(value: Any) -> Any:
    """Dataclasses as dicts, so that what lies in them is compared to the bit too."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: flat(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): flat(each) for key, each in value.items()}
    return [flat(each) for each in value] if isinstance(value, (list, tuple)) else value
