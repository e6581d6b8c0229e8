"""Action heads: distributions over actions, from what a network says of a state."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn.functional import softplus

from harness.models.spaces import Choices, check_actions

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
VARIANCE_FLOOR = 1e-6
"""Added to a variance that features could make 0, as Raffin et al. do."""
NODES, WEIGHTS = (torch.from_numpy(part).float() for part in np.polynomial.hermite_e.hermegauss(16))
"""Of Gauss-Hermite quadrature: the mean of f(x) over a standard normal is the sum of WEIGHTS f(NODES) / sqrt(2 pi)."""


@dataclass(frozen=True)
class HeadOptions:
    """How a policy is random where actions are numbers."""

    squash: bool = False
    gsde: bool = False
    log_std_init: float = 0.0


class ActionHead(nn.Module):
    """A distribution over actions, from `parameters` numbers of the network; `n` is a batch."""

    parameter_count: int
    noise_shape: tuple[int, ...]
    noise: str
    """`uniform` or `normal`: which random numbers `sample` takes, (n, *noise_shape) of them."""

    @abstractmethod
    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Actions (n, …) that follow from the noise alone, so that they do not depend on which rank draws them."""

    @abstractmethod
    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """The most likely actions (n, …)."""

    @abstractmethod
    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """float32 (n,)"""

    @abstractmethod
    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """float32 (n,), in nats."""

    @abstractmethod
    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions as the environment takes them."""


class CategoricalHead(ActionHead):
    """Discrete, MultiDiscrete and MultiBinary actions: a softmax for each of the choices."""

    noise = "uniform"

    def __init__(self, space: Choices) -> None:
        super().__init__()
        self.sizes, self.start = choices_of(space)
        self.dtype = np.dtype(space.dtype)
        self.as_drawn = self.dtype == np.int64 and not self.start.any()
        """Whether the environment takes actions as they are drawn."""
        self.shape = self.start.shape
        self.parameter_count = sum(self.sizes)
        self.noise_shape = (len(self.sizes),)

    def log_softmax(self, parameters: torch.Tensor) -> list[torch.Tensor]:
        return [torch.log_softmax(part, dim=-1) for part in parameters.float().split(self.sizes, dim=-1)]

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The inverse of each cumulative distribution at `noise`."""
        choices = []
        for choice, logs in enumerate(self.log_softmax(parameters)):
            below = logs.exp().cumsum(-1) <= noise[:, choice : choice + 1]
            choices.append(below.sum(-1).clamp_(max=logs.shape[-1] - 1))
        return torch.stack(choices, dim=-1)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.argmax(-1) for part in parameters.split(self.sizes, dim=-1)], dim=-1)

    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        chosen = [
            logs.gather(-1, actions[:, choice : choice + 1]) for choice, logs in enumerate(self.log_softmax(parameters))
        ]
        return torch.cat(chosen, dim=-1).sum(-1)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        return torch.stack([-(logs.exp() * logs).sum(-1) for logs in self.log_softmax(parameters)]).sum(0)

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        actions = actions.reshape(-1, *self.shape)
        return actions if self.as_drawn else (actions + self.start).astype(self.dtype, copy=False)


def choices_of(space: Choices) -> tuple[list[int], np.ndarray]:
    """How many values each choice has, and, in the shape of an action, the least of them."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)], np.asarray(space.start)
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape)), np.zeros(space.shape, np.int64)
    return [int(n) for n in space.nvec.ravel()], np.asarray(space.start)


class Bounds:
    """Numbers brought into a Box, whatever its bounds and dtype: actions never leave their space, not by a rounding
    either. Of whole numbers it takes the nearest."""

    def __init__(self, space: spaces.Box) -> None:
        self.shape, self.dtype = space.shape, space.dtype
        self.whole = self.dtype.kind != "f"
        self.lowest, self.highest = space.low, space.high
        self.low, self.high = (inner(bound, self.dtype) for bound in (space.low, space.high))
        with np.errstate(over="ignore", invalid="ignore"):
            self.span = self.high - self.low
        self.wide = not np.isfinite(self.span).all()
        """Where bounds are too far apart for their distance to be a number; then there may be none at all."""

    def clip(self, actions: np.ndarray) -> np.ndarray:
        """Actions (n, …) in the space's shape and dtype, those outside at the nearest bound."""
        actions = actions.reshape(-1, *self.shape)
        return self.within(np.fmax(np.rint(actions) if self.whole else actions, self.low))

    def scale(self, actions: np.ndarray) -> np.ndarray:
        """Actions (n, …) in [-1, 1], which are the bounds of a space that has bounds."""
        share = 0.5 * (actions.reshape(-1, *self.shape) + 1.0)
        if self.wide:
            share = share.astype(np.float64)
            scaled = self.low * (1.0 - share) + self.high * share
        else:
            scaled = self.low + share * self.span
        if self.whole:
            np.rint(scaled, out=scaled)
        return self.within(np.fmax(scaled, self.low, out=scaled))

    def within(self, actions: np.ndarray) -> np.ndarray:
        """Of actions that are at least `low`, which this may overwrite. (fmin and fmax make a bound of what is no
        number.)"""
        actions = np.fmin(actions, self.high, out=actions).astype(self.dtype, copy=False)
        return np.clip(actions, self.lowest, self.highest) if self.whole else actions


def inner(bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A bound in floats that the dtype can hold: of the largest whole numbers the nearest float may lie outside."""
    if dtype.kind == "f":
        return bound
    near = bound.astype(np.float64)
    exact = [int(each) for each in bound.ravel().tolist()]
    towards_zero = [
        np.nextafter(each, 0.0) if abs(int(each)) > abs(number) else each for each, number in zip(near.ravel(), exact)
    ]
    return np.array(towards_zero, np.float64).reshape(bound.shape)


def normal_log_prob(distance: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """float32 (n,): of values at `distance` (n, a) from the means of independent normals."""
    return (-0.5 * (distance * torch.exp(-log_std)).square() - log_std - HALF_LOG_2_PI).sum(-1)


def log_slope_of_tanh(x: torch.Tensor) -> torch.Tensor:
    """log(1 - tanh(x)^2), where that would round to log 0 too."""
    return 2.0 * (math.log(2.0) - x - softplus(-2.0 * x))


def normal_entropy(log_std: torch.Tensor) -> torch.Tensor:
    return (log_std + HALF_LOG_2_PI + 0.5).sum(-1)


def mean_log_slope_of_tanh(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """float32 (n,): what squashing adds to the entropy of independent normals (n, a), by quadrature."""
    nodes, weights = NODES.to(mean.device), WEIGHTS.to(mean.device) / math.sqrt(2 * math.pi)
    at = mean[..., None] + std[..., None] * nodes
    return (log_slope_of_tanh(at) * weights).sum(-1).sum(-1)


class GaussianHead(ActionHead):
    """Box actions: a normal for each dimension whose deviation does not depend on the state.

    They are clipped to the bounds outside, or with `squash` brought there by tanh: then what is kept of an action is
    what tanh is taken of, and log-probabilities are those of the squashed action (Haarnoja et al. 2018b, equation 26).
    """

    noise = "normal"

    def __init__(self, space: spaces.Box, squash: bool = False, log_std_init: float = 0.0) -> None:
        super().__init__()
        self.shape, self.squash = space.shape, squash
        self.actions = int(np.prod(space.shape))
        self.parameter_count = self.actions
        self.noise_shape: tuple[int, ...] = (self.actions,)
        self.bounds = Bounds(space)
        self.log_std = nn.Parameter(torch.full(self.std_shape, log_std_init))

    @property
    def std_shape(self) -> tuple[int, ...]:
        return (self.actions,)

    def normal(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means (n, a) and logs of the deviations, (n, a) or (a,)."""
        return parameters.float(), self.log_std

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return parameters.float() + self.log_std.exp() * noise

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        return self.normal(parameters)[0]

    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        mean, log_std = self.normal(parameters)
        log_prob = normal_log_prob(actions - mean, log_std)
        return log_prob - log_slope_of_tanh(actions).sum(-1) if self.squash else log_prob

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        mean, log_std = self.normal(parameters)
        entropy = normal_entropy(log_std).expand(len(mean))
        return entropy + mean_log_slope_of_tanh(mean, log_std.exp()) if self.squash else entropy

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return self.bounds.scale(np.tanh(actions)) if self.squash else self.bounds.clip(actions)


class StateDependentHead(GaussianHead):
    """Box actions with generalised state-dependent exploration (gSDE, Raffin, Kober and Stulp 2021).

    The noise of an action is a linear function of the state's features, whose matrix stays the same for many steps:
    exploration that is smooth, and that repeats where a state does. Each action is normal for itself all the same, of
    the variance in equation 9; features do not learn from it (section 3.2 of the paper: in A2C and PPO).
    """

    def __init__(
        self, space: spaces.Box, features: int, activation: nn.Module, squash: bool = False, log_std_init: float = 0.0
    ) -> None:
        """`features`: how many numbers the network gives of a state; `activation` makes features of them."""
        self.features = features
        super().__init__(space, squash, log_std_init)
        self.parameter_count = features
        self.noise_shape = (features, self.actions)
        self.activation = activation
        self.mean = nn.Linear(features, self.actions)

    @property
    def std_shape(self) -> tuple[int, ...]:
        return self.features, self.actions

    def normal(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.activation(parameters.float())
        return self.mean(features), 0.5 * state_dependent_variance(features.detach(), self.log_std).log()

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`noise`: (n, features, a), a matrix of standard normal numbers for each."""
        features = self.activation(parameters.float())
        return self.mean(features) + (features[:, None, :] @ (self.log_std.exp() * noise)).squeeze(1)


def state_dependent_variance(features: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """(n, a): equation 9 of Raffin et al. (2021); `features` (n, f), `log_std` (f, a)."""
    return features.square() @ (2.0 * log_std).exp() + VARIANCE_FLOOR


def make_action_head(
    space: spaces.Space, env_id: str, options: HeadOptions | None = None, features: int = 0, activation: str = "tanh"
) -> ActionHead:
    """`features`, `activation`: of a head with state-dependent exploration, which the network gives so many numbers."""
    options = options or HeadOptions()
    check_actions(space, env_id, options.squash, options.gsde)
    if isinstance(space, spaces.Box):
        if options.gsde:
            how = ACTIVATIONS[activation]()
            return StateDependentHead(space, features, how, options.squash, options.log_std_init)
        return GaussianHead(space, options.squash, options.log_std_init)
    assert isinstance(space, Choices)
    return CategoricalHead(space)
