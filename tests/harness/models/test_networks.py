"""Action distributions against torch's own, and sampling against its probabilities."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import distributions

from harness.errors import BadInput
from harness.models.action_heads import CategoricalHead, GaussianHead, make_action_head


def test_categorical_agrees_with_torch() -> None:
    head = CategoricalHead(gym.spaces.Discrete(5))
    logits = torch.randn(64, 5)
    reference = distributions.Categorical(logits=logits)
    actions = reference.sample()
    torch.testing.assert_close(head.log_prob(logits, actions[:, None]), reference.log_prob(actions))
    torch.testing.assert_close(head.entropy(logits), reference.entropy())
    assert torch.equal(head.mode(logits)[:, 0], logits.argmax(-1))


def test_several_choices_are_independent() -> None:
    head = CategoricalHead(gym.spaces.MultiDiscrete([2, 3]))
    logits = torch.randn(16, 5)
    first, second = (distributions.Categorical(logits=part) for part in logits.split([2, 3], -1))
    actions = torch.stack([first.sample(), second.sample()], -1)
    expected = first.log_prob(actions[:, 0]) + second.log_prob(actions[:, 1])
    torch.testing.assert_close(head.log_prob(logits, actions), expected)
    torch.testing.assert_close(head.entropy(logits), first.entropy() + second.entropy())


def test_choices_in_rows_and_columns_are_given_in_them() -> None:
    sizes, start = np.array([[2, 3], [4, 2], [3, 5]]), np.array([[0, 7], [1, 0], [0, 2]])
    space = gym.spaces.MultiDiscrete(sizes, start=start)
    head = CategoricalHead(space)
    assert head.parameter_count == 19 and head.noise_shape == (6,)
    preferred = torch.stack([torch.randint(int(n), (8,)) for n in sizes.ravel()], -1)
    logits = torch.cat([torch.eye(int(n))[preferred[:, at]] for at, n in enumerate(sizes.ravel())], -1)
    actions = head.for_environment(head.mode(logits).numpy())
    assert all(space.contains(action) for action in actions)
    np.testing.assert_array_equal(actions, preferred.numpy().reshape(8, 3, 2) + start)


def test_choices_come_with_their_probabilities() -> None:
    head = CategoricalHead(gym.spaces.Discrete(3))
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    noise = (torch.arange(10_000).float()[:, None] + 0.5) / 10_000  # every quantile once
    actions = head.sample(probabilities.log().expand(10_000, 3), noise)
    counts = torch.bincount(actions[:, 0], minlength=3) / 10_000
    torch.testing.assert_close(counts, probabilities, atol=1e-3, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
def test_the_ends_of_the_noise_are_choices_too(uniform: float) -> None:
    head = CategoricalHead(gym.spaces.Discrete(4))
    action = head.sample(torch.randn(1, 4), torch.tensor([[uniform]], dtype=torch.float32))
    assert 0 <= int(action) < 4


def test_gaussian_agrees_with_torch() -> None:
    head = GaussianHead(gym.spaces.Box(-2.0, 2.0, (3,), np.float32))
    head.log_std.data = torch.tensor([-0.5, 0.0, 0.7])
    mean, noise = torch.randn(32, 3), torch.randn(32, 3)
    reference = distributions.Independent(distributions.Normal(mean, head.log_std.exp()), 1)
    actions = head.sample(mean, noise)
    torch.testing.assert_close(actions, mean + head.log_std.exp() * noise)
    torch.testing.assert_close(head.log_prob(mean, actions), reference.log_prob(actions))
    torch.testing.assert_close(head.entropy(mean), reference.entropy())


def test_actions_outside_the_bounds_are_clipped_for_the_environment_alone() -> None:
    head = GaussianHead(gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 2.0], np.float32)))
    taken = head.for_environment(np.array([[-5.0, 5.0], [0.5, 1.0]], np.float32))
    assert taken.tolist() == [[-1.0, 2.0], [0.5, 1.0]] and taken.dtype == np.float32


def test_a_discrete_space_that_starts_elsewhere_keeps_its_start() -> None:
    head = CategoricalHead(gym.spaces.Discrete(3, start=5))
    assert head.for_environment(np.array([[0], [2]])).tolist() == [5, 7]


def test_actions_that_cannot_be_acted_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match="env.id = 'Odd-v0'.*may be Discrete, MultiDiscrete, MultiBinary or a Box"):
        make_action_head(gym.spaces.Text(5), "Odd-v0")
