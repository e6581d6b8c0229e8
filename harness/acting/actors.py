"""Acting during collection: a policy's step for a few environments, where every microsecond counts.

For four observations and a network of 64x64 a call of a torch module costs five times its arithmetic. `MLPActor` does
that arithmetic in numpy, on the parameters' own memory, and leaves to the end of the rollout what can be had in one
batch then: values and log-probabilities. `ModuleActor` serves every other network, on any device.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.acting.numpy_mlp import NumpyMLP
from harness.buffers import Rollout
from harness.models.action_heads import VARIANCE_FLOOR, ActionHead, CategoricalHead, GaussianHead, StateDependentHead
from harness.models.actor_critic import ActorCritic, ActorCriticMLP
from harness.training.precision import Precision

ALL = slice(None)


class Actor(ABC):
    """`begin` a rollout, `act` at each of its steps, `finish` it: then its actions, log_probs and values are filled."""

    notice = ""
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
    """Any network and head, in the arithmetic that it learns in: one call of the module per step, without gradients."""

    def __init__(self, module: ActorCritic, device: torch.device, precision: Precision | None = None) -> None:
        self.module, self.head, self.device = module, module.head, device
        self.arithmetic = contextlib.nullcontext if precision is None else precision.autocast

    def begin(self, rollout: Rollout, noise: np.ndarray) -> None:
        self.rollout = rollout
        self.noise = torch.from_numpy(np.ascontiguousarray(noise)).to(self.device)

    @torch.no_grad()
    def act(self, step: int, observations: np.ndarray, envs: slice = ALL) -> np.ndarray:
        with self.arithmetic():
            parameters, values = self.module(torch.from_numpy(observations).to(self.device))
            actions = self.head.sample(parameters, self.noise[step, envs])
            log_probs = self.head.log_prob(parameters, actions)
        actions = actions.float() if actions.is_floating_point() else actions  # numpy has no bfloat16
        rollout = self.rollout
        rollout.log_probs[step, envs] = log_probs.float().cpu().numpy()
        rollout.values[step, envs] = values.cpu().numpy()
        rollout.actions[step, envs] = chosen = actions.cpu().numpy()
        return chosen


class Choice:
    """A categorical head of a single choice, in numpy."""

    def begin(self, rollout: Rollout, head: Any) -> None:
        self.logits = np.empty((rollout.steps, rollout.envs, head.parameter_count), np.float32)

    def act(self, at: tuple[int, slice], parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        self.logits[at] = parameters
        parameters -= np.maximum.reduce(parameters, axis=1, keepdims=True)
        below = np.add.accumulate(np.exp(parameters, out=parameters), axis=1)
        return np.add.reduce(below[:, :-1] <= noise * below[:, -1:], axis=1, dtype=np.int64, keepdims=True)

    def log_probs(self, actions: np.ndarray) -> np.ndarray:
        logits = self.logits
        logits -= logits.max(-1, keepdims=True)
        chosen = np.take_along_axis(logits, actions, -1)[..., 0]
        return chosen - np.log(np.exp(logits).sum(-1))


class Normal:
    """A Gaussian head, in numpy."""

    def begin(self, rollout: Rollout, head: Any) -> None:
        self.squash, self.log_std = head.squash, head.log_std.detach().numpy()
        self.std = np.exp(self.log_std)
        self.distance = np.empty_like(rollout.actions)

    def act(self, at: tuple[int, slice], parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        self.distance[at] = distance = self.std * noise
        parameters += distance
        return parameters

    def variance(self) -> np.ndarray:
        return np.square(self.std)

    def log_probs(self, actions: np.ndarray) -> np.ndarray:
        variance = self.variance()
        each = np.square(self.distance) / variance + np.log(2 * np.pi * variance)
        if self.squash:  # log(1 - tanh(u)^2), as heads.log_slope_of_tanh has it
            each += 4.0 * (np.log(2.0) - actions - np.logaddexp(0.0, -2.0 * actions))
        return -0.5 * each.sum(-1)


class StateDependent(Normal):
    """A head with state-dependent exploration, in numpy."""

    def begin(self, rollout: Rollout, head: Any) -> None:
        super().begin(rollout, head)
        self.mean = NumpyMLP(nn.Sequential(head.mean))
        self.activation = NumpyMLP.ACTIVATIONS[type(head.activation)]
        self.features = np.empty((rollout.steps, rollout.envs, head.features), np.float32)

    def act(self, at: tuple[int, slice], parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        self.features[at] = features = self.activation(parameters)
        self.distance[at] = distance = np.matmul(features[:, None, :], self.std * noise)[:, 0]
        return self.mean(features) + distance

    def variance(self) -> np.ndarray:
        return np.square(self.features) @ np.square(self.std) + VARIANCE_FLOOR


class MLPActor(Actor):
    """The default network on the CPU, in numpy."""

    @classmethod
    def serves(cls, module: ActorCritic, device: torch.device) -> bool:
        network, head = module.network, module.head
        if device.type != "cpu" or type(network) is not ActorCriticMLP or network.scale != 1.0:
            return False
        if type(head) is StateDependentHead and type(head.activation) not in NumpyMLP.ACTIVATIONS:
            return False
        return NumpyMLP.serves(network.policy) and cls.in_numpy(head) is not None

    @staticmethod
    def in_numpy(head: ActionHead) -> Choice | Normal | None:
        if type(head) is CategoricalHead:
            return Choice() if head.shape == () else None
        return {GaussianHead: Normal, StateDependentHead: StateDependent}.get(type(head), lambda: None)()

    def __init__(self, module: ActorCritic) -> None:
        network, self.head = module.network, module.head
        assert isinstance(network, ActorCriticMLP)
        self.policy, self.value = NumpyMLP(network.policy), NumpyMLP(network.value)
        self.distribution = self.in_numpy(self.head)

    def parameters(self, observations: np.ndarray) -> np.ndarray:
        """float32 (n, parameters) of the head, for observations (n, *obs_shape)."""
        return self.policy(observations.reshape(len(observations), -1))

    def begin(self, rollout: Rollout, noise: np.ndarray) -> None:
        self.rollout, self.noise = rollout, noise
        assert self.distribution is not None
        self.distribution.begin(rollout, self.head)
        self.sample = self.distribution.act

    def act(self, step: int, observations: np.ndarray, envs: slice = ALL) -> np.ndarray:
        if observations.ndim > 2:
            observations = observations.reshape(len(observations), -1)
        actions = self.sample((step, envs), self.policy(observations), self.noise[step, envs])
        self.rollout.actions[step, envs] = actions
        return actions

    def finish(self) -> None:
        rollout = self.rollout
        observations = rollout.observations.reshape(rollout.steps * rollout.envs, -1)
        rollout.values[:] = self.value(observations).reshape(rollout.values.shape)
        assert self.distribution is not None
        rollout.log_probs[:] = self.distribution.log_probs(rollout.actions)


def make_actor(module: ActorCritic, device: torch.device, precision: Precision | None = None) -> Actor:
    """The quickest that serves this network there. In arithmetic that is not what it learns in it would be another
    policy than the one whose probabilities learning compares: numpy is for fp32."""
    plain = precision is None or precision.kind == "fp32"
    return MLPActor(module) if plain and MLPActor.serves(module, device) else ModuleActor(module, device, precision)
