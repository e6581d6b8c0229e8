"""Environments by every backend: episodes that do not mix, time limits, shares; and moments."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from harness.distributed.transports.base import Alone
from harness.envs import Environments, EnvSettings, RunningMoments, make_environments, play_episodes, share_of
from harness.envs.normalization import ReturnScaler
from harness.errors import BadInput
from tests.conftest import need

BACKENDS = ["native", "envpool", "sync", "workers"]


@pytest.mark.parametrize(("total", "size"), [(4, 1), (4, 3), (7, 4), (8, 8)])
def test_shares_differ_by_at_most_one_and_cover_all(total: int, size: int) -> None:
    shares = [share_of(total, rank, size) for rank in range(size)]
    covered = [env for share in shares for env in range(total)[share.slice]]
    assert covered == list(range(total))
    assert max(share.count for share in shares) - min(share.count for share in shares) <= 1


def test_fewer_environments_than_ranks_are_refused() -> None:
    with pytest.raises(BadInput, match="env.count must be at least the number of ranks, 3.*got 2"):
        share_of(2, 0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_episode_ends_and_the_next_begins_in_the_same_step(backend: str) -> None:
    envs = make(backend, "CartPole-v1", 2)
    try:
        envs.reset(seed=1)
        for _ in range(30):
            step = envs.step(np.array([0, 1]))
            done = step.terminated | step.truncated
            if done.any():
                which = int(np.flatnonzero(done)[0])
                assert step.final_observations is not None
                assert abs(step.final_observations[which][2]) > 0.2, "the last observation is the fallen pole"
                assert np.abs(step.observations[which]).max() <= 0.05, "what comes next is a fresh start"
                assert step.true_rewards[which] == 1.0
                after = envs.step(np.array([0, 1]))
                assert 0 < np.abs(after.observations[which] - step.observations[which]).max() < 0.5, "and it moves on"
                return
            assert step.final_observations is None
        pytest.fail("no pole fell in 30 pushes to one side")
    finally:
        envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_time_limit_truncates_and_does_not_terminate(backend: str) -> None:
    envs = make(backend, "CartPole-v1", 1, kwargs={"max_episode_steps": 3})
    try:
        envs.reset(seed=0)
        for _ in range(2):
            ends = [envs.step(np.array([step % 2])) for step in range(3)]
            assert [bool(end.truncated[0]) for end in ends] == [False, False, True]
            assert not any(end.terminated[0] for end in ends)
    finally:
        envs.close()


@pytest.mark.parametrize(
    ("backend", "env_id"),
    [("native", "CartPole-v1"), ("envpool", "CartPole-v1"), ("sync", "Acrobot-v1"), ("workers", "CartPole-v1")],
)
def test_an_environment_runs_the_same_episodes_wherever_it_is(backend: str, env_id: str) -> None:
    whole = trace(make(backend, env_id, 5), slice(0, 5))
    shared = [trace(make(backend, env_id, 5, rank, 3), part) for rank, part in PARTS]
    np.testing.assert_array_equal(np.concatenate(shared, axis=1), whole)


PARTS = [(0, slice(0, 2)), (1, slice(2, 4)), (2, slice(4, 5))]


def make(backend: str, env_id: str, count: int, rank: int = 0, size: int = 1, **settings: Any) -> Environments:
    need(backend != "envpool" or find_spec("envpool"), "the extra envpool")
    return make_environments(EnvSettings(id=env_id, count=count, backend=backend, **settings), rank, size, cores=2)


def trace(envs: Environments, part: slice) -> np.ndarray:
    """60 steps of actions that follow from the step and the global index of the environment."""
    observations = [envs.reset(seed=3)]
    for step in range(60):
        actions = (np.arange(5) * 7 + step // 5) % 2
        observations.append(envs.step(actions[part]).observations)
    envs.close()
    return np.stack(observations)


def test_last_observations_hold_nothing_uninitialised_where_no_episode_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 1e38, dtype))
    settings = EnvSettings(id="CartPole-v1", count=4, backend="sync", normalize_observations=True)
    envs = make_environments(settings, 0, 1)
    envs.reset(seed=0)
    ends = 0
    for _ in range(100):
        result = envs.step(np.ones(4, dtype=np.int64))
        if result.final_observations is not None:
            done, ends = result.terminated | result.truncated, ends + 1
            seen = envs.normalize(np.zeros_like(result.observations))
            assert (result.final_observations[~done] == seen[~done]).all() and not done.all()
    envs.close()
    assert ends


def test_moments_of_several_batches_are_those_of_all_samples() -> None:
    draw = np.random.default_rng(0)
    batches = [draw.normal(3.0, 2.0, (n, 4)) for n in (10, 1, 250)]
    moments = RunningMoments((4,))
    for batch in batches:
        moments.merge(batch, Alone())
    together = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, together.mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.std, np.sqrt(together.var(0) + 1e-8), rtol=1e-10)
    normalised = moments.normalize(together)
    np.testing.assert_allclose(normalised.std(0), 1.0, atol=1e-3)


def test_moments_keep_their_digits_far_from_zero() -> None:
    moments = RunningMoments(())
    values = 1e6 + np.random.default_rng(0).normal(size=1000)
    for part in np.split(values, 10):
        moments.merge(part, Alone())
    assert moments.std == pytest.approx(values.std(), rel=1e-6)


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return() -> None:
    scaler = ReturnScaler(2, discount=0.5)
    rewards = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
    dones = np.array([[False, True], [False, False], [True, False]])
    for reward, done in zip(rewards, dones):
        scaler.scale(reward, done)
    scaler.merge(Alone())
    seen = [1.0, 2.0, 3.0 + 0.5 * 1.0, -1.0, 0.5 + 0.5 * 3.5, 0.5 + 0.5 * -1.0]  # a new episode begins at nothing
    assert scaler.moments.std == pytest.approx(np.sqrt(np.var(seen) + 1e-8))
    np.testing.assert_allclose(scaler.scale(np.array([1.0, 0.0]), np.array([False, False]))[0], 1 / scaler.moments.std)


def test_episodes_are_whole_and_their_returns_are_true_ones() -> None:
    settings = EnvSettings(id="tests.environments:Line-v0", normalize_rewards=True)
    right = play_episodes(settings, lambda seen: np.ones(len(seen), dtype=int), list(range(40)), Alone())
    assert right.tolist() == [20.0] * 40


def test_episodes_follow_from_their_seeds_in_any_company() -> None:
    settings = EnvSettings(id="CartPole-v1")

    def act(seen: np.ndarray) -> np.ndarray:
        return (seen[:, 2] > 0).astype(int)

    together = play_episodes(settings, act, list(range(30)), Alone())
    apart = [play_episodes(settings, act, [seed], Alone())[0] for seed in range(30)]
    assert together.tolist() == apart and len(set(apart)) > 3
