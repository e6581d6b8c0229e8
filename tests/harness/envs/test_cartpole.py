"""The project's CartPole vector against gymnasium's own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from harness.envs.backends.cartpole import CartPole

ORDER = [0, 2, 1, 3]
"""gymnasium's rows x, its velocity, theta, its velocity, as rows of ours."""


@pytest.mark.parametrize("count", [1, 4, 7, 64])
def test_every_step_is_gymnasiums_bit_for_bit(count: int) -> None:
    ours, theirs = CartPole(count, max_episode_steps=40), CartPoleVectorEnv(count, max_episode_steps=40)
    draw = np.random.default_rng(count)
    ours.reset(list(range(count)))
    theirs.reset(seed=0)
    theirs.state = ours.state_rows[ORDER]
    ends = cuts = 0
    for _ in range(3000):
        actions = (draw.random(count) < 0.5).astype(np.int64)
        actions[0] = ours.state_rows[1, 0] > 0  # balanced for a while, so that time limits come too
        result = ours.step(actions)
        observations, rewards, terminated, truncated, _ = theirs.step(actions)
        done = terminated | truncated
        seen = result.observations
        if done.any():
            assert result.final_observations is not None
            seen = np.where(done[:, None], result.final_observations, seen)
            assert np.abs(result.observations[done]).max() <= 0.05
        else:
            assert result.final_observations is None
        assert seen.dtype == observations.dtype and seen.tobytes() == observations.tobytes()
        assert result.rewards.dtype == rewards.dtype == np.float32 and (result.rewards == rewards).all()
        assert (result.terminated == terminated).all() and (result.truncated == truncated).all()
        ends, cuts = ends + int(terminated.sum()), cuts + int(truncated.sum())
        # its next episodes begin as ours have: its own would begin in the next step, by its one stream
        theirs.state, theirs.prev_done = ours.state_rows[ORDER], np.zeros(count, dtype=bool)
        theirs.steps[done] = 0
    assert ends > 20 and cuts > 20, "both kinds of end were seen"


def test_rewards_by_the_convention_of_sutton_and_barto_are_gymnasiums() -> None:
    ours, theirs = CartPole(2, sutton_barto_reward=True), CartPoleVectorEnv(2, sutton_barto_reward=True)
    ours.reset([0, 1])
    theirs.reset(seed=0)
    theirs.state = ours.state_rows[ORDER]
    for _ in range(12):
        rewards, expected = ours.step(np.array([0, 1])).rewards, theirs.step(np.array([0, 1]))[1]
        assert (rewards == expected).all()
        if rewards.any():
            return
    pytest.fail("no pole fell in 12 pushes to one side")


def test_what_a_step_gave_stays_when_others_follow() -> None:
    envs = CartPole(3)
    envs.reset([0, 1, 2])
    first = envs.step(np.array([0, 1, 0]))
    kept = [np.copy(array) for array in (first.observations, first.rewards, first.terminated, first.truncated)]
    for _ in range(30):
        envs.step(np.array([0, 1, 0]))
    for before, now in zip(kept, (first.observations, first.rewards, first.terminated, first.truncated)):
        np.testing.assert_array_equal(before, now)


def test_an_action_that_is_none_is_refused() -> None:
    envs = CartPole(2)
    envs.reset([0, 1])
    with pytest.raises(IndexError):
        envs.step(np.array([0, 2]))


def test_starts_are_the_draws_of_each_environments_own_stream() -> None:
    """More episodes than are drawn at once: every start is the next four numbers of its stream."""
    envs = CartPole(3, max_episode_steps=2)
    seen = [envs.reset([7, 8, 9])]
    for _ in range(160):
        result = envs.step(np.array([0, 1, 0]))
        if result.truncated.all():
            seen.append(result.observations)
    for env, seed in enumerate([7, 8, 9]):
        stream = np.random.Generator(np.random.PCG64(seed))
        expected = np.stack([stream.uniform(-0.05, 0.05, size=4) for _ in seen]).astype(np.float32)
        np.testing.assert_array_equal(np.stack(seen)[:, env], expected)
    assert len(seen) == 81
