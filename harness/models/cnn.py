"""Convolutions for image observations: those of Mnih et al. (2015), and an actor-critic on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import nn

from harness.models.initialization import orthogonal_

FILTERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, size and stride of the convolutions in Mnih et al. (2015), "Model architecture"."""


class Pixels(nn.Module):
    """Images (n, channels, height, width), or with the channels last, to float32 with the channels first; bytes to 0
    … 1."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.channels_last = shape[2] < shape[0]
        self.channels = shape[2] if self.channels_last else shape[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255.0
        return images.permute(0, 3, 1, 2) if self.channels_last else images


def convolutions(observation_space: spaces.Box, orthogonal: bool) -> tuple[list[nn.Module], int]:
    """Layers from images to flat features, and how many features. `orthogonal`: weights of gain sqrt(2) and no bias at
    the start, for policy gradients (Engstrom et al. 2020); otherwise torch's own."""
    pixels = Pixels(observation_space.shape)
    layers: list[nn.Module] = [pixels]
    channels = pixels.channels
    for filters, size, stride in FILTERS:
        layer = nn.Conv2d(channels, filters, size, stride)
        layers += [orthogonal_(layer, math.sqrt(2)) if orthogonal else layer, nn.ReLU()]
        channels = filters
    layers.append(nn.Flatten())
    with torch.no_grad():
        features = nn.Sequential(*layers)(torch.zeros(1, *observation_space.shape)).shape[1]
    return layers, features


class ActorCriticCNN(nn.Module):
    """Convolutions and layers of `hidden` widths, which policy and value share, and a linear head for each."""

    def __init__(self, observation_space: spaces.Box, action_parameters: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers, width = convolutions(observation_space, orthogonal=True)
        for more in hidden:
            layers += [orthogonal_(nn.Linear(width, more), math.sqrt(2)), nn.ReLU()]
            width = more
        self.trunk = nn.Sequential(*layers)
        self.policy = orthogonal_(nn.Linear(width, action_parameters), 0.01)
        self.value = orthogonal_(nn.Linear(width, 1), 1.0)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(observations)
        return self.policy(features), self.value(features).squeeze(-1)
