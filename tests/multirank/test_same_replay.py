"""Algorithms that learn from replay on N ranks: the same steps, draws and updates as on one, and the same end."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import need
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = Path(__file__).with_name("recorded_updates.py")
TINY = ["evaluation.count=1", "evaluation.episodes=3", "evaluation.final_episodes=3"]
DQN = ["dqn-cartpole", *TINY, "run.steps=512", "env.count=4", "algorithm.learning_starts=200"]
DQN += ["algorithm.train_freq=8", "algorithm.gradient_steps=1", "algorithm.batch_size=32", "network.hidden=[64, 64]"]
TOGETHER = ["algorithm.train_freq=16", "algorithm.gradient_steps=2"]  # their targets are made at once
SWITCHES = ["algorithm.double=true", "algorithm.dueling=true", "algorithm.n_steps=3", "algorithm.prioritized=true"]
# with an epsilon of 1e-8 Adam makes whole steps of rounding where there is no gradient, which decide near ties
SWITCHES += ["algorithm.quantiles=5", "optimizer.eps=1e-5"]
PONG = ["env.id=ALE/Pong-v5", "env.backend=sync", "env.atari={screen_size=36, stack=3}", "network.hidden=[32]"]
PONG += ["env.kwargs.max_episode_steps=60"]  # so that episodes end, those of evaluations soon too
TWINS = [*TINY, "run.steps=512", "env.count=4", "algorithm.learning_starts=200", "algorithm.train_freq=8"]
TWINS += ["algorithm.gradient_steps=1", "algorithm.batch_size=32", "network.hidden=[32, 32]", "optimizer.eps=1e-5"]
GSDE = ["algorithm.gsde=true", "algorithm.sde_sample_freq=1", "algorithm.batch_size=30"]
CASES = {
    "dqn": [*DQN, "compile.mode=off"],
    "dqn, minibatches drawn together": [*DQN, *TOGETHER, "compile.mode=on"],
    "dqn, minibatches that the environments do not divide": [*DQN, "algorithm.batch_size=30", "compile.mode=off"],
    "dqn with every switch": [*DQN, *SWITCHES, "compile.mode=off"],
    "dqn with every switch, compiled": [*DQN, *SWITCHES, "compile.mode=on"],
    "dqn on stacked screens": [*DQN, *PONG, "optimizer.eps=1e-5", "compile.mode=off"],
    "sac": ["sac-pendulum", *TWINS, "compile.mode=off"],
    "sac, compiled": ["sac-pendulum", *TWINS, "compile.mode=on"],
    "sac with gsde, uneven minibatches": ["sac-pendulum", *TWINS, *GSDE, "compile.mode=off"],
    "td3": ["td3-pendulum", *TWINS, "compile.mode=off"],
}


WITH_COMPILER = [case for case in CASES if "compile.mode=on" in CASES[case]]
GAMES = ["dqn on stacked screens"]
RARELY = ["dqn", "dqn, minibatches that the environments do not divide", "sac with gsde, uneven minibatches"]
OFTEN = [case for case in CASES if case not in (*WITH_COMPILER, *GAMES, *RARELY)]
Given = dict[int, tuple[dict[str, Any], ...]]


def train(folder: Path, *cases: str) -> Given:
    """What each rank recorded of these cases, by the number of ranks: all cases in one start of so many."""
    given = {}
    for ranks, way in ((1, "mpi"), (2, "horovod-mpi"), (3, "mpi")):
        launcher, sync_path = WAYS[way]
        runs = {case: [str(folder / f"{case}-{ranks}"), *CASES[case]] for case in cases}
        arguments = SCRIPT, folder, json.dumps(runs)
        given[ranks] = run_ranks(ranks, launcher, *arguments, sync_path=sync_path, seconds=900).given
    return given


def assert_those_of_one(case: str, given: Given) -> None:
    alone = given[1][0][case]
    assert alone["status"] == "done" and alone["compiled"] == ("compile.mode=on" in CASES[case])
    assert alone["gradient_steps"] == (512 - 200) // 8 + 1
    for ranks in (2, 3):
        recorded = [rank[case] for rank in given[ranks]]
        for name, expected in alone["replay"].items():
            together = torch.cat([rank["replay"][name] for rank in recorded])
            same = torch.equal(together, expected)
            if not case.startswith("dqn"):  # actions are numbers, which rounding reaches
                same = bool((together.float() - expected.float()).norm() <= 1e-4 * expected.float().norm())
            assert same, f"{name} on {ranks} ranks"
        for iteration, expected in enumerate(alone["parameters"]):
            for rank in recorded:
                assert torch.equal(rank["parameters"][iteration], recorded[0]["parameters"][iteration])
                assert torch.equal(rank["targets"][iteration], recorded[0]["targets"][iteration])
            difference = (recorded[0]["parameters"][iteration] - expected).norm()
            assert difference <= 1e-5 * expected.norm(), f"{ranks} ranks, iteration {iteration}"


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return train(tmp_path_factory.mktemp("often"), *OFTEN)


@pytest.fixture(scope="module")
def rarely(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return train(tmp_path_factory.mktemp("rarely"), *RARELY)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Given:
    need(shutil.which("g++"), "a C++ compiler")
    return train(tmp_path_factory.mktemp("compiled"), *WITH_COMPILER)


@pytest.mark.parametrize("case", OFTEN)
def test_updates_on_two_and_three_ranks_are_those_of_one(case: str, often: Given) -> None:
    assert_those_of_one(case, often)


@pytest.mark.slow
@pytest.mark.parametrize("case", RARELY)
def test_uneven_minibatches_too(case: str, rarely: Given) -> None:
    assert_those_of_one(case, rarely)


@pytest.mark.slow
@pytest.mark.parametrize("case", WITH_COMPILER)
def test_compiled_updates_too(case: str, compiled: Given) -> None:
    assert_those_of_one(case, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("case", GAMES)
def test_updates_from_games_too(case: str, tmp_path: Path) -> None:
    need(find_spec("ale_py"), "the extra 'atari'")
    assert_those_of_one(case, train(tmp_path, case))


def test_all_ranks_end_alike_where_one_has_rewards_that_are_no_numbers(tmp_path: Path) -> None:
    broken = ["env.id=tests.environments:Broken-v0", "env.kwargs.how=nan-reward", "env.kwargs.rank=1"]
    run = [str(tmp_path / "run"), *DQN, *broken, "compile.mode=off", "env.kwargs.at=19", "env.count=2"]
    given = run_ranks(2, "mpirun", SCRIPT, tmp_path, json.dumps({"broken": run}), sync_path="mpi").given
    assert {(rank["broken"]["status"], rank["broken"]["reason"]) for rank in given} == {
        ("failed", "environment 1 gave nan as its reward in its step 19 of this run")
    }
