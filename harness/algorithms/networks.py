"""Networks, and the distributions that turn their outputs into actions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.algorithms.convolutions import ActorCriticCNN, convolves
from harness.algorithms.initialization import orthogonal_
from harness.errors import BadInput

if TYPE_CHECKING:
    from harness.config import NetworkSettings
    from harness.envs import EnvSettings

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: str, last_gain: float) -> nn.Sequential:
    """Hidden layers with orthogonal weights of gain sqrt(2), the last with `last_gain` (Engstrom et al. 2020)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [orthogonal_(nn.Linear(inputs, width), math.sqrt(2)), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, orthogonal_(nn.Linear(inputs, outputs), last_gain))


class ActorCriticMLP(nn.Module):
    """Two networks of the same shape that share no weights: one for the action's parameters, one for the value."""

    def __init__(self, observation_space: spaces.Box, action_parameters: int, hidden: Sequence[int], activation: str):
        super().__init__()
        inputs = int(np.prod(observation_space.shape))
        self.scale = 1.0 / 255.0 if observation_space.dtype == np.uint8 else 1.0
        self.policy = mlp(inputs, hidden, action_parameters, activation, last_gain=0.01)
        self.value = mlp(inputs, hidden, 1, activation, last_gain=1.0)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = observations.flatten(1)
        if flat.dtype == torch.uint8:
            flat = flat.float() * self.scale
        return self.policy(flat), self.value(flat).squeeze(-1)


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
    """Discrete and MultiDiscrete actions: a softmax for each of the choices."""

    noise = "uniform"

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        self.single = isinstance(space, spaces.Discrete)
        self.sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]
        self.start = np.asarray(space.start)
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
        actions = actions[:, 0] if self.single else actions
        return actions + self.start if self.start.any() else actions


class GaussianHead(ActionHead):
    """Box actions: a normal for each dimension whose deviation does not depend on the state; clipped to the bounds
    outside."""

    noise = "normal"

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.shape = space.shape
        self.parameter_count = int(np.prod(space.shape))
        self.noise_shape = (self.parameter_count,)
        self.low, self.high, self.dtype = space.low, space.high, space.dtype
        self.log_std = nn.Parameter(torch.zeros(self.parameter_count))

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return parameters.float() + self.log_std.exp() * noise

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters.float()

    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        standard = (actions - parameters.float()) * torch.exp(-self.log_std)
        return (-0.5 * standard.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(parameters.shape[0])

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(actions.reshape(-1, *self.shape), self.low, self.high).astype(self.dtype)


def make_action_head(space: spaces.Space, env_id: str) -> ActionHead:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return CategoricalHead(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianHead(space)
    raise BadInput(f"env.id = {env_id!r} has {space} actions; they may be Discrete, MultiDiscrete or a Box of floats")


class ActorCritic(nn.Module):
    """The network and the action head, one module, so that all they learn lies in one arena."""

    def __init__(self, network: nn.Module, head: ActionHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(action parameters (n, a), values float32 (n,))"""
        parameters, values = self.network(observations)
        return parameters, values.float()


def make_classifier(settings: NetworkSettings, shape: tuple[int, ...], classes: int, user_class: Any) -> nn.Module:
    """Inputs (n, *shape) to logits (n, classes): convolutions for images (channels, height, width), else a perceptron,
    with BatchNorm between their layers; or `user_class` where the settings name one, checked on one input.
    """
    if user_class is None:
        return convolutional(settings, shape, classes) if len(shape) == 3 else perceptron(settings, shape, classes)
    where = f"network.class = {settings.class_!r}"
    try:
        model = user_class(shape, classes, **settings.kwargs)
    except TypeError as error:
        expected = "Class(input_shape, classes, **network.kwargs)"
        raise BadInput(f"{where} cannot be built as {expected}: {error}") from None
    expected = f"take inputs {(1, *shape)} and return logits {(1, classes)}"
    try:
        with torch.no_grad():
            found = tuple(model.eval()(torch.zeros(1, *shape)).shape)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BadInput(f"{where}: forward must {expected}, but failed: {error}") from None
    if found != (1, classes):
        raise BadInput(f"{where}: forward must {expected}, got {found}")
    return model


def convolutional(settings: NetworkSettings, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    channels, height, width = shape
    layers: list[nn.Module] = []
    for filters in settings.hidden:
        # no bias: BatchNorm takes it away again
        layers += [nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)]
        layers.append(ACTIVATIONS[settings.activation]())
        channels = filters
        if min(height, width) >= 4:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))


def perceptron(settings: NetworkSettings, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    inputs = int(np.prod(shape))
    layers: list[nn.Module] = [nn.Flatten()]
    for width in settings.hidden:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), ACTIVATIONS[settings.activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def make_actor_critic(
    settings: NetworkSettings,
    observation_space: spaces.Box,
    action_space: spaces.Space,
    env: EnvSettings,
    user_class: Any,
) -> ActorCritic:
    """The default network, or `user_class` where the settings name one, checked on one observation.

    Observations come as float32; as uint8 where the environment gives them so and they are not normalised.
    """
    head = make_action_head(action_space, env.id)
    if user_class is None:
        spaces_and_sizes = observation_space, head.parameter_count
        if convolves(settings, observation_space):
            return ActorCritic(ActorCriticCNN(*spaces_and_sizes, settings.cnn_hidden), head)
        return ActorCritic(ActorCriticMLP(*spaces_and_sizes, settings.hidden, settings.activation), head)
    where = f"network.class = {settings.class_!r}"
    try:
        network = user_class(observation_space, head.parameter_count, **settings.kwargs)
    except TypeError as error:
        expected = "Class(observation_space, action_parameters, **network.kwargs)"
        raise BadInput(f"{where} cannot be built as {expected}: {error}") from None
    model = ActorCritic(network, head)
    kept = observation_space.dtype == np.uint8 and not env.normalize_observations
    probe = torch.zeros((1, *observation_space.shape), dtype=torch.uint8 if kept else torch.float32)
    try:
        parameters, values = model(probe)
        shapes = tuple(parameters.shape), tuple(values.shape)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        expected = f"observations {tuple(probe.shape)} and return (action_parameters, values)"
        raise BadInput(f"{where}: forward must take {expected}, but failed: {error}") from None
    if shapes != ((1, head.parameter_count), (1,)):
        expected = f"shapes (1, {head.parameter_count}) and (1,)"
        raise BadInput(f"{where}: forward must return (action_parameters, values) of {expected}, got {shapes}")
    return model
