"""Networks: an actor and a critic from observations, and classifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.errors import BadInput
from harness.models.action_heads import ACTIVATIONS, ActionHead, HeadOptions, StateDependentHead, make_action_head
from harness.models.cnn import ActorCriticCNN
from harness.models.initialization import orthogonal_
from harness.models.probing import probe, refuse_batch_statistics
from harness.models.spaces import convolves

if TYPE_CHECKING:
    from harness.envs import EnvSettings
    from harness.schema import NetworkSettings


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: str, last_gain: float) -> nn.Sequential:
    """Hidden layers with orthogonal weights of gain sqrt(2), the last with `last_gain` (Engstrom et al. 2020)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [orthogonal_(nn.Linear(inputs, width), math.sqrt(2)), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, orthogonal_(nn.Linear(inputs, outputs), last_gain))


class ActorCriticMLP(nn.Module):
    """Two networks that share no weights: one for the action's parameters, one for the value."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_parameters: int,
        hidden: Sequence[int],
        activation: str,
        policy_hidden: Sequence[int] | None = None,
    ):
        """`policy_hidden`: the policy's hidden layers, where they are others than the value's."""
        super().__init__()
        inputs = int(np.prod(observation_space.shape))
        self.scale = 1.0 / 255.0 if observation_space.dtype == np.uint8 else 1.0
        self.policy = mlp(
            inputs, hidden if policy_hidden is None else policy_hidden, action_parameters, activation, last_gain=0.01
        )
        self.value = mlp(inputs, hidden, 1, activation, last_gain=1.0)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = observations.flatten(1)
        if flat.dtype == torch.uint8:
            flat = flat.float() * self.scale
        return self.policy(flat), self.value(flat).squeeze(-1)


class ActorCritic(nn.Module):
    """The network and the action head, one module, so that all they learn lies in one arena."""

    def __init__(self, network: nn.Module, head: ActionHead) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.changed: tuple[str, ...] = ()
        """Buffers that every call changes, of a network of the user's."""

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(action parameters (n, a), values float32 (n,))"""
        parameters, values = self.network(observations)
        return parameters, values.float()


def make_actor_critic(
    settings: NetworkSettings,
    observation_space: spaces.Box,
    action_space: spaces.Space,
    env: EnvSettings,
    user_class: Any,
    options: HeadOptions | None = None,
) -> ActorCritic:
    """The default network, or `user_class` where the settings name one, checked on one observation.

    With state-dependent exploration the network gives as many numbers as the last of `network.hidden` says, of which
    the head makes features: those of the default network are its last hidden layer.

    Observations come as float32; as uint8 where the environment gives them so and they are not normalised.
    """
    features = settings.hidden[-1] if settings.hidden else 0
    if options is not None and options.gsde and not features:
        raise BadInput("network.hidden must have a layer with algorithm.gsde, whose noise is a function of it; got []")
    head = make_action_head(action_space, env.id, options, features, settings.activation)
    if user_class is None:
        return ActorCritic(default_actor_critic(settings, observation_space, head), head)
    where = f"network.class = {settings.class_!r}"
    try:
        network = user_class(observation_space, head.parameter_count, **settings.kwargs)
    except TypeError as error:
        expected = "Class(observation_space, action_parameters, **network.kwargs)"
        raise BadInput(f"{where} cannot be built as {expected}: {error}") from None
    model = ActorCritic(network, head)
    kept = observation_space.dtype == np.uint8 and not env.normalize_observations
    seen = torch.zeros((1, *observation_space.shape), dtype=torch.uint8 if kept else torch.float32)
    refuse_batch_statistics(network, where)
    try:
        probed = probe(model, seen)
        parameters, values = probed.outputs
        shapes = tuple(parameters.shape), tuple(values.shape)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        expected = f"observations {tuple(seen.shape)} and return (action_parameters, values)"
        raise BadInput(f"{where}: forward must take {expected}, but failed: {error}") from None
    if shapes != ((1, head.parameter_count), (1,)):
        expected = f"shapes (1, {head.parameter_count}) and (1,)"
        raise BadInput(f"{where}: forward must return (action_parameters, values) of {expected}, got {shapes}")
    model.changed = tuple(name.removeprefix("network.") for name in probed.changed)
    return model


def default_actor_critic(settings: NetworkSettings, observation_space: spaces.Box, head: ActionHead) -> nn.Module:
    spaces_and_sizes = observation_space, head.parameter_count
    by_features = isinstance(head, StateDependentHead)
    network: ActorCriticCNN | ActorCriticMLP
    if convolves(settings, observation_space):
        network = ActorCriticCNN(*spaces_and_sizes, settings.cnn_hidden)
        last = network.policy
    else:
        hidden = settings.hidden
        network = ActorCriticMLP(
            *spaces_and_sizes, hidden, settings.activation, policy_hidden=hidden[:-1] if by_features else hidden
        )
        last = network.policy[-1]  # type: ignore[assignment]
    if isinstance(head, StateDependentHead):  # the policy's last layer is a hidden one: the head has the last
        orthogonal_(last, math.sqrt(2))
        orthogonal_(head.mean, 0.01)
    return network
