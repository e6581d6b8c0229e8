"""On two ranks evaluations play the episodes of one, and what one rank alone hears both obey at the same place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import resolve
from harness.files import write_json
from harness.launching import Outcome
from harness.run.supervisor import conclude
from tests.command import harness
from tests.harness.run.test_evaluation import PPO, metrics, toml
from tests.multirank.evaluating import RUNS, go
from tests.multirank.launch import run_ranks

SCRIPT = Path(__file__).with_name("evaluating.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluating")


@pytest.fixture(scope="module")
def given(folder: Path) -> tuple[dict[str, Any], ...]:
    return run_ranks(2, "mpirun", SCRIPT, folder, str(folder / "two"), sync_path="mpi", seconds=300).given


def test_both_ranks_end_alike(given: tuple[dict[str, Any], ...]) -> None:
    for name in RUNS:
        one, other = (rank[name] for rank in given)
        assert one["ends"] == other["ends"] and one["value"] == other["value"], name
        assert torch.equal(one["parameters"], other["parameters"]), name
        for buffer, values in one["buffers"].items():
            assert torch.equal(values, other["buffers"][buffer]), (name, buffer)


@pytest.mark.parametrize("name", ["drawn", "lent", "told"])
def test_they_play_the_episodes_of_one_rank(name: str, given: tuple[dict[str, Any], ...], folder: Path) -> None:
    alone = go(name, folder / "one")
    for rank in given:
        assert rank[name]["evaluation"].tolist() == alone["evaluation"].tolist()
        assert rank[name]["metrics"] == pytest.approx(alone["metrics"])
    for one, other in zip(metrics(folder / "one" / name), metrics(folder / "two" / name), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4, nan_ok=True)


def test_an_evaluation_and_an_epoch_are_left_and_made_on_both_ranks(given: tuple[dict[str, Any], ...]) -> None:
    (stopped, reason, steps), (done, _, all_steps) = given[0]["endless"]["ends"]
    assert (stopped, steps, done, all_steps) == ("stopped", 32, "done", 96) and "in an evaluation" in reason
    (stopped, _, steps), (done, _, all_steps) = given[0]["epoch"]["ends"]
    assert stopped == "stopped" and steps % 200 and steps % 8 == 0 and (done, all_steps) == ("done", 600)


def test_a_buffer_that_forward_changes_is_there_and_the_same(given: tuple[dict[str, Any], ...]) -> None:
    assert int(given[0]["counting"]["buffers"]["network.calls"]) > 10


def test_a_failure_on_two_ranks_tells_the_steps_that_were_made(tmp_path: Path) -> None:
    env = {"id": "tests.environments:Broken-v0", "kwargs": {"rank": 1, "at": 18}}
    toml(tmp_path, env, PPO)
    ran = harness("train", "run.toml", "--ranks", "2", "--launcher", "mpirun", "--output", "out", cwd=tmp_path)
    assert ran.code == 1 and "the environment broke on purpose; 32 steps in " in ran.out, ran.out + ran.err


def test_a_rank_that_was_killed_leaves_the_steps_that_were_seen(tmp_path: Path) -> None:
    config = resolve({**RUNS["drawn"][0], "compile": {"mode": "off"}})
    status = {"env_steps": 640, "total_steps": 1000, "env_steps_per_second": 64.0, "seconds": 10.0, "ranks": 2}
    write_json(tmp_path / "progress.json", {"status": {**status, "sync_path": "mpi"}, "said": []})
    result = conclude(tmp_path, Outcome(137, 1, None, 9), None, config, 2, begun=True)
    assert (result.status, result.env_steps, result.wall_seconds) == ("failed", 640, 10.0)
    assert result.env_steps_per_second == 64.0
