"""The replay against a list of episodes kept beside it: targets term by term, ends of episodes, frames stored once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from harness.buffers.minibatches import Minibatches
from harness.buffers.replay import GOES_ON, Replay, bytes_of
from harness.buffers.replay_memory import frames_of
from harness.envs import EnvSettings, make_environments
from harness.envs.backends.base import StepResult
from harness.envs.vectors import Share
from harness.errors import BadInput
from tests.conftest import need
from tests.environments import Line

GAMMA = 0.9


@dataclass
class Transition:
    observation: np.ndarray
    action: int
    reward: float
    end: str
    following: np.ndarray
    """What the environment showed after it, of the same episode."""


@dataclass
class Environment:
    """Random episodes whose observations are all different, as a vector shows them: `stack` numbers each, the last
    ones of the episode."""

    name: int
    stack: int
    draw: np.random.Generator
    seen: int = 0
    frames: list[float] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)

    def begin(self) -> np.ndarray:
        self.frames = []
        first = self.observe()
        self.frames = [self.frames[-1]] * self.stack
        return np.repeat(first[-1:], self.stack)

    def observe(self) -> np.ndarray:
        self.seen += 1
        self.frames.append(1000.0 * self.name + self.seen)
        return np.array(self.frames[-self.stack :], np.float32)

    def step(self, now: np.ndarray, action: int) -> tuple[np.ndarray, Transition]:
        """The observation to act on next, and what happened."""
        end = self.draw.choice(["on", "on", "on", "terminated", "truncated"])
        happened = Transition(now, action, float(self.draw.normal()), str(end), self.observe())
        self.transitions.append(happened)
        return (happened.following if end == "on" else self.begin()), happened


def episodes(envs: int, steps: int, stack: int, seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """(environments, first observations, None), then (…, actions, StepResult) for each step."""
    made = [Environment(env, stack, np.random.default_rng([seed, env])) for env in range(envs)]
    now = [each.begin() for each in made]
    yield made, np.stack(now), None
    for _ in range(steps):
        actions = np.array([each.draw.integers(5) for each in made])
        stepped = [each.step(*given) for each, *given in zip(made, now, actions)]
        now = [observation for observation, _ in stepped]
        happened = [each for _, each in stepped]
        ends = np.array([each.end for each in happened])
        final = np.stack([each.following for each in happened]) if (ends != "on").any() else None
        rewards = np.array([each.reward for each in happened], np.float32)
        yield made, actions, StepResult(
            np.stack(now), rewards, rewards, ends == "terminated", ends == "truncated", final
        )


def filled(
    envs: int, steps: int, capacity: int, n_steps: int = 1, stack: int = 1, own: slice = slice(None)
) -> tuple[Replay, list[Environment]]:
    """A replay of the environments `own` of all, and what happened in them."""
    stream = episodes(envs, steps, stack)
    made, first, _ = next(stream)
    count = len(range(envs)[own])
    example = np.zeros((), np.int64)
    replay = Replay(capacity, count, (stack,), np.dtype(np.float32), example, n_steps, GAMMA, stack)
    replay.begin(first[own])
    for _, actions, all_of in stream:
        parts = {name: getattr(all_of, name) for name in StepResult.__slots__}
        replay.add(actions[own], StepResult(**{n: p if p is None else p[own] for n, p in parts.items()}))
    return replay, made[own]


def fetched(replay: Replay, env: np.ndarray, number: np.ndarray) -> dict[str, np.ndarray]:
    shape = (len(env), *replay.observation_shape)
    out = {name: np.full(shape, np.nan, np.float32) for name in ("observations", "next_observations")}
    out |= {name: np.full(len(env), np.nan, np.float32) for name in ("returns", "discounts")}
    out["actions"] = np.full(len(env), -1)
    replay.fetch(env, number, out)
    return out


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("steps", [12, 100])
def test_every_target_is_the_sum_of_its_rewards_and_what_comes_after_them(steps: int, n_steps: int, stack: int) -> None:
    """With 100 steps and room for 40, old transitions are overwritten."""
    replay, made = filled(envs=3, steps=steps, capacity=40, n_steps=n_steps, stack=stack)
    first, sizes = replay.window()
    assert (first + sizes == steps - n_steps + 1).all(), "all whose rewards are known can be drawn"
    kept = 34 if stack == 1 else 22  # with so many ends, frames run out first
    assert (sizes >= min(steps, kept) - n_steps + 1).all() and (sizes <= 40 - n_steps + 1).all()
    for env, environment in enumerate(made):
        numbers = np.arange(first[env], first[env] + sizes[env])
        out = fetched(replay, np.full(len(numbers), env), numbers)
        for row, number in enumerate(numbers):
            begin, total, factor = environment.transitions[number], 0.0, 1.0
            for each in environment.transitions[number : number + n_steps]:
                total += factor * each.reward
                factor *= GAMMA
                if each.end != "on":
                    break
            assert (out["observations"][row] == begin.observation).all()
            assert out["actions"][row] == begin.action
            assert out["returns"][row] == pytest.approx(total, abs=1e-5)
            assert out["discounts"][row] == pytest.approx(0.0 if each.end == "terminated" else factor, abs=1e-6)
            if each.end != "terminated":  # what follows a time limit is what it cut off, never the next episode
                assert (out["next_observations"][row] == each.following).all()


def test_steps_that_only_begin_an_episode_are_no_transitions() -> None:
    """As gymnasium's NEXT_STEP vectors give them: environment 1 ends in step 1, and step 2 is its reset."""
    replay = Replay(10, 2, (1,), np.dtype(np.float32), np.zeros((), np.int64))
    replay.begin(np.array([[0.0], [10.0]]))
    no, yes = np.array([False, False]), np.array([False, True])
    for step, (after, truncated, final, valid) in enumerate(
        [([[1.0], [11.0]], no, None, None), ([[2.0], [12.0]], yes, [[2.0], [12.0]], None)]
        + [([[3.0], [20.0]], no, None, ~yes), ([[4.0], [21.0]], no, None, None)]
    ):
        rewards = np.full(2, float(step), np.float32)
        last = None if final is None else np.array(final, np.float32)
        result = StepResult(np.array(after, np.float32), rewards, rewards, no, truncated, last, valid=valid)
        replay.add(np.array([step, step]), result)
    assert replay.count.tolist() == [4, 3]
    out = fetched(replay, np.array([1, 1, 1]), np.array([0, 1, 2]))
    assert out["observations"].ravel().tolist() == [10, 11, 20]
    assert out["next_observations"].ravel().tolist() == [11, 12, 21]
    assert out["actions"].tolist() == [0, 1, 3]


def test_draws_are_uniform_over_what_is_kept() -> None:
    replay, _ = filled(envs=2, steps=90, capacity=32, n_steps=2)
    env = np.tile([0, 1], 50_000)
    numbers = replay.sample(env, np.random.default_rng(0).random(len(env)))
    first, sizes = replay.window()
    for each in range(2):
        counts = np.bincount(numbers[env == each] - first[each], minlength=sizes[each])
        assert len(counts) == sizes[each] and abs(counts / counts.sum() * sizes[each] - 1).max() < 0.12


def test_a_frame_is_stored_once() -> None:
    """One million Atari transitions under 8 GB, by the sizes that a replay really has."""
    shape, action = (4, 84, 84), np.zeros((), np.int64)
    small = Replay(3200, 1, shape, np.dtype(np.uint8), action, stack=4)
    assert small.nbytes == pytest.approx(bytes_of(3200, shape, np.dtype(np.uint8), action, 4), rel=1e-3)
    assert bytes_of(1_000_000, shape, np.dtype(np.uint8), action, 4) < 8e9


def test_its_state_is_all_of_it() -> None:
    replay, made = filled(envs=2, steps=50, capacity=32, n_steps=2)
    other = Replay(32, 2, (1,), np.dtype(np.float32), np.zeros((), np.int64), 2, GAMMA)
    for name, ring in other.rings().items():
        ring.array[...] = replay.rings()[name].array
    other.load_state({name: np.array(value) for name, value in replay.state().items()})
    env = np.array([0, 1, 1])
    numbers = replay.sample(env, np.array([0.1, 0.5, 0.9]))
    assert (other.sample(env, np.array([0.1, 0.5, 0.9])) == numbers).all()
    for name, values in fetched(replay, env, numbers).items():
        assert (fetched(other, env, numbers)[name] == values).all(), name
    assert replay.ends.max() > GOES_ON


@pytest.mark.parametrize("env_id", ["harness.envs.catch:Catch-v0", "PongNoFrameskip-v4"])
def test_a_game_that_says_how_many_frames_it_stacks_is_kept_frame_by_frame(env_id: str) -> None:
    need("Pong" not in env_id or find_spec("ale_py"), "the extra 'atari'")
    settings = EnvSettings(id=env_id, count=2, backend="sync")
    envs, action, steps = make_environments(settings, 0, 1), np.zeros((), np.int64), 60
    shape, dtype = envs.observation_space.shape, envs.observation_dtype
    replay = Replay(steps, 2, shape, dtype, action, stack=frames_of(settings))
    assert shape == (4, 84, 84) and replay.frames.nbytes < 1.4 * 2 * steps * 84 * 84
    now, seen = envs.reset(seed=0), []
    replay.begin(now)
    for actions in np.random.default_rng(0).integers(3, size=(steps, 2)):
        result = envs.step(actions)
        replay.add(actions, result)
        seen.append((now, result.observations, result.terminated))
        now = result.observations
    assert any(terminated.any() for _, _, terminated in seen) or "Pong" in env_id
    for env in range(2):
        found = {name: np.zeros((steps, *shape), np.uint8) for name in ("observations", "next_observations")}
        found |= {"actions": np.zeros(steps, np.int64), "returns": np.zeros(steps), "discounts": np.zeros(steps)}
        replay.fetch(np.full(steps, env), np.arange(steps), found)
        for step, (before, after, terminated) in enumerate(seen):
            np.testing.assert_array_equal(found["observations"][step], before[env])
            if not terminated[env]:
                np.testing.assert_array_equal(found["next_observations"][step], after[env])


def test_a_stack_that_observations_are_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EnvSettings(id="tests.environments:Line-v0")
    assert frames_of(settings) == 1
    monkeypatch.setattr(Line, "metadata", {"render_modes": [], "frame_stack": 3})
    with pytest.raises(BadInput, match=r"Line-v0': metadata\['frame_stack'\] must be .* observations \(2,\) .* got 3"):
        frames_of(settings)
    assert frames_of(settings.model_copy(update={"wrappers": ["tests.environments:Line"]})) == 1


@pytest.mark.parametrize("batch_size", [8, 10])
@pytest.mark.parametrize("ranks", [2, 3])
def test_minibatches_of_several_ranks_are_those_of_one(ranks: int, batch_size: int) -> None:
    draws = np.random.default_rng(1).random((6, batch_size))

    def minibatches(first: int, count: int) -> Minibatches:
        replay, _ = filled(envs=4, steps=60, capacity=32, own=slice(first, first + count))
        made = Minibatches(replay, Share(first, count, 4), batch_size, 6, device=cpu())
        made.draw(3, draws)
        return made

    alone = minibatches(0, 4)
    edges = [4 * rank // ranks for rank in range(ranks + 1)]
    several = [minibatches(first, last - first) for first, last in zip(edges, edges[1:])]
    for number in range(6):
        together = np.concatenate([each.arrays["observations"][each.part(number)] for each in several])
        expected = alone.arrays["observations"][alone.part(number)]
        assert len(expected) == batch_size and sorted(together.ravel()) == sorted(expected.ravel())
        shares = np.bincount((expected.ravel() // 1000).astype(int), minlength=4)
        assert shares.max() - shares.min() <= 1, "taken evenly from all environments"
    assert alone.sizes() == [batch_size]
    for each in several:
        sizes = {each.part(number).stop - each.part(number).start for number in range(6)}
        assert sizes <= set(each.sizes())


def cpu() -> Any:
    import torch

    return torch.device("cpu")
