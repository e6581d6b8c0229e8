"""Acting during collection: a policy's step for a few environments, where every microsecond counts.

For four observations and a network of 64x64 a call of a torch module costs five times its arithmetic. `MLPActor` does
that arithmetic in numpy, on the parameters' own memory, and leaves to the end of the rollout what can be had in one
batch then: values and log-probabilities. `ModuleActor` serves every other network, on any device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import nn

from harness.algorithms.memory import Rollout
from harness.algorithms.networks import ActorCritic, ActorCriticMLP, CategoricalHead, GaussianHead

ALL = slice(None)


class Actor(ABC):
    """`begin` a rollout, `act` at each of its steps, `finish` it: then its actions, log_probs and values are filled."""

    remark = ""
    """What a person should know of how it acts, if anything."""

    @abstractmethod
    def begin(self, rollout: Rollout, noise: np.ndarray) -> None:
        """`noise`: float32 (steps, envs, *head.noise_shape), of which each step takes its own."""

    @abstractmethod
    def act(self, step: int, observations: np.ndarray, envs: slice = ALL) -> np.ndarray:
        """Actions (n, …) of the environments `envs` at `step`, kept in the rollout; observations (n, *obs_shape)."""

    def finish(self) -> None:
        """Fills in what `act` has not."""


class ModuleActor(Actor):
    """Any network and head: one call of the module per step, without gradients."""

    def __init__(self, module: ActorCritic, device: torch.device) -> None:
        self.module, self.head, self.device = module, module.head, device

    def begin(self, rollout: Rollout, noise: np.ndarray) -> None:
        self.rollout = rollout
        self.noise = torch.from_numpy(np.ascontiguousarray(noise)).to(self.device)

    @torch.no_grad()
    def act(self, step: int, observations: np.ndarray, envs: slice = ALL) -> np.ndarray:
        parameters, values = self.module(torch.from_numpy(observations).to(self.device))
        actions = self.head.sample(parameters, self.noise[step, envs])
        rollout = self.rollout
        rollout.log_probs[step, envs] = self.head.log_prob(parameters, actions).cpu().numpy()
        rollout.values[step, envs] = values.cpu().numpy()
        rollout.actions[step, envs] = chosen = actions.cpu().numpy()
        return chosen


class NumpyMLP:
    """A `Sequential` of linear layers with one kind of activation between them, in numpy; the parameters are read where
    they lie, so they are never stale."""

    ACTIVATIONS = {nn.Tanh: lambda x: np.tanh(x, out=x), nn.ReLU: lambda x: np.maximum(x, 0.0, out=x)}

    @classmethod
    def serves(cls, network: nn.Module) -> bool:
        known = (nn.Linear, *cls.ACTIVATIONS)
        return type(network) is nn.Sequential and all(type(layer) in known for layer in network)

    def __init__(self, network: nn.Sequential) -> None:
        """Views of the parameters: of an arena, they must lie there already."""
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        self.layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linear]
        between = [layer for layer in network if not isinstance(layer, nn.Linear)]
        self.activation = self.ACTIVATIONS[type(between[0]) if between else nn.ReLU]
        self.activated = len(between) == len(linear)
        """Whether an activation follows the last layer too."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 (n, inputs) to (n, outputs)"""
        last = len(self.layers) - 1
        for number, (weight, bias) in enumerate(self.layers):
            x = np.dot(x, weight)
            x += bias
            if number < last or self.activated:
                self.activation(x)
        return x


class MLPActor(Actor):
    """The default network on the CPU, in numpy."""

    @classmethod
    def serves(cls, module: ActorCritic, device: torch.device) -> bool:
        network, head = module.network, module.head
        if device.type != "cpu" or type(network) is not ActorCriticMLP or network.scale != 1.0:
            return False
        known = NumpyMLP.serves(network.policy)
        return known and (type(head) is GaussianHead or type(head) is CategoricalHead and head.single)

    def __init__(self, module: ActorCritic) -> None:
        network, self.head = module.network, module.head
        assert isinstance(network, ActorCriticMLP)
        self.policy, self.value = NumpyMLP(network.policy), NumpyMLP(network.value)
        self.discrete = isinstance(self.head, CategoricalHead)

    def begin(self, rollout: Rollout, noise: np.ndarray) -> None:
        self.rollout = rollout
        self.noise = noise
        self.parameters = np.empty((rollout.steps, rollout.envs, self.head.parameter_count), np.float32)
        if isinstance(self.head, GaussianHead):
            self.deviations = np.exp(self.head.log_std.detach().numpy())

    def act(self, step: int, observations: np.ndarray, envs: slice = ALL) -> np.ndarray:
        if observations.ndim > 2:
            observations = observations.reshape(len(observations), -1)
        parameters = self.policy(observations)
        noise = self.noise[step, envs]
        if self.discrete:
            self.parameters[step, envs] = parameters
            parameters -= np.maximum.reduce(parameters, axis=1, keepdims=True)
            below = np.add.accumulate(np.exp(parameters, out=parameters), axis=1)
            actions = np.add.reduce(below[:, :-1] <= noise * below[:, -1:], axis=1, dtype=np.int64, keepdims=True)
        else:
            actions = parameters
            actions += self.deviations * noise
        self.rollout.actions[step, envs] = actions
        return actions

    def finish(self) -> None:
        rollout = self.rollout
        count = rollout.steps * rollout.envs
        observations = rollout.observations.reshape(count, -1)
        rollout.values[:] = self.value(observations).reshape(rollout.values.shape)
        if isinstance(self.head, GaussianHead):
            constant = self.head.log_std.detach().numpy().sum() + 0.5 * math.log(2 * math.pi) * self.noise.shape[-1]
            rollout.log_probs[:] = -0.5 * np.square(self.noise).sum(-1) - constant
            return
        logits = self.parameters
        logits -= logits.max(-1, keepdims=True)
        chosen = np.take_along_axis(logits, rollout.actions, -1)[..., 0]
        rollout.log_probs[:] = chosen - np.log(np.exp(logits).sum(-1))


def make_actor(module: ActorCritic, device: torch.device) -> Actor:
    """The quickest that serves this network there."""
    return MLPActor(module) if MLPActor.serves(module, device) else ModuleActor(module, device)
