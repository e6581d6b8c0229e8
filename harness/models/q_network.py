"""Networks from observations to the values of discrete actions, or to quantiles of their distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.errors import BadInput
from harness.models.cnn import convolutions
from harness.models.initialization import layers
from harness.models.probing import probe, refuse_batch_statistics
from harness.models.spaces import check_discrete, convolves

if TYPE_CHECKING:
    from harness.envs import EnvSettings
    from harness.schema import NetworkSettings


class QNetwork(nn.Module):
    """Observations (n, *obs_shape) to (n, actions, quantiles); one quantile is the value itself. With `cnn` the layers
    of `hidden` widths follow convolutions.

    With `dueling` the last hidden layer is there twice: for the state's value and for the actions' advantages (Wang et
    al. 2016, equation 9).
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        actions: int,
        quantiles: int,
        hidden: Sequence[int],
        activation: str,
        dueling: bool,
        cnn: bool = False,
    ) -> None:
        super().__init__()
        self.actions, self.quantiles, self.dueling = actions, quantiles, dueling
        shared, own = (hidden[:-1], hidden[-1:]) if dueling else (hidden, [])
        self.images: nn.Module | None = None
        inputs = int(np.prod(observation_space.shape))
        if cnn:
            convolved, inputs = convolutions(observation_space, orthogonal=False)
            self.images = nn.Sequential(*convolved)
        self.trunk = nn.Sequential(*layers(inputs, shared, activation))
        width = shared[-1] if shared else inputs
        last = own[-1] if own else width
        self.advantage = nn.Sequential(*layers(width, own, activation), nn.Linear(last, actions * quantiles))
        if dueling:
            self.value = nn.Sequential(*layers(width, own, activation), nn.Linear(last, quantiles))

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        if self.images is not None:
            return self.trunk(self.images(observations))
        flat = observations.flatten(1)
        return self.trunk(flat.float() / 255.0 if flat.dtype == torch.uint8 else flat)

    def advantages(self, features: torch.Tensor) -> torch.Tensor:
        """As good as the values for the best action, without a state's value, beside which they may be lost."""
        return self.advantage(features).view(-1, self.actions, self.quantiles)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        features = self.features(observations)
        advantages = self.advantages(features)
        if not self.dueling:
            return advantages
        return self.value(features)[:, None] + advantages - advantages.mean(1, keepdim=True)


class UsersQNetwork(nn.Module):
    """A network of the user's, whose outputs (n, actions * quantiles) are taken as (n, actions, quantiles)."""

    def __init__(self, network: nn.Module, actions: int, quantiles: int) -> None:
        super().__init__()
        self.network, self.actions, self.quantiles = network, actions, quantiles
        self.changed: tuple[str, ...] = ()
        """Buffers that every call changes."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.network(observations).float().unflatten(-1, (self.actions, self.quantiles))


def make_q_network(
    settings: NetworkSettings,
    observation_space: spaces.Box,
    action_space: spaces.Space,
    env: EnvSettings,
    name: str,
    quantiles: int,
    dueling: bool,
    user_class: Any,
) -> nn.Module:
    """The default network, or `user_class` where the settings name one, checked on one observation; BadInput where
    algorithm `name` cannot act in these spaces."""
    check_discrete(action_space, env.id, name)
    assert isinstance(action_space, spaces.Discrete)
    actions = int(action_space.n)
    if user_class is None:
        if convolves(settings, observation_space):
            return QNetwork(observation_space, actions, quantiles, settings.cnn_hidden, "relu", dueling, cnn=True)
        return QNetwork(observation_space, actions, quantiles, settings.hidden, settings.activation, dueling)
    where = f"network.class = {settings.class_!r}"
    outputs = actions * quantiles
    try:
        network = UsersQNetwork(user_class(observation_space, outputs, **settings.kwargs), actions, quantiles)
    except TypeError as error:
        expected = "Class(observation_space, outputs, **network.kwargs)"
        raise BadInput(f"{where} cannot be built as {expected}: {error}") from None
    dtype = torch.uint8 if observation_space.dtype == np.uint8 else torch.float32
    seen = torch.zeros((1, *observation_space.shape), dtype=dtype)
    refuse_batch_statistics(network.network, where)
    expected = f"take observations {tuple(seen.shape)} and return values {(1, outputs)}"
    try:
        probed = probe(network.network, seen)
        found = tuple(probed.outputs.shape)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BadInput(f"{where}: forward must {expected}, but failed: {error}") from None
    if found != (1, outputs):
        raise BadInput(f"{where}: forward must {expected}, got {found}")
    network.changed = probed.changed
    return network
