"""EnvPool's environments against gymnasium's: the same observations, rewards and ends of episodes in distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from harness.envs import EnvSettings, make_environments
from harness.envs.backends.envpool import SAME
from tests.conftest import need

ENVS = 32
UNLIKELY = 1e-3
"""A pair of samples of one distribution differs more in one of a thousand comparisons; the seeds are fixed."""

Policy = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def either(draw: np.random.Generator, seen: np.ndarray) -> np.ndarray:
    return draw.integers(0, 2, len(seen))


def swing(draw: np.random.Generator, seen: np.ndarray) -> np.ndarray:
    """Acrobot is pushed the way it moves, mostly, and gets high in time or not."""
    return np.where(draw.random(len(seen)) < 0.2, draw.integers(0, 3, len(seen)), 2 * (seen[:, 4] > 0))


def torques(size: int, most: float) -> Policy:
    return lambda draw, seen: draw.uniform(-most, most, (len(seen), size)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    policy: Policy
    steps: int
    limit: int
    """The time limit, such that episodes are cut, too."""
    at: int
    """The step of an episode whose observations are compared."""


CASES = {
    "CartPole-v1": Case(either, 400, 25, 8),
    "Pendulum-v1": Case(torques(1, 2.0), 400, 50, 30),
    "Acrobot-v1": Case(swing, 800, 120, 60),
    "Hopper-v5": Case(torques(3, 1.0), 200, 30, 10),
    "LunarLander-v3": Case(lambda draw, seen: draw.integers(0, 4, len(seen)), 300, 90, 40),
}


@dataclass
class Seen:
    lengths: list[int]
    returns: list[float]
    terminated: int
    truncated: int
    first: np.ndarray
    later: np.ndarray
    """(episodes, observation): at step `Case.at` of those that lived so long."""


def play(backend: str, env_id: str, case: Case, seed: int) -> Seen:
    limit = {"max_episode_steps": case.limit}
    settings = EnvSettings(id=env_id, count=ENVS, backend=backend, kwargs=limit)  # type: ignore[arg-type]
    envs = make_environments(settings, 0, 1)
    draw = np.random.default_rng(seed)
    observations = envs.reset(seed)
    seen, later, first = Seen([], [], 0, 0, np.empty(0), np.empty(0)), [], [observations]
    ages, returns = np.zeros(ENVS, dtype=int), np.zeros(ENVS)
    for _ in range(case.steps):
        result = envs.step(case.policy(draw, observations))
        ages, returns = ages + 1, returns + result.true_rewards
        done = result.terminated | result.truncated
        later.append(result.observations[(ages == case.at) & ~done])
        if done.any():
            seen.lengths += ages[done].tolist()
            seen.returns += returns[done].tolist()
            first.append(result.observations[done])
        seen.terminated += int(result.terminated.sum())
        seen.truncated += int((result.truncated & ~result.terminated).sum())
        ages[done], returns[done] = 0, 0.0
        observations = result.observations
    envs.close()
    seen.first, seen.later = np.concatenate(first), np.concatenate(later)
    return seen


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its warnings into a file where it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("env_id", CASES)
@pytest.mark.slow
def test_episodes_are_alike_in_distribution(env_id: str) -> None:
    need(find_spec("envpool"), "the extra envpool")
    if env_id == "Hopper-v5":
        need(find_spec("mujoco"), "the extra mujoco")
    if env_id == "LunarLander-v3":
        need(find_spec("Box2D"), "the extra box2d")
    case = CASES[env_id]
    theirs, ours = play("sync", env_id, case, 1), play("envpool", env_id, case, 2)
    assert len(ours.lengths) > 40 and len(ours.later) > 40
    for name in ("lengths", "returns"):
        found = stats.ks_2samp(getattr(theirs, name), getattr(ours, name)).pvalue
        assert found > UNLIKELY, f"{name}: p = {found:.1e}"
    for name in ("first", "later"):
        a, b = getattr(theirs, name), getattr(ours, name)
        found = min(stats.ks_2samp(a[:, number], b[:, number]).pvalue for number in range(a.shape[1]))
        assert found > UNLIKELY / a.shape[1], f"{name} observations: p = {found:.1e}"
    ends = [[each.terminated, each.truncated] for each in (theirs, ours)]
    assert (theirs.truncated > 0) == (ours.truncated > 0) and max(ours.lengths) == max(theirs.lengths) == case.limit
    if theirs.terminated or ours.terminated:
        found = stats.fisher_exact(ends).pvalue
        assert found > UNLIKELY, f"(terminated, truncated) by gymnasium and by EnvPool: {ends}, p = {found:.1e}"


@pytest.mark.parametrize("env_id", sorted(SAME))
def test_time_limits_and_spaces_are_gymnasiums(env_id: str) -> None:
    need(find_spec("envpool"), "the extra envpool")
    import envpool

    made = envpool.make_spec(env_id)
    assert made.config.max_episode_steps == gym.spec(env_id).max_episode_steps
    try:
        single = gym.make(env_id)
    except gym.error.DependencyNotInstalled:
        return
    observation, action = single.observation_space, single.action_space
    assert made.gymnasium_observation_space.shape == observation.shape
    assert made.gymnasium_observation_space.dtype == observation.dtype
    if isinstance(action, gym.spaces.Box):
        np.testing.assert_allclose(made.gymnasium_action_space.low, action.low)
        np.testing.assert_allclose(made.gymnasium_action_space.high, action.high)
    else:
        assert made.gymnasium_action_space.n == action.n  # type: ignore[attr-defined]
    single.close()


def test_where_several_end_at_once_each_goes_on_with_its_own() -> None:
    """The first observations of new episodes come in the rows of their environments."""
    need(find_spec("envpool"), "the extra envpool")
    envs = make_environments(EnvSettings(id="CartPole-v1", count=6, backend="envpool"), 0, 1)
    envs.reset(0)
    pushes = np.array([0, 1, 0, 1, 0, 1])
    ended = np.zeros(6, dtype=int)
    for _ in range(60):
        result = envs.step(pushes)
        done = result.terminated
        if done.any():
            assert result.final_observations is not None
            leaned = np.sign(result.final_observations[done][:, 2])
            np.testing.assert_array_equal(leaned, np.where(pushes[done] == 1, -1, 1), "away from the push")
            assert np.abs(result.observations[done]).max() <= 0.05
            assert np.abs(result.observations[~done]).max(initial=1.0) > 0.05, "the others go on"
        ended += done
    assert (ended >= 4).all()
    envs.close()
