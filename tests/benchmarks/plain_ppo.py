"""A plain eager PPO (Schulman et al. 2017), as most people write it: torch modules, Adam, gymnasium's vector of
environments.

With `--horovod` the very same script is wrapped in the way of Horovod's documentation: `hvd.DistributedOptimizer`, the
learning rate times the ranks, parameters and optimizer state broadcast, gradients clipped after `synchronize`.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from harness.files import write_json
from tests.benchmarks.timing import arguments_of, iterations_per_second

GAMMA, GAE_LAMBDA, CLIP_RANGE, VALUE_COEFFICIENT, MAX_GRAD_NORM = 0.99, 0.95, 0.2, 0.5, 0.5


def layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(inputs: int, hidden: list[int], outputs: int, last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [layer(inputs, width, math.sqrt(2)), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, layer(inputs, outputs, last_gain))


class Agent(nn.Module):
    """A policy and a value function that share no weights."""

    def __init__(self, inputs: int, actions: int, hidden: list[int]) -> None:
        super().__init__()
        self.actor = mlp(inputs, hidden, actions, 0.01)
        self.critic = mlp(inputs, hidden, 1, 1.0)

    def forward(self, observations: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        return Categorical(logits=self.actor(observations)), self.critic(observations).squeeze(-1)


class PlainPPO:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.hvd, rank, ranks = None, 0, 1
        if args.horovod:
            import horovod.torch as hvd

            hvd.init()
            self.hvd, rank, ranks = hvd, hvd.rank(), hvd.size()
        torch.manual_seed(args.seed + rank)
        self.envs = gym.make_vec(args.env, num_envs=args.envs)  # the environment's own vector class where it has one
        assert self.envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
        seen, actions = self.envs.single_observation_space, self.envs.single_action_space
        assert isinstance(seen, gym.spaces.Box) and isinstance(actions, gym.spaces.Discrete)
        inputs = int(np.prod(seen.shape))
        self.agent = Agent(inputs, int(actions.n), args.hidden)
        self.optimizer: Any = torch.optim.Adam(self.agent.parameters(), lr=args.lr * ranks, eps=1e-5)
        if self.hvd is not None:
            self.optimizer = self.hvd.DistributedOptimizer(
                self.optimizer, named_parameters=self.agent.named_parameters()
            )
            self.hvd.broadcast_parameters(self.agent.state_dict(), root_rank=0)
            self.hvd.broadcast_optimizer_state(self.optimizer, root_rank=0)

        shape = args.steps, args.envs
        self.observations = torch.zeros(*shape, inputs)
        self.actions = torch.zeros(shape, dtype=torch.int64)
        self.log_probs, self.values, self.rewards = (torch.zeros(shape) for _ in range(3))
        self.terminated, self.done, self.resets = (torch.zeros(shape) for _ in range(3))
        self.observation = torch.from_numpy(self.envs.reset(seed=args.seed + rank)[0])
        self.ended = np.zeros(args.envs, dtype=bool)
        self.running = np.zeros(args.envs)  # returns of the episodes that run
        self.returns: list[float] = []  # of those that ended

    def run(self, iterations: int) -> None:
        """So many rollouts, each with its updates."""
        for _ in range(iterations):
            self.collect()
            self.update()

    @torch.no_grad()
    def collect(self) -> None:
        for step in range(self.args.steps):
            policy, value = self.agent(self.observation)
            action = policy.sample()
            self.observations[step] = self.observation
            self.actions[step], self.log_probs[step], self.values[step] = action, policy.log_prob(action), value
            self.resets[step] = torch.from_numpy(self.ended)  # the step after an end only resets: nothing to learn
            seen, reward, terminated, truncated, _ = self.envs.step(action.numpy())
            self.running += reward
            self.ended = terminated | truncated
            if self.ended.any():
                self.returns += self.running[self.ended].tolist()
                self.running[self.ended] = 0.0
            self.rewards[step] = torch.from_numpy(reward)
            self.terminated[step], self.done[step] = torch.from_numpy(terminated), torch.from_numpy(self.ended)
            self.observation = torch.from_numpy(seen)

    def update(self) -> None:
        advantages = self.advantages()
        returns = (advantages + self.values).flatten()
        observations, actions = self.observations.flatten(0, 1), self.actions.flatten()
        advantages, log_probs = advantages.flatten(), self.log_probs.flatten()
        learned = torch.nonzero(self.resets.flatten() == 0).squeeze(-1)
        minibatches = round(self.resets.numel() / self.args.minibatch)
        for _ in range(self.args.epochs):
            for rows in learned[torch.randperm(len(learned))].tensor_split(minibatches):
                policy, values = self.agent(observations[rows])
                ratio = (policy.log_prob(actions[rows]) - log_probs[rows]).exp()
                advantage = advantages[rows]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                loss = policy_loss + VALUE_COEFFICIENT * (values - returns[rows]).square().mean()
                self.optimizer.zero_grad()
                loss.backward()
                if self.hvd is None:
                    nn.utils.clip_grad_norm_(self.agent.parameters(), MAX_GRAD_NORM)
                    self.optimizer.step()
                else:
                    self.optimizer.synchronize()
                    nn.utils.clip_grad_norm_(self.agent.parameters(), MAX_GRAD_NORM)
                    with self.optimizer.skip_synchronize():
                        self.optimizer.step()

    @torch.no_grad()
    def advantages(self) -> torch.Tensor:
        """Generalised advantage estimation (Schulman et al. 2016, equation 16); a time limit cuts, with bootstrap."""
        advantages, advantage = torch.zeros_like(self.rewards), torch.zeros(self.args.envs)
        next_value = self.agent(self.observation)[1]
        for step in reversed(range(self.args.steps)):
            delta = self.rewards[step] + GAMMA * next_value * (1 - self.terminated[step]) - self.values[step]
            advantage = delta + GAMMA * GAE_LAMBDA * (1 - self.done[step]) * advantage
            advantages[step], next_value = advantage, self.values[step]
        return advantages


def parser() -> argparse.ArgumentParser:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--lr", type=float, default=3e-4, help="learning rate, before the ranks")
    arguments.add_argument("--horovod", action="store_true", help="wrap the optimizer by Horovod")
    return arguments


def main() -> None:
    args = parser().parse_args()
    torch.set_num_threads(1)
    ppo = PlainPPO(args)
    hvd = ppo.hvd
    ranks = 1 if hvd is None else hvd.size()
    agree = int if hvd is None else lambda count: int(hvd.broadcast_object(count, root_rank=0))
    speed = iterations_per_second(ppo.run, args.seconds, agree)
    if hvd is None or hvd.rank() == 0:
        write_json(args.json, {"env_steps_per_second": speed * args.steps * args.envs * ranks})


if __name__ == "__main__":
    main()
