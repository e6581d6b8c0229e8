"""A trained policy as one module: from observations as the environment gives them to actions as it takes them.

What acting does in numpy around the network (normalisation, bounds, starts of discrete actions) is done here in torch,
by the same formulas in the same precision, so that an exporter finds all of it in one graph.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import nn

from harness.models.action_heads import ActionHead, Bounds, CategoricalHead, GaussianHead
from harness.models.actor_critic import ActorCritic
from harness.models.actor_critics import Actor
from harness.models.q_network import QNetwork


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, dtype)).dtype


# -- observations ------------------------------------------------------------------------------------------------------


class AsNetworksTakeThem(nn.Module):
    """Observations (n, *obs_shape) of any dtype as float32; bytes stay bytes."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations if observations.dtype == torch.uint8 else observations.float()


class Normalized(nn.Module):
    """Observations centred, scaled and clipped by moments that stand still; in float64, as `RunningMoments` does it."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: np.ndarray, std: np.ndarray, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.array(mean, np.float64)))
        self.register_buffer("std", torch.from_numpy(np.array(std, np.float64)))
        self.clip = clip

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return ((observations.double() - self.mean) / self.std).clamp(-self.clip, self.clip).float()


# -- actions -----------------------------------------------------------------------------------------------------------


class Numbered(nn.Module):
    """Choices (n, choices), counted from 0, in the shape, from the start and of the dtype of the action space."""

    start: torch.Tensor

    def __init__(self, start: np.ndarray, dtype: np.dtype) -> None:
        super().__init__()
        self.register_buffer("start", torch.from_numpy(np.array(start, np.int64)))
        self.shape, self.dtype, self.from_0 = start.shape, torch_dtype(dtype), not start.any()

    def forward(self, choices: torch.Tensor) -> torch.Tensor:
        actions = choices.reshape(-1, *self.shape)
        return (actions if self.from_0 else actions + self.start).to(self.dtype)

    def number(self, actions: torch.Tensor) -> torch.Tensor:
        """int64 (n, choices): which choices the actions are."""
        return (actions.long() - self.start).reshape(len(actions), -1)


class Bounded(nn.Module):
    """Numbers (n, a) as the actions of a Box: clipped to its bounds, or `scaled` from [-1, 1] to them. As `Bounds`."""

    low: torch.Tensor
    high: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor

    def __init__(self, bounds: Bounds, scaled: bool) -> None:
        super().__init__()
        self.shape, self.dtype, self.scaled = bounds.shape, torch_dtype(bounds.dtype), scaled
        self.whole, self.wide = bounds.whole, bounds.wide
        kind = np.float64 if self.whole or bounds.wide and scaled else np.result_type(np.float32, bounds.dtype)
        self.kind = torch_dtype(np.dtype(kind))
        for name in ("low", "high"):
            self.register_buffer(name, torch.from_numpy(np.array(getattr(bounds, name), kind)))
        for name in ("lowest", "highest"):  # of whole numbers, exactly
            exact = getattr(bounds, name).astype(np.int64 if self.whole else bounds.dtype)
            self.register_buffer(name, torch.from_numpy(np.array(exact)))

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        actions = actions.reshape(-1, *self.shape)
        if self.scaled:
            share = (0.5 * (actions + 1.0)).to(self.kind)
            both_ends = self.low * (1.0 - share) + self.high * share
            actions = both_ends if self.wide else self.low + share * (self.high - self.low)
        actions = actions.to(self.kind)
        if self.whole:
            actions = torch.round(actions)
        actions = torch.where(torch.isnan(actions), self.low, actions)  # what is no number becomes a bound
        actions = torch.minimum(torch.maximum(actions, self.low), self.high)
        if self.whole:
            actions = torch.minimum(torch.maximum(actions.long(), self.lowest), self.highest)
        return actions.to(self.dtype)


# -- decisions ---------------------------------------------------------------------------------------------------------


class Decision(nn.Module):
    """From observations as a network takes them to actions as the environment takes them."""

    actions: Numbered | Bounded
    """From what was decided to actions."""

    @abstractmethod
    def decide(self, seen: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """What `actions` makes actions of. Without noise, or with zeros, the deterministic decision."""

    def scores(self, seen: torch.Tensor) -> list[torch.Tensor]:
        """Of each choice how good its values are, (n, values), the largest being decided for; [] for numbers."""
        return []

    def probable(self) -> bool:
        """Whether the scores are logits of probabilities."""
        return False

    def forward(self, seen: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        return self.actions(self.decide(seen, noise))


class ByHead(Decision):
    """Of a network with an action head, as on-policy algorithms have them."""

    def __init__(self, model: ActorCritic) -> None:
        super().__init__()
        self.model, self.head = model, model.head
        self.squash = isinstance(self.head, GaussianHead) and self.head.squash
        self.actions = actions_of(self.head)

    def decide(self, seen: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        parameters, _ = self.model(seen)
        if noise is None:
            decided = self.head.mode(parameters)
        else:
            decided = self.head.sample(parameters, noise)
            if self.head.noise == "uniform":
                decided = torch.where(noise == 0.0, self.head.mode(parameters), decided)
        return decided.tanh() if self.squash else decided

    def scores(self, seen: torch.Tensor) -> list[torch.Tensor]:
        if not isinstance(self.head, CategoricalHead):
            return []
        return list(self.model(seen)[0].float().split(self.head.sizes, dim=-1))

    def probable(self) -> bool:
        return True


def actions_of(head: ActionHead) -> Numbered | Bounded:
    if isinstance(head, CategoricalHead):
        return Numbered(head.start, head.dtype)
    if isinstance(head, GaussianHead):
        return Bounded(head.bounds, scaled=head.squash)
    raise TypeError(f"actions of {type(head).__name__} have no graph")


class ByValue(Decision):
    """The action of the highest value; with probability `epsilon` any other one, as the noise (n, 2) has it."""

    def __init__(self, network: nn.Module, actions: int, start: int, dtype: np.dtype, epsilon: float) -> None:
        super().__init__()
        self.network, self.count, self.epsilon = network, actions, epsilon
        self.actions = Numbered(np.array(start), dtype)

    def decide(self, seen: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        best = self.scores(seen)[0].argmax(-1)
        if noise is None:
            return best
        dice, choice = noise[:, 0], noise[:, 1]
        drawn = (choice * self.count).long().clamp(max=self.count - 1)
        return torch.where((dice.double() < self.epsilon) & (dice > 0.0), drawn, best)

    def scores(self, seen: torch.Tensor) -> list[torch.Tensor]:
        network = self.network
        values = network.advantages(network.features(seen)) if isinstance(network, QNetwork) else network(seen)
        return [values.float().mean(-1)]


class BySquashedActor(Decision):
    """SAC's and TD3's: tanh of the actor's numbers, which are actions in [-1, 1]."""

    log_std: torch.Tensor | None

    def __init__(
        self,
        actor: Actor,
        bounds: Bounds,
        actions: int,
        log_std: torch.Tensor | None = None,
        learned: bool = False,
        mean_bound: float = 0.0,
        log_std_bounds: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Noise is scaled by `log_std` (features, a), whose noise is a matrix like it for each state (gSDE); where it
        is `learned`, by the second half of the actor's outputs; else not at all: the policy draws nothing."""
        super().__init__()
        self.actor, self.count, self.learned = actor, actions, learned
        self.mean_bound, self.log_std_bounds = mean_bound, log_std_bounds
        self.register_buffer("log_std", None if log_std is None else log_std.detach().clone())
        self.actions = Bounded(bounds, scaled=True)

    def decide(self, seen: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        features, outputs = self.actor(seen)
        mean = outputs[:, : self.count]
        if self.log_std is not None:
            mean = mean.clamp(-self.mean_bound, self.mean_bound)
            if noise is not None:
                mean = mean + (features[:, None, :] @ (self.log_std.exp() * noise)).squeeze(1)
        elif self.learned and noise is not None:
            mean = mean + outputs[:, self.count :].clamp(*self.log_std_bounds).exp() * noise
        return mean.tanh()


class PolicyGraph(nn.Module):
    """`graph(observations, noise)`: observations (n, *obs_shape) as they come to actions (n, …) as they are taken."""

    def __init__(self, observations: nn.Module, decision: Decision) -> None:
        super().__init__()
        self.observations, self.decision = observations, decision

    def forward(self, observations: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        return self.decision(self.observations(observations), noise)

    def scores(self, observations: torch.Tensor) -> list[torch.Tensor]:
        """As `Decision` has them."""
        return self.decision.scores(self.observations(observations))

    def number(self, actions: torch.Tensor) -> torch.Tensor:
        """int64 (n, choices): which choices discrete actions are."""
        assert isinstance(self.decision.actions, Numbered)
        return self.decision.actions.number(actions)
