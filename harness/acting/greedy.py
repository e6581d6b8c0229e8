"""The policy's likeliest actions, by numpy where the network is small."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from harness.acting.numpy_mlp import NumpyMLP
from harness.models.actor_critics import Actor
from harness.models.q_network import QNetwork


class Greedy:
    """The action of the highest value: by numpy where the network is plain and on the CPU, or by the module."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """The module's parameters must lie where they stay."""
        self.module, self.device = module, device
        self.parts: list[NumpyMLP] = []
        if isinstance(module, QNetwork) and module.images is None and device.type == "cpu":
            sequences = [module.trunk, module.advantage]  # the state's value is the same for all actions
            if all(NumpyMLP.serves(each) for each in sequences):
                self.parts = [NumpyMLP(each) for each in sequences]
                self.quantiles = module.quantiles

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """int64 (n,)"""
        if not self.parts or observations.dtype != np.float32:
            with torch.no_grad():
                values = self.module(torch.from_numpy(observations).to(self.device)).mean(-1)
            return values.argmax(-1).cpu().numpy()
        x = observations.reshape(len(observations), -1)
        for part in self.parts:
            x = part(x)
        if self.quantiles > 1:
            x = x.reshape(len(x), -1, self.quantiles).mean(-1)
        return x.argmax(1)


class ActorInNumpy:
    """The actor for a few observations: by numpy where it is plain and on the CPU, or by the module."""

    def __init__(self, actor: Actor, device: torch.device) -> None:
        """The actor's parameters must lie where they stay."""
        self.actor, self.device = actor, device
        self.parts: list[NumpyMLP] = []
        if device.type == "cpu" and NumpyMLP.serves(actor.trunk):
            self.parts = [NumpyMLP(actor.trunk), NumpyMLP(nn.Sequential(actor.head))]

    def __call__(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and outputs, both float32."""
        if not self.parts or observations.dtype != np.float32:
            with torch.no_grad():
                features, outputs = self.actor(torch.from_numpy(observations).to(self.device))
            return features.cpu().numpy(), outputs.cpu().numpy()
        trunk, head = self.parts
        features = trunk(observations.reshape(len(observations), -1))
        return features, head(features)
