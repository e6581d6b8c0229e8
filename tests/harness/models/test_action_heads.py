"""Squashed and state-dependent action distributions against integrals and samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from harness.errors import BadInput
from harness.models.action_heads import (
    GaussianHead,
    HeadOptions,
    StateDependentHead,
    log_slope_of_tanh,
    make_action_head,
    state_dependent_variance,
)

BOX = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)


def test_squashed_log_probabilities_are_a_change_of_variables() -> None:
    """The density of a = tanh(u) as the slope of its cumulative distribution, by differences."""
    head = GaussianHead(BOX, squash=True)
    head.log_std.data = torch.tensor([-0.7, 0.2])
    mean = torch.tensor([[0.4, -1.1]])
    taken = np.array([0.3, -0.85])
    kept = torch.from_numpy(np.arctanh(taken)).float()[None]
    step, density = 1e-5, 1.0
    for dimension in range(2):
        normal = stats.norm(float(mean[0, dimension]), float(head.log_std.detach()[dimension].exp()))
        above, below = (normal.cdf(np.arctanh(taken[dimension] + side)) for side in (step, -step))
        density *= (above - below) / (2 * step)
    assert head.log_prob(mean, kept).item() == pytest.approx(math.log(density), rel=1e-4)
    np.testing.assert_allclose(head.for_environment(kept.numpy()), 2.0 * taken[None], rtol=1e-5)


def test_log_slopes_stay_finite_where_tanh_is_flat() -> None:
    x = torch.tensor([-20.0, -1.0, 0.0, 3.0, 20.0])
    expected = [math.log(4.0) - 2 * abs(each) - 2 * math.log1p(math.exp(-2 * abs(each))) for each in x.tolist()]
    torch.testing.assert_close(log_slope_of_tanh(x), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.8, 1.0), (-2.0, 0.1)])
def test_the_entropy_of_a_squashed_action_is_its_integral(mean: float, std: float) -> None:
    head = GaussianHead(gym.spaces.Box(-1.0, 1.0, (1,), np.float32), squash=True, log_std_init=math.log(std))

    def integrand(u: float) -> float:
        log_density = stats.norm.logpdf(u, mean, std) - math.log(1.0 - math.tanh(u) ** 2)
        return -stats.norm.pdf(u, mean, std) * log_density

    expected, _ = integrate.quad(integrand, mean - 8 * std, mean + 8 * std)
    assert head.entropy(torch.tensor([[mean]])).item() == pytest.approx(expected, abs=2e-3)


def gsde(squash: bool = False) -> StateDependentHead:
    torch.manual_seed(0)
    head = StateDependentHead(BOX, 5, nn.Tanh(), squash)
    head.log_std.data = torch.randn(5, 2) * 0.5 - 1.0
    return head


def test_state_dependent_actions_have_the_variance_of_equation_9() -> None:
    """Over noise matrices, at one state; and the density is that of a normal of that variance."""
    head = gsde()
    parameters = torch.randn(1, 5).expand(100_000, 5)
    draw = torch.Generator().manual_seed(1)
    actions = head.sample(parameters, torch.randn(100_000, 5, 2, generator=draw)).detach()
    features = np.tanh(parameters[0].double().numpy())
    variance = [sum(features[f] ** 2 * math.exp(2 * head.log_std[f, a].item()) for f in range(5)) for a in range(2)]
    np.testing.assert_allclose(actions.var(0).numpy(), variance, rtol=0.03)
    np.testing.assert_allclose(
        state_dependent_variance(torch.tanh(parameters[:1]), head.log_std)[0].detach(), variance, rtol=1e-4
    )
    mean = head.mode(parameters[:1])[0].detach()
    np.testing.assert_allclose(actions.mean(0), mean, atol=0.02)
    expected = sum(stats.norm.logpdf(float(actions[0, a]), float(mean[a]), math.sqrt(variance[a])) for a in range(2))
    assert head.log_prob(parameters[:1], actions[:1]).item() == pytest.approx(expected, rel=1e-3)
    entropy = sum(0.5 * math.log(2 * math.pi * math.e * each) for each in variance)
    assert head.entropy(parameters[:1]).item() == pytest.approx(entropy, rel=1e-4)


def test_the_same_noise_matrix_gives_the_same_action_in_the_same_state() -> None:
    head = gsde()
    states, matrix = torch.randn(3, 5), torch.randn(1, 5, 2)
    together = head.sample(states, matrix.expand(3, 5, 2))
    torch.testing.assert_close(head.sample(states[1:2], matrix), together[1:2])
    noise = together - head.mode(states)
    expected = torch.tanh(states) @ (head.log_std.exp() * matrix[0])
    torch.testing.assert_close(noise, expected)


def test_features_learn_from_the_mean_alone() -> None:
    head = gsde()
    parameters = torch.randn(4, 5, requires_grad=True)
    actions = torch.randn(4, 2)
    head.log_prob(parameters, actions).sum().backward()
    assert parameters.grad is not None
    learned = parameters.grad.clone()

    parameters.grad = None
    std = state_dependent_variance(torch.tanh(parameters.detach()), head.log_std.detach()).sqrt()
    mean = head.mean(torch.tanh(parameters))
    (-0.5 * ((actions - mean) / std).square()).sum().backward()
    torch.testing.assert_close(learned, parameters.grad)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: make_action_head(gym.spaces.Discrete(2), "Two-v0", HeadOptions(squash=True)), "algorithm.squash"),
    (lambda: make_action_head(gym.spaces.Discrete(2), "Two-v0", HeadOptions(gsde=True), 8), "algorithm.gsde"),
    (
        lambda: make_action_head(gym.spaces.Box(-np.inf, np.inf, (1,)), "Free-v0", HeadOptions(squash=True)),
        "'Free-v0' has actions without bounds",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_does_not_fit_the_actions_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()
