"""Evaluations play the episodes of their seeds, in environments that are made once, and end when they are to."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from harness.distributed.transports.base import Alone
from harness.envs import EnvSettings, make_environments
from harness.envs.evaluation import Act, Noise, episode_seeds
from harness.envs.limits import LONGEST, is_limited, longest_episode
from harness.envs.players import (
    SeparateEnvironments,
    TrainingEnvironments,
    VectorEnvironments,
    play_episodes,
    separate_environments,
)
from tests.environments import Count, Line

made = 0


class Told(Line):
    """As Line; its last info tells whether all steps went right, on episodes of an even number of the process."""

    def __init__(self, **kwargs: Any) -> None:
        global made
        made += 1
        self.right, self.episode = 0, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.right, self.episode = 0, self.episode + 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, _ = super().step(action)
        self.right += int(action)
        info = {"is_success": self.right == self.steps, "count": np.int64(self.steps), "always": "here"}
        return observation, reward, terminated, truncated, info if terminated else {}


class Connected(Count):
    """Opens what cannot be stored at its first reset, as a client of a simulator does."""

    opened = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        if not hasattr(self, "line"):
            self.line, Connected.opened = threading.Lock(), Connected.opened + 1
        return super().reset(**kwargs)


class Endless(Line):
    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.observe(), 1.0, False, False, {}


gym.register("ToldOfInfos-v0", Told, max_episode_steps=50)
gym.register("Connected-v0", Connected)
gym.register("NeverOver-v0", Endless)
SEEDS = episode_seeds(3, "evaluation", 21)


def right(observations: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    return np.ones(len(observations), dtype=int)


def by_sight(observations: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    return (observations[:, 0] > 0).astype(int)


def own(env: str, **settings: Any) -> SeparateEnvironments:
    at_once, max_steps = settings.pop("at_once", 16), settings.pop("max_steps", None)
    return SeparateEnvironments(EnvSettings(id=env, **settings), Alone(), at_once, max_steps)


def test_environments_are_made_once_however_often_is_evaluated() -> None:
    global made
    made = 0
    players = own("ToldOfInfos-v0", at_once=4)
    first, *later = [players.play(by_sight, SEEDS).returns.tolist() for _ in range(3)]
    players.close()
    assert made == 4 and later == [first, first]
    assert first == [play_episodes(players.settings, by_sight, [seed])[0] for seed in SEEDS]


def test_an_episode_is_that_of_a_new_environment_whatever_it_carries_over() -> None:
    """A Count observes how many episodes it has had."""
    seen: list[float] = []

    def look(observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        seen.extend(observations[:, 0].tolist())
        return right(observations)

    players = own("Count-v0", at_once=2)
    for _ in range(2):
        players.play(look, SEEDS[:5])
    assert set(seen) == {1.0}


def test_what_an_environment_has_opened_is_not_taken_from_it() -> None:
    Connected.opened = 0
    players = own("Connected-v0", at_once=1)
    assert players.play(right, SEEDS[:4]).returns.tolist() == [6.0] * 4
    assert Connected.opened == 1


def test_episodes_are_cut_and_counted_so() -> None:
    played = own("NeverOver-v0", max_steps=7, at_once=2).play(right, SEEDS[:5])
    assert played.returns.tolist() == [7.0] * 5 and played.cut == 5
    assert own("ToldOfInfos-v0", max_steps=20).play(right, SEEDS[:2]).cut == 0, "it was over by itself"


def test_an_evaluation_ends_when_it_is_to_and_keeps_what_is_over() -> None:
    asked: list[bool] = []

    def listen(busy: bool) -> bool:
        asked.append(busy)
        return False

    played = own("NeverOver-v0").play(right, SEEDS[:3], listen)
    assert asked == [True] and len(played.returns) == 0


def test_metrics_are_means_over_the_episodes_that_have_them() -> None:
    settings = {"info_metrics": ["is_success", "count", "nowhere"]}
    assert own("ToldOfInfos-v0", **settings).play(right, SEEDS).metrics == {"is_success": 1.0, "count": 20.0}
    assert own("ToldOfInfos-v0", **settings).play(by_sight, SEEDS).metrics == {"is_success": 0.0, "count": 20.0}
    with pytest.raises(TypeError, match=r"info_metrics = \['always', …\] must name numbers or truths, got .* 'here'"):
        own("ToldOfInfos-v0", info_metrics=["always"]).play(right, SEEDS[:1])


NOISES = [Noise("uniform", (1,)), Noise("normal", (2, 1), every=None), Noise("normal", (1,), 5)]


@pytest.mark.parametrize("noise", NOISES)
def test_drawn_actions_follow_from_the_episode_alone(noise: Noise) -> None:
    def draws(observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        assert drawn is not None and drawn.shape == (len(observations), *noise.shape) and drawn.dtype == np.float32
        return (drawn.reshape(len(drawn), -1)[:, 0] > 0.4).astype(int)

    together, apart = (own("Line-v0", at_once=n).play(draws, SEEDS, noise=noise).returns for n in (16, 1))
    assert together.tolist() == apart.tolist()
    kept = set(together.tolist()) <= {0.0, 20.0}
    assert kept == (noise.every is None), "one matrix an episode, or others within it"


@pytest.mark.parametrize("backend", ["sync", "workers", "native"])
def test_training_s_environments_play_the_same_episodes(backend: str) -> None:
    env = "tests.environments:CountDisabled-v0" if backend == "native" else "tests.environments:Line-v0"
    act: Act = right if backend == "native" else by_sight
    settings = EnvSettings(id=env, count=4, backend=backend, workers=2)
    environments = make_environments(settings, 0, 1)
    try:
        environments.reset(0)
        lent = TrainingEnvironments(settings, Alone(), environments.vector)
        found = [lent.play(act, SEEDS[:10]).returns.tolist() for _ in range(2)]
    finally:
        environments.close()
    expected = play_episodes(settings, act, SEEDS[:10]).tolist()
    if backend == "native":  # of 3, 4, 5, 6 steps, by their place
        expected = [(6.0, 10.0, 15.0, 21.0)[number % 4] for number in range(10)]
    assert found == [expected] * 2


def test_training_s_environments_tell_metrics_and_are_cut_too() -> None:
    settings = EnvSettings(id="ToldOfInfos-v0", count=3, backend="sync", info_metrics=["is_success", "nowhere"])
    environments = make_environments(settings, 0, 1)
    lent = TrainingEnvironments(settings, Alone(), environments.vector)
    played = lent.play(right, SEEDS[:7])
    assert played.metrics == {"is_success": 1.0} and played.cut == 0
    lent.max_steps = 9
    played = lent.play(right, SEEDS[:7])
    assert played.returns.tolist() == [9.0] * 7 and played.cut == 7


def test_a_limit_stands_where_the_environment_has_none() -> None:
    limited = {"CartPole-v1": True, "NeverOver-v0": False, "ALE/Pong-v5": True}
    assert {env: is_limited(EnvSettings(id=env)) for env in limited} == limited
    assert is_limited(EnvSettings(id="NeverOver-v0", kwargs={"max_episode_steps": 9}))
    endless = EnvSettings(id="NeverOver-v0")
    assert is_limited(endless, gym.wrappers.TimeLimit(gym.make("NeverOver-v0"), 9))
    assert [longest_episode(endless, steps) for steps in (None, 5)] == [LONGEST, 5]
    assert longest_episode(EnvSettings(id="CartPole-v1"), None) is None


def balance(observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """Keeps CartPole up for a while, longer from some starts than from others."""
    return (observations @ np.array([-1.0, 0.0, 1.0, 0.1], np.float32) > 0).astype(np.int64)


@pytest.mark.parametrize("limit", [None, 60])
def test_episodes_in_a_vector_are_those_of_single_environments(limit: int | None) -> None:
    settings, seeds = EnvSettings(id="CartPole-v1"), episode_seeds(3, "final", 40)
    played = []
    for kind in (SeparateEnvironments, VectorEnvironments):
        players = kind(settings, None, 16, limit)
        played.append(players.play(balance, seeds))
        again = players.play(balance, seeds)
        assert (again.returns == played[-1].returns).all()
        players.close()
    one, other = played
    assert (one.returns == other.returns).all() and one.cut == other.cut and len(set(one.returns)) > 3
    assert isinstance(separate_environments(settings, None), VectorEnvironments)
    noted = EnvSettings(id="CartPole-v1", info_metrics=["is_success"])
    assert not isinstance(separate_environments(noted, None), VectorEnvironments)
