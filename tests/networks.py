"""Networks of the tests, for `network.class = "tests.networks:Name"`."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import nn


class WithDropout(nn.Module):
    """A user's network that is not the same twice while it trains."""

    def __init__(self, observation_space: gym.spaces.Box, action_parameters: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Dropout(0.5))
        self.policy, self.value = nn.Linear(32, action_parameters), nn.Linear(32, 1)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(observations)
        return self.policy(features), self.value(features).squeeze(-1)
