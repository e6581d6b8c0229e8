"""Advantages against the sum that defines them, and minibatches that are the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from harness.buffers import Rollout, minibatch_indices


def filled(steps: int, envs: int, seed: int = 0) -> Rollout:
    draw = np.random.default_rng(seed)
    rollout = Rollout(steps, envs, (3,), np.dtype(np.float32), np.zeros(1, np.int64))
    rollout.rewards[:] = draw.normal(size=(steps, envs))
    rollout.values[:] = draw.normal(size=(steps, envs))
    rollout.dones[:] = draw.random((steps, envs)) < 0.2
    return rollout


def test_advantages_are_the_discounted_sum_of_temporal_differences() -> None:
    """Schulman et al. 2016, equation 16, summed term by term up to the end of the episode."""
    gamma, lam = 0.97, 0.9
    rollout = filled(steps=11, envs=4)
    bootstrap = np.arange(4, dtype=np.float32)
    rollout.compute_advantages(bootstrap, gamma, lam)

    following = np.vstack([rollout.values[1:], bootstrap])
    for env in range(4):
        for start in range(11):
            expected, weight = 0.0, 1.0
            for step in range(start, 11):
                ended = rollout.dones[step, env]
                value = 0.0 if ended else following[step, env]
                expected += weight * (rollout.rewards[step, env] + gamma * value - rollout.values[step, env])
                weight *= gamma * lam
                if ended:
                    break
            assert rollout.advantages[start, env] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(rollout.returns, rollout.advantages + rollout.values, rtol=1e-6)


@pytest.mark.parametrize(("total", "steps", "minibatches"), [(4, 32, 4), (5, 7, 3), (8, 4, 16), (1, 10, 10)])
@pytest.mark.parametrize("shares", [(1,), (1, 1), (2, 1, 1)])
def test_minibatches_hold_the_same_samples_however_environments_are_shared_out(
    total: int, steps: int, minibatches: int, shares: tuple[int, ...]
) -> None:
    weights = np.array(shares) / sum(shares)
    edges = np.round(np.concatenate([[0], np.cumsum(weights)]) * total).astype(int)
    keys = np.random.default_rng(1).random((total, steps))

    def samples(first: int, envs: int, batch: int) -> set[tuple[int, int]]:
        if not envs:
            return set()
        part = minibatch_indices(keys, first, envs, minibatches)[0][batch]
        return {(index // envs, first + index % envs) for index in part.tolist()}

    parts, counts = minibatch_indices(keys, 0, total, minibatches)
    assert sorted(np.concatenate(parts).tolist()) == list(range(total * steps)), "each sample exactly once"
    assert counts.tolist() == [len(part) for part in parts]
    assert counts.max() - counts.min() <= max(1, total // 4 + 1), "minibatches come out even"
    for batch in range(minibatches):
        shared = [samples(low, high - low, batch) for low, high in zip(edges, edges[1:])]
        assert set().union(*shared) == samples(0, total, batch)
        assert sum(map(len, shared)) == counts[batch]


def test_each_environment_gives_the_same_fraction_to_each_minibatch() -> None:
    keys = np.random.default_rng(2).random((6, 40))
    parts, _ = minibatch_indices(keys, 0, 6, 4)
    for part in parts:
        assert np.bincount(part % 6).tolist() == [10] * 6
