"""An environment's state: taken out, stored, put into another one, it makes the same steps."""

from __future__ import annotations

import enum
import io
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, RecordEpisodeStatistics

from harness.envs.backends.base import StepResult, Vector
from harness.envs.backends.registered import Registered
from harness.envs.backends.selection import make_vector
from harness.envs.factory import exists, make_environment
from harness.envs.settings import AtariSettings, EnvSettings
from harness.envs.snapshots.snapshot import put_back, state_of
from harness.lifecycle.checkpoints.serialization import as_arrays, as_tensors
from harness.lifecycle.checkpoints.shards import rows_of
from tests.conftest import need


def stored(state: Any) -> Any:
    """As a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(as_tensors(state), file)
    file.seek(0)
    return as_arrays(torch.load(file, weights_only=True))


def played(env: gym.Env, actions: list[Any]) -> list[tuple[Any, ...]]:
    """What each step of `env` answers; it is reset where an episode ends."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((np.array(observation), float(reward), terminated, truncated))
        if terminated or truncated:
            seen.append((np.array(env.reset()[0]), 0.0, False, False))
    return seen


def assert_goes_on(one: gym.Env, other: gym.Env, before: int, after: int) -> None:
    """Takes the state out of `one` after `before` steps: `other` then makes the same steps as `one`."""
    one.action_space.seed(3)
    actions = [one.action_space.sample() for _ in range(before + after)]
    one.reset(seed=1)
    played(one, actions[:before])
    state = state_of(one)
    assert state is not None
    state = stored(state)
    expected = played(one, actions[before:])
    other.reset(seed=2)
    played(other, actions[:7])
    assert put_back(other, state)
    assert any(terminated or truncated for _, _, terminated, truncated in expected), "an end, and what follows it"
    for step, (ours, theirs) in enumerate(zip(played(other, actions[before:]), expected, strict=True)):
        assert np.array_equal(ours[0], theirs[0]) and ours[1:] == theirs[1:], f"step {step}"


CLASSIC = [
    "harness.envs.catch:Catch-v0",
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
]


@pytest.mark.parametrize("env_id", CLASSIC)
def test_classic_control_goes_on(env_id: str) -> None:
    assert_goes_on(gym.make(env_id), gym.make(env_id), 150, 1100 if "Mountain" in env_id else 520)


@pytest.mark.parametrize("env_id", ["Ant-v5", "Humanoid-v5", "Reacher-v5", "HalfCheetah-v5", "Pusher-v5"])
def test_mujoco_goes_on(env_id: str) -> None:
    """Ant's and Humanoid's rewards are made of positions that the last step derived, which lag behind the physics."""
    need(exists("mujoco"), "the extra mujoco")
    make = lambda: gym.make(env_id, max_episode_steps=60)  # noqa: E731
    assert_goes_on(make(), make(), 50, 130)


@pytest.mark.parametrize("env_id, game", [("ALE/Breakout-v5", {}), ("ALE/Pong-v5", {"preprocess": False})])
def test_games_go_on(env_id: str, game: dict[str, Any]) -> None:
    """With sticky actions, whose random numbers are the emulator's, and lives, after which the same game goes on."""
    need(exists("ale_py"), "the extra atari")
    raw = {"max_num_frames_per_episode": 1000} if game else {}
    settings = EnvSettings(id=env_id, atari=AtariSettings(**game), kwargs=raw)
    assert_goes_on(make_environment(settings), make_environment(settings), 40, 400)


def test_the_action_that_sticks_is_the_same_too() -> None:
    """A frame in four repeats the action of the one before it: taken over from another game it would differ now and
    then, as it did in 14 of 60 places."""
    need(exists("ale_py"), "the extra atari")
    settings = EnvSettings(id="ALE/Pong-v5", atari=AtariSettings())
    one, undisturbed, other = (make_environment(settings) for _ in range(3))
    one.reset(seed=1)
    undisturbed.reset(seed=1)
    other.reset(seed=2)
    draw = np.random.default_rng(0)
    for place in range(60):
        state = state_of(one)
        assert state is not None and put_back(other, stored(state))
        for action in draw.integers(one.action_space.n, size=3):  # type: ignore[attr-defined]
            ours, theirs, expected = other.step(action), one.step(action), undisturbed.step(action)
            assert np.array_equal(ours[0], theirs[0]) and ours[1:3] == theirs[1:3], place
            assert np.array_equal(expected[0], theirs[0]), "taking the state out changes nothing"
        other.step(draw.integers(other.action_space.n))  # type: ignore[attr-defined]


def test_what_wrappers_hold_goes_on_too() -> None:
    def make() -> gym.Env:
        return RecordEpisodeStatistics(NormalizeObservation(FrameStackObservation(gym.make("CartPole-v1"), 4)))

    assert_goes_on(make(), make(), 55, 100)


class Remembers(gym.Env):
    """An environment of a user's own, with a generator that two of its attributes share."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.rng, self.past = self.np_random, [0.0]
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.past.append(self.rng.normal() + self.np_random.normal())
        return np.array([self.past[-1], len(self.past)]), sum(self.past), len(self.past) > 20, False, {}


def test_a_users_environment_of_plain_attributes_goes_on() -> None:
    assert_goes_on(Remembers(), Remembers(), 30, 50)


class Phase(enum.Enum):
    ONE = 1.0
    TWO = 2.0


class Sign(enum.Flag):
    PLUS = 1
    MINUS = 2


class Plain:
    scale = 1.0


class Steep:
    scale = 3.0


def once(value: float) -> float:
    return value


def twice(value: float) -> float:
    return 2 * value


def times(factor: float) -> Callable[[float], float]:
    return lambda value: factor * value


class Changing(Remembers):
    """What it holds changes in the midst of each episode, and what its steps answer is made of it."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        found = super().reset(seed=seed)
        self.begin()
        return found

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, _, terminated, truncated, info = super().step(action)
        if len(self.past) == 6:
            self.change()
        return observation, self.value() + self.past[-1], terminated, truncated, info

    def begin(self) -> None: ...

    def change(self) -> None: ...

    def value(self) -> float:
        return 0.0


class Member(Changing):
    def begin(self) -> None:
        self.phase, self.phases = Phase.ONE, [Phase.ONE]

    def change(self) -> None:
        self.phase, self.phases = Phase.TWO, [Phase.ONE, Phase.TWO, Phase.TWO]

    def value(self) -> float:
        return self.phase.value + 10 * sum(phase.value for phase in self.phases)


class Mixed(Changing):
    def begin(self) -> None:
        self.sign = Sign.PLUS

    def change(self) -> None:
        self.sign = Sign.PLUS | Sign.MINUS

    def value(self) -> float:
        return float(self.sign.value)


class Function(Changing):
    def begin(self) -> None:
        self.reward: Callable[[float], float] = once

    def change(self) -> None:
        self.reward = twice

    def value(self) -> float:
        return self.reward(len(self.past))


class Closure(Function):
    def begin(self) -> None:
        self.reward = times(2.0)

    def change(self) -> None:
        self.reward = times(3.0)


class Class(Changing):
    def begin(self) -> None:
        self.kind: Any = Plain

    def change(self) -> None:
        self.kind = Steep

    def value(self) -> float:
        return self.kind.scale


class Limits(Changing):
    def begin(self) -> None:
        self.limits = gym.spaces.Box(-1.0, 1.0, (2,))

    def change(self) -> None:
        self.limits = gym.spaces.Box(-1.0, 2.0, (2,))

    def value(self) -> float:
        return float(self.limits.high[0])


class Draws(Changing):
    """Another player moves as a space draws, from a generator of its own."""

    def begin(self) -> None:
        self.moves = gym.spaces.Dict({"by": gym.spaces.Box(0.0, 1.0), "to": gym.spaces.Discrete(9)})
        self.moves.seed(int(self.np_random.integers(2**31)))

    def value(self) -> float:
        move = self.moves.sample()
        return float(move["by"][0]) + move["to"]


class LosesAKey(Changing):
    def begin(self) -> None:
        self.left = {"red": 1.0, "green": 2.0, "blue": 4.0}

    def change(self) -> None:
        del self.left["green"]

    def value(self) -> float:
        return sum(self.left.values()) + 100 * list(self.left).index("blue")


class LosesAnAttribute(Changing):
    def begin(self) -> None:
        self.shield = 5.0

    def change(self) -> None:
        del self.shield

    def value(self) -> float:
        return getattr(self, "shield", 0.0)


class SharesAList(Changing):
    def begin(self) -> None:
        self.one: Any = []
        self.other: Any = self.one

    def value(self) -> float:
        self.one.append(1.0)
        return float(len(self.other))


class SharesADeque(SharesAList):
    def begin(self) -> None:
        self.one = self.other = deque(maxlen=12)


class SharesAPart(SharesAList):
    """What a dict holds is what an attribute holds."""

    def begin(self) -> None:
        self.parts: dict[str, list[float]] = {"one": []}
        self.one = self.other = None

    def value(self) -> float:
        if self.one is None:
            self.one, self.other = self.parts["one"], [self.parts["one"]]
        self.one.append(1.0)
        return float(len(self.other[0]) + len(self.parts["one"]))


KEPT = [Member, Draws, LosesAKey, LosesAnAttribute]
TOLD = [Mixed, Function, Closure, Class, Limits, SharesAList, SharesADeque, SharesAPart]


@pytest.mark.parametrize("kind", [*KEPT, *TOLD])
def test_what_changes_in_an_episode_goes_on_or_there_is_no_state(kind: type[Changing]) -> None:
    """Never a third thing: that something is put back, and the steps are others."""
    for before in (3, 9, 30):
        one, other = kind(), kind()
        one.reset(seed=1), other.reset(seed=2)
        played(one, [0] * before)
        state = state_of(one)
        expected = played(one, [0] * 40)
        goes_on = state is not None and put_back(other, stored(state))
        if goes_on:
            for ours, theirs in zip(played(other, [0] * 40), expected, strict=True):
                assert np.array_equal(ours[0], theirs[0]) and ours[1:] == theirs[1:], before
        assert goes_on or kind in TOLD
        assert not goes_on or kind in KEPT or before == 3, "not yet changed, so what a reset leaves is the same"


def test_functions_that_wrappers_hold_are_no_hindrance() -> None:
    """Lambdas, which close over numbers, arrays, and the environment within."""

    def make() -> gym.Env:
        env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
        clipped = gym.wrappers.ClipReward(gym.wrappers.FlattenObservation(env), -5.0, 0.0)
        return gym.wrappers.TransformObservation(clipped, lambda seen: seen[..., :2], None)

    assert_goes_on(make(), make(), 150, 220)


class Opaque(Remembers):
    """As a handle of a library in C would be: nobody knows what it holds."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.handle: Any = iter(range(100))
        return super().reset(seed=seed)


class Speaks(Opaque):
    """The same, which says itself what its state is."""

    def get_state(self) -> dict[str, Any]:
        return {"past": self.past}

    def set_state(self, state: dict[str, Any]) -> None:
        self.past = state["past"]


def test_what_cannot_be_understood_has_no_state_unless_it_says_so_itself() -> None:
    env = Opaque()
    env.reset(seed=1)
    assert state_of(env) is None
    assert_goes_on(Speaks(), Speaks(), 30, 50)


class Views(Remembers):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.all = np.zeros(4)
        self.half = self.all[:2]
        return super().reset(seed=seed)


def test_arrays_that_share_their_memory_would_part_and_are_refused() -> None:
    env = Views()
    env.reset(seed=1)
    assert state_of(env) is None


@pytest.mark.parametrize("held", ["a list in itself", "numbers of 16 bytes", "the other byte order"])
def test_what_cannot_be_stored_is_refused(held: str) -> None:
    env = Remembers()
    env.reset(seed=1)
    assert state_of(env) is not None
    env.past.append({"a": env.past} if "itself" in held else np.zeros(2, ">f8" if "order" in held else np.longdouble))
    assert state_of(env) is None


def test_many_arrays_take_no_time() -> None:
    env = Remembers()
    env.reset(seed=1)
    env.past = [np.full(2, number) for number in range(20_000)]
    began = time.process_time()
    assert state_of(env) is not None
    assert time.process_time() - began < 2.0


def test_box2d_has_no_state() -> None:
    need(exists("Box2D"), "the extra box2d")
    env = gym.make("LunarLander-v3")
    env.reset(seed=1)
    assert state_of(env) is None


def test_a_state_of_another_environment_is_refused() -> None:
    one, other = gym.make("CartPole-v1"), gym.make("Pendulum-v1")
    one.reset(seed=1), other.reset(seed=1)
    state = state_of(one)
    assert state is not None and not put_back(other, state)


VECTORS: dict[str, dict[str, Any]] = {
    "native": {"id": "CartPole-v1", "backend": "native"},
    "native, cut often": {"id": "CartPole-v1", "backend": "native", "kwargs": {"max_episode_steps": 9}},
    "sync": {"id": "CartPole-v1", "backend": "sync"},
    "workers": {"id": "CartPole-v1", "backend": "workers", "workers": 2, "double_buffer": "on"},
}


def steps_of(vector: Vector, count: int, seed: int) -> list[np.ndarray]:
    """What comes of `count` steps by random actions: observations, rewards, ends."""
    draw, seen = np.random.default_rng(seed), []
    for _ in range(count):
        actions = draw.integers(2, size=vector.count)
        for group, rows in enumerate(vector.groups):
            vector.send(actions[rows], group)
        for group in range(len(vector.groups)):
            result = vector.receive(group)
            seen += [result.observations, result.true_rewards, result.terminated, result.truncated]
    return seen


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_go_on_and_so_do_parts_of_them(kind: str) -> None:
    settings = EnvSettings(count=5, **VECTORS[kind])
    one, other = (make_vector(settings, 5, 0, 2) for _ in range(2))
    part = make_vector(settings.model_copy(update={"double_buffer": "off"}), 2, 2, 2)
    try:
        one.reset([1, 2, 3, 4, 5])
        steps_of(one, 100, seed=0)
        state = one.state()
        assert state is not None
        state = stored(state)
        other.reset([6, 7, 8, 9, 10])
        steps_of(other, 3, seed=1)
        assert other.load_state(state).all()
        expected = steps_of(one, 120, seed=2)
        for ours, theirs in zip(steps_of(other, 120, seed=2), expected, strict=True):
            assert np.array_equal(ours, theirs)
        part.reset([6, 7])
        assert part.load_state(rows_of(state, slice(2, 4))).all()
        again = make_vector(settings.model_copy(update={"double_buffer": "off"}), 5, 0, 2)
        again.reset([0] * 5)
        assert again.load_state(state).all()
        draw = np.random.default_rng(5)
        for _ in range(60):
            actions = draw.integers(2, size=5)
            whole, own = (
                each.step(part_of) for each, part_of in ((UpdateLoop(again), actions), (UpdateLoop(part), actions[2:4]))
            )
            assert np.array_equal(whole.observations[2:4], own.observations)
        again.close()
    finally:
        for each in (one, other, part):
            each.close()


class UpdateLoop:
    """`step` of a vector of one group."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector

    def step(self, actions: np.ndarray) -> StepResult:
        self.vector.send(actions)
        return self.vector.receive()


def test_one_environment_without_a_state_begins_anew_and_the_others_go_on() -> None:
    gym.register("Opaque-v0", Opaque)
    settings = EnvSettings(id="Opaque-v0", count=2, backend="sync")
    vector = make_vector(settings, 2, 0, 1)
    vector.reset([1, 2])
    state = vector.state()
    assert state is None, "none of them has one"


def test_a_registered_vector_class_goes_on_as_a_whole() -> None:
    """gymnasium's own CartPole class draws for all its environments together."""
    settings = EnvSettings(id="CartPole-v1", count=3, backend="native", kwargs={"render_mode": None})
    one, other = (make_vector(settings, 3, 0, 1) for _ in range(2))
    assert isinstance(one, Registered)
    one.reset([1, 2, 3])
    steps_of(one, 50, seed=0)
    state = one.state()
    assert state is not None
    state = stored(state)
    other.reset([4, 5, 6])
    assert other.load_state(state).all()
    for ours, theirs in zip(steps_of(other, 90, seed=2), steps_of(one, 90, seed=2), strict=True):
        assert np.array_equal(ours, theirs)
    fewer = make_vector(settings, 2, 0, 1)
    fewer.reset([1, 2])
    assert not fewer.load_state(rows_of(state, slice(0, 2))).any()
