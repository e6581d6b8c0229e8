"""Actors and Q-functions of continuous actions, as SAC and TD3 have them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from harness.models.initialization import layers


def as_vectors(observations: torch.Tensor) -> torch.Tensor:
    """float32 (n, numbers), bytes in [0, 1]."""
    flat = observations.flatten(1)
    return flat.float() / 255.0 if flat.dtype == torch.uint8 else flat


class Actor(nn.Module):
    """Observations (n, *obs_shape) to features (n, features) and, of these, `outputs` numbers (n, outputs)."""

    def __init__(self, inputs: int, hidden: Sequence[int], activation: str, outputs: int) -> None:
        super().__init__()
        self.features = hidden[-1] if hidden else inputs
        self.trunk = nn.Sequential(*layers(inputs, hidden, activation))
        self.head = nn.Linear(self.features, outputs)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(as_vectors(observations))
        return features.float(), self.head(features).float()


class Critic(nn.Module):
    """Q(s, a): observations (n, *obs_shape) and actions (n, a) in [-1, 1] to values (n,)."""

    def __init__(self, inputs: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        last = hidden[-1] if hidden else inputs
        self.layers = nn.Sequential(*layers(inputs, hidden, activation), nn.Linear(last, 1))

    def forward(self, observations: torch.Tensor, actions: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """`frozen`: the gradient is that of the actions alone, and none of the parameters has a part in it."""
        x = torch.cat([as_vectors(observations), actions], 1)
        for layer in self.layers:
            if frozen and isinstance(layer, nn.Linear):
                x = linear(x, layer.weight.detach(), layer.bias.detach())
            else:
                x = layer(x)
        return x.squeeze(1).float()


class ActorCritics(nn.Module):
    """Two critics and an actor."""

    def __init__(self, inputs: int, actions: int, outputs: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.critics = nn.ModuleList(Critic(inputs + actions, hidden, activation) for _ in range(2))
        self.actor = Actor(inputs, hidden, activation, outputs)
