"""Every algorithm on environments whose best policy and values are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import slow
from tests.learning.learners import CONTINUOUS, DISCRETE, GAMMA, ON_POLICY, config, learn, values
from tests.learning.probes import Delayed, Endless, Steady

pytestmark = pytest.mark.learning
ECHO, PICTURED, DELAYED, ENDLESS, STEADY = (
    f"tests.learning.probes:{name}-v0" for name in ("Echo", "Pictured", "Delayed", "Endless", "Steady")
)
# each algorithm by itself; its switches, one at a time, and the other kind of action in `make test-all`
OFTEN = [("ppo", "discrete"), ("a2c", "continuous"), ("dqn", "discrete"), ("sac", "continuous"), ("td3", "continuous")]
EVERY = [
    (pytest.param if (learner, kind) in OFTEN else slow)(learner, kind)
    for kind, learners in (("discrete", DISCRETE), ("continuous", CONTINUOUS))
    for learner in learners
]
ONLY_ADVANTAGES = {"gamma": 0.0, "value_coefficient": 0.0, "normalize_advantages": True}


@pytest.mark.parametrize("learner, kind", EVERY)
def test_the_action_that_is_observed_is_learned(learner: str, kind: str, tmp_path: Path) -> None:
    # noise that is held for all of a rollout shows less of the actions in as many steps
    more = {"steps": 16_384} if learner == "ppo-gsde-once-a-rollout" else {}
    score, _ = learn(config(learner, {"id": ECHO, "kwargs": {"kind": kind}}, run=more), tmp_path)
    assert score >= 9.0, "of 10, and 5 by chance"


@pytest.mark.parametrize("learner", [slow("ppo"), slow("a2c"), "dqn"])
def test_what_a_picture_shows_is_learned_by_convolutions(learner: str, tmp_path: Path) -> None:
    few = {"steps": 3072 if learner in ON_POLICY else 1536}
    settings = config(learner, {"id": PICTURED}, run=few, optimizer={"lr": 1e-3}, network={"kind": "cnn"})
    score, policy = learn(settings, tmp_path)
    assert any(isinstance(layer, torch.nn.Conv2d) for layer in policy.algorithm.module.modules())  # type: ignore
    assert score >= 9.0, "of 10, and 5 by chance"


@pytest.mark.parametrize("learner, kind", EVERY)
def test_a_reward_that_comes_later_is_worth_its_discount(learner: str, kind: str, tmp_path: Path) -> None:
    env = {"id": DELAYED, "kwargs": {"kind": kind}}
    score, policy = learn(config(learner, env), tmp_path)
    assert score >= 0.95, "the first action decides"
    states = np.stack([Delayed.state(step, 1.0) for step in range(Delayed.LENGTH)])
    expected = GAMMA ** np.arange(Delayed.LENGTH - 1, -1, -1.0)
    assert values(policy, states) == pytest.approx(expected, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("learner, kind", EVERY)
def test_the_value_does_not_drop_at_a_time_limit(learner: str, kind: str, tmp_path: Path) -> None:
    env = {"id": ENDLESS, "kwargs": {"kind": kind}}
    _, policy = learn(config(learner, env), tmp_path)
    found = values(policy, np.linspace(0, 1, Endless.LIMIT + 1, dtype=np.float32)[:, None])
    assert found == pytest.approx(1 / (1 - GAMMA), abs=0.2)


@pytest.mark.parametrize("scaled", [False, True], ids=["true rewards", "scaled rewards"])
@pytest.mark.parametrize("learner", ["ppo", slow("a2c")])
def test_what_a_time_limit_cuts_off_is_normalised_too(learner: str, scaled: bool, tmp_path: Path) -> None:
    """It is far from 0 as it comes; of scaled rewards its value is scaled too."""
    env = {"id": STEADY, "normalize_observations": True, "normalize_rewards": scaled}
    _, policy = learn(config(learner, env), tmp_path)
    scaler = policy.environments.scaler
    found = values(policy, np.stack([Steady.state(0.0), Steady.state(1.0)]))
    assert found * (1.0 if scaler is None else scaler.moments.std) == pytest.approx([0.0, 1 / (1 - GAMMA)], abs=0.2)


@pytest.mark.parametrize("learner", ["ppo", slow("a2c")])
def test_observations_far_from_0_are_normalised(learner: str, tmp_path: Path) -> None:
    env = {"id": ECHO, "kwargs": {"scale": 0.01, "shift": 1000}}
    score, _ = learn(config(learner, {**env, "normalize_observations": True}), tmp_path)
    assert score >= 9.0


@pytest.mark.parametrize("worth, eps", [(1e4, 1e-3), slow(1e-3, 0.1)])
@pytest.mark.parametrize("learner", ["ppo", slow("a2c")])
def test_rewards_of_any_size_are_scaled(learner: str, worth: float, eps: float, tmp_path: Path) -> None:
    """Large ones are all beyond what they are clipped to once they are scaled, and a value's error of 10^8 leaves the
    policy nothing of a clipped gradient; the gradient of small ones is too small for the optimizer."""
    env = {"id": ECHO, "kwargs": {"worth": worth, "base": worth}, "normalize_rewards": True}
    score, _ = learn(config(learner, env, optimizer={"eps": eps}), tmp_path)
    assert score >= 19 * worth, "a true return, of 20 and 15 by chance"


@pytest.mark.parametrize("learner", ["ppo", slow("a2c")])
def test_advantages_are_centred_and_scaled(learner: str, tmp_path: Path) -> None:
    """What tells the actions apart is a thousandth of the reward, nothing is taken from it, and it is too small for the
    optimizer as it is."""
    env = {"id": ECHO, "kwargs": {"base": 1.0, "worth": 1e-3}}
    network = {"class": "tests.learning.learners:PolicyAlone"}
    score, _ = learn(config(learner, env, optimizer={"eps": 0.1}, network=network, **ONLY_ADVANTAGES), tmp_path)
    assert score >= 10.009, "of 10.01, and 10.005 by chance"
