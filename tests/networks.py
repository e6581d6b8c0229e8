"""Networks of the tests, for `network.class = "tests.networks:Name"`."""

from __future__ import annotations

import os

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


class Drifting(nn.Module):
    """A user's network that changes its parameters by itself on rank `rank`, when it has been asked `after` times."""

    def __init__(self, observation_space: gym.spaces.Box, action_parameters: int, rank: int, after: int) -> None:
        from harness.distributed.world import detect_place

        super().__init__()
        self.policy, self.value = nn.Linear(4, action_parameters), nn.Linear(4, 1)
        self.asked, self.after, self.here = 0, after, detect_place(os.environ).rank == rank

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        if self.here and self.asked == self.after:
            self.value.bias.data += 100
        return self.policy(observations), self.value(observations).squeeze(-1)
