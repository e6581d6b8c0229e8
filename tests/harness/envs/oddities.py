"""Environments as users write them, each odd in one way: `env.id = "tests.harness.envs.oddities:Odd-v0"`."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

KEPT: Counter[str] = Counter()
"""How often an environment was made, closed, reset and stepped in this process."""


class Odd(gym.Env):
    """Ten steps of one point each. `what`: its oddity."""

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, what: str = "nothing", says: str = "float32", most: int | None = None) -> None:
        if what in CONSTRUCTORS:
            CONSTRUCTORS[what]()
        if most is not None and KEPT["made"] - KEPT["closed"] >= most:
            raise RuntimeError("the port is in use")
        self.what = what
        if says != "float32":
            low, high = (0, 255) if says == "uint8" else (-100, 100)
            self.observation_space = spaces.Box(low, high, (4,), np.dtype(says).type)
        KEPT["made"] += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        KEPT["reset"] += 1
        self.steps = 0
        if self.what == "seeds below 2**31" and seed is not None and seed >= 2**31:
            raise OverflowError("int too large to convert to C int")
        if self.what == "reset raises":
            raise KeyError("map")
        observation = self.observe()
        given: dict[str, Any] = {
            "observation alone": observation,
            "two numbers alone": np.ones(2, np.float32),
            "three values": (observation, {}, 1),
            "no info": (observation, None),
        }
        return given.get(self.what, (observation, {}))

    def observe(self) -> Any:
        x = np.full(4, 0.5, np.float32)
        given: dict[str, Any] = {
            "narrow": x[:1],
            "row": x[None],
            "scalar": 0.5,
            "floats": x * 100,
            "int64": np.arange(4),
            "uint8": np.arange(4, dtype=np.uint8),
            "float64": x.astype(np.float64),
            "a list": [0.5] * 4,
            "a dict": {"x": x},
            "None": None,
            "strings": np.array(["a"] * 4),
            "ragged": [[1.0], [1.0, 2.0]],
            "nan": np.where(np.arange(4) == 2, np.nan, x),
            "inf": np.where(np.arange(4) == 2, -np.inf, x),
            "far": x + 100,
        }
        return given.get(self.what, x)

    def step(self, action: Any) -> Any:
        self.steps += 1
        KEPT["steps"] += 1
        if self.what == "step raises":
            raise RuntimeError("the joint\nbroke")
        rewards: dict[str, Any] = {
            "no reward": None,
            "two rewards": np.ones(2),
            "a word as reward": "1.0",
            "nan as reward": float("nan"),
            "an array as reward": np.ones(1, np.float32),
            "an int as reward": 1,
            "a bool as reward": np.True_,
        }
        ends: dict[str, Any] = {"None as end": None, "an array as end": np.array([False]), "an int as end": 0}
        over = self.steps >= 10
        whole = (
            self.observe(),
            rewards.get(self.what, 1.0),
            ends.get(self.what, over) if not over else over,
            False,
            [] if self.what == "a list as info" else {},
        )
        return {"four values": (*whole[:3], {}), "three values at a step": whole[:3]}.get(self.what, whole)

    def close(self) -> None:
        KEPT["closed"] += 1


class NoSeed(Odd):
    def reset(self) -> Any:  # type: ignore[override]
        self.steps = 0
        return self.observe(), {}


class NoOptions(Odd):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


class NotGymnasium:
    """Of the old package, or of none."""

    observation_space, action_space = Odd.observation_space, Odd.action_space


class SpacesOfAnother(Odd):
    action_space = object()  # type: ignore[assignment]


class Told(Odd):
    """Its points are the number that reset was given."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.points = float((options or {}).get("points", 0.0))
        if options:
            options.clear()
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.points, *rest


class Plain(gym.Env):
    """One whose spaces are given; it refuses what is outside of its action space."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 5, False, {}


def raises(error: BaseException) -> Any:
    def raising() -> None:
        raise error

    return raising


CONSTRUCTORS = {
    "KeyError": raises(KeyError("map")),
    "RuntimeError": raises(RuntimeError("no licence\nserver")),
    "OSError": raises(FileNotFoundError(2, "No such file or directory", "prices.csv")),
    "ValueError": raises(ValueError("the map is too small")),
    "AssertionError": raises(AssertionError()),
    "ImportError": raises(ImportError("no simulator")),
    "exits": lambda: sys.exit("set SIMULATOR_HOME"),
}


class Halved(gym.RewardWrapper):
    def __init__(self, env: gym.Env, by: float = 2.0) -> None:
        super().__init__(env)
        self.by = by

    def reward(self, reward: Any) -> Any:
        return reward / self.by


class Learns(gym.ObservationWrapper):
    """As users write one that normalises."""

    class Statistics:
        def __init__(self) -> None:
            self.mean, self.var, self.count = np.zeros(4), np.ones(4), 1e-4

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.obs_rms = Learns.Statistics()

    def observation(self, observation: Any) -> Any:
        self.obs_rms.count += 1
        return observation


def forgets_to_return(env: gym.Env) -> None:
    """No wrapper at all."""


for each in (Odd, NoSeed, NoOptions, NotGymnasium, SpacesOfAnother, Told):
    gym.register(f"{each.__name__}-v0", each)  # type: ignore[arg-type]
gym.register("Limited-v0", Odd, max_episode_steps=7)
