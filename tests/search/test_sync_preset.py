"""The shipped study that searches how ranks agree, at a small size."""

from __future__ import annotations

import pytest

from search.config import load_study
from tests.search.conftest import Workplace

SMALL = ("study.trials=5", "trial.overrides.run.steps=2048", "trial.overrides.evaluation.final_episodes=2")
SMALL += ("confirm.seeds=1", "confirm.episodes=2", "study.pruner=none")


@pytest.mark.slow
def test_ways_to_agree_are_searched_as_any_setting(workplace: Workplace) -> None:
    ran = workplace.search("run", "ppo-cartpole-sync", *SMALL, seconds=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials = workplace.trials("ppo-cartpole-sync")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
    kinds = {trial.params["sync.kind"] for trial in trials}
    assert len(kinds) >= 2
    for trial in trials:
        assert ("compression.kind" in trial.params) == (trial.params["sync.kind"] == "allreduce")
        assert ("sync.local_sgd.every" in trial.params) == (trial.params["sync.kind"] == "local_sgd")


def test_its_space_is_whole() -> None:
    config = load_study("ppo-cartpole-sync")
    assert {"sync.kind", "compression.kind", "sync.local_sgd.every"} <= set(config.space)
