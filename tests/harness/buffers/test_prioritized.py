"""The sum tree against a cumulative sum; prioritized replay's distribution and weights against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.buffers.minibatches import Minibatches
from harness.buffers.prioritized import SMALLEST, PrioritizedReplay, SumTree
from harness.envs.backends.base import StepResult
from harness.envs.vectors import Share


@pytest.mark.parametrize("size", [1, 5, 16, 17, 300, 5000])
def test_the_tree_finds_what_a_cumulative_sum_finds(size: int) -> None:
    draw = np.random.default_rng(size)
    tree = SumTree(3, size)
    values = draw.random((3, size)) * (draw.random((3, size)) < 0.3)
    values[:, 0] = 0.5
    for _ in range(3):  # set, and set anew in part
        changed = draw.permutation(3 * size)[: 2 * size]
        values.ravel()[changed] *= draw.random(len(changed))
        every = np.arange(size)
        for env in range(3):
            tree.set(env * tree.width + every, values[env])
        assert tree.sums() == pytest.approx(values.sum(1))
        env, fractions = draw.integers(3, size=400), draw.random(400)
        found = tree.find(env, fractions) - env * tree.width
        for each, fraction, leaf in zip(env, fractions, found):
            assert leaf == np.searchsorted(np.cumsum(values[each]), fraction * values[each].sum(), side="right")


def test_the_end_of_the_sum_is_its_last_number_that_is_not_zero() -> None:
    tree = SumTree(1, 40)
    tree.set(np.arange(3), np.array([0.1, 0.2, 0.3]))
    assert tree.find(np.zeros(2, int), np.array([np.nextafter(1.0, 0.0), 1.0])).tolist() == [2, 2]
    assert tree.find(np.zeros(1, int), np.zeros(1)).tolist() == [0]


def steps(replay: PrioritizedReplay, count: int, truncated: bool = False) -> None:
    """Each environment goes on, or each step ends its episode by a limit."""
    for _ in range(count):
        number = float(replay.count[0])
        seen = np.full((replay.envs, 1), number + 1, np.float32)
        rewards, end = np.full(replay.envs, number, np.float32), np.full(replay.envs, truncated)
        no = np.zeros(replay.envs, bool)
        replay.add(np.zeros(replay.envs, np.int64), StepResult(seen, rewards, rewards, no, end, seen))


def make(capacity: int, n_steps: int = 1, envs: int = 2) -> PrioritizedReplay:
    example = np.zeros((), np.int64)
    replay = PrioritizedReplay(capacity, envs, (1,), np.dtype(np.float32), example, n_steps, 0.9, alpha=0.5)
    replay.begin(np.zeros((envs, 1), np.float32))
    return replay


def test_transitions_are_drawn_in_proportion_to_the_power_of_their_errors() -> None:
    replay = make(capacity=16)
    steps(replay, 20)  # 4 … 19 are kept
    numbers = np.arange(4, 20)
    errors = np.random.default_rng(0).normal(size=(2, 16)) * 3
    for env in range(2):
        replay.update(np.full(16, env), numbers, errors[env].astype(np.float32))
    env = np.repeat([0, 1], 100_000)
    found = replay.sample(env, np.random.default_rng(1).random(len(env)))
    for each in range(2):
        expected = (np.abs(errors[each]) + SMALLEST) ** 0.5
        expected /= expected.sum()
        counts = np.bincount(found[env == each] - 4, minlength=16) / 100_000
        assert counts == pytest.approx(expected, abs=0.005)
        weights = replay.weights(np.full(16, each), numbers, beta=0.7)
        assert weights == pytest.approx((16 * expected) ** -0.7, rel=1e-5), "(N P(i))^-β"


@pytest.mark.parametrize("n_steps", [1, 3])
def test_what_has_no_error_yet_has_the_largest_priority_and_what_is_gone_has_none(n_steps: int) -> None:
    replay = make(capacity=8, n_steps=n_steps)
    steps(replay, 10)
    replay.update(np.array([0]), np.array([5]), np.array([25.0]))
    steps(replay, 2)
    first, sizes = replay.window()
    assert first.tolist() == [4, 4] and sizes.tolist() == [9 - n_steps] * 2
    leaves = replay.tree.leaves.reshape(2, -1)
    for number in range(4, 12):
        drawable = number <= 12 - n_steps  # until its last reward is known nothing can be drawn
        new = number > 10 - n_steps
        expected = 0.0 if not drawable else 5.0 if number == 5 or new else 1.0
        assert leaves[0, number % 8] == pytest.approx(expected, abs=1e-5), number
        assert leaves[1, number % 8] == pytest.approx(float(drawable)), "another environment's errors are its own"


def test_what_is_given_up_early_is_never_drawn() -> None:
    replay = make(capacity=64)
    steps(replay, 64, truncated=True)  # each takes two frames, of which there are 74
    first, sizes = replay.window()
    assert 0 < sizes[0] < 40
    found = replay.sample(np.zeros(10_000, int), np.random.default_rng(0).random(10_000))
    assert set(found) == set(range(first[0], 64))


def test_a_minibatch_has_one_sample_of_each_equal_part_of_the_sum() -> None:
    replay = make(capacity=400)
    steps(replay, 400)
    minibatches = Minibatches(replay, Share(0, 2, 2), 20, 1, torch.device("cpu"))
    minibatches.draw(7, np.random.default_rng(0).random((1, 20)), beta=0.5)
    for env in range(2):
        numbers = minibatches.numbers[minibatches.env == env]
        assert sorted(numbers // 40) == list(range(10)), "all priorities are equal: a tenth is 40 transitions"
    assert minibatches.arrays["weights"] == pytest.approx(1.0)


def test_its_state_holds_the_priorities() -> None:
    replay, other = make(capacity=8), make(capacity=8)
    steps(replay, 10)
    replay.update(np.array([0, 1]), np.array([5, 9]), np.array([25.0, 4.0]))
    other.load_state({name: np.array(value) for name, value in replay.state().items()})
    assert (other.tree.sums() == replay.tree.sums()).all() and (other.highest == replay.highest).all()
    draws = np.random.default_rng(0).random(50)
    assert (other.sample(np.zeros(50, int), draws) == replay.sample(np.zeros(50, int), draws)).all()
