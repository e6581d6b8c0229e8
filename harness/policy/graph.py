"""The graph of a trained policy, whatever algorithm has trained it."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from torch import nn

from harness.algorithms.common.off_policy_actor_critic import Continuous
from harness.algorithms.dqn import DQN
from harness.algorithms.sac import LOG_STD_BOUNDS, MEAN_BOUND, SAC
from harness.errors import BadInput
from harness.models.actor_critic import ActorCritic
from harness.models.policy_graph import (
    AsNetworksTakeThem,
    ByHead,
    BySquashedActor,
    ByValue,
    Decision,
    Normalized,
    PolicyGraph,
)
from harness.policy.policy import Policy


def graph_of(policy: Policy) -> PolicyGraph:
    """Takes raw observations, and noise as `policy.algorithm.drawn_from` has it; BadInput where it has no graph."""
    moments = policy.environments.moments
    observations: nn.Module = AsNetworksTakeThem()
    if moments is not None:
        shape = policy.environments.observation_space.shape
        mean, std = (np.broadcast_to(each, shape) for each in (moments.mean, moments.std))
        observations = Normalized(mean, std, moments.clip)
    return PolicyGraph(observations, decision_of(policy)).eval()


def decision_of(policy: Policy) -> Decision:
    algorithm, module = policy.algorithm, policy.algorithm.module
    try:
        if isinstance(module, ActorCritic):
            return ByHead(module)
    except TypeError as error:
        raise BadInput(f"a policy of {policy.config.algorithm.name} cannot be exported: {error}") from None
    if isinstance(algorithm, DQN):
        space = policy.environments.action_space
        assert isinstance(space, spaces.Discrete) and space.dtype is not None
        epsilon = float(algorithm.epsilon(algorithm.iteration * algorithm.env_steps_per_iteration))
        return ByValue(module, int(space.n), int(space.start), space.dtype, epsilon)
    if isinstance(algorithm, Continuous):
        log_std = getattr(module, "log_std", None)
        spread = isinstance(algorithm, SAC) and log_std is None
        return BySquashedActor(
            algorithm.module.actor, algorithm.bounds, algorithm.actions, log_std, spread, MEAN_BOUND, LOG_STD_BOUNDS
        )
    raise BadInput(f"a policy of {policy.config.algorithm.name} has no graph: its network is none of those known")
