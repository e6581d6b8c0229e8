"""Several policies for the same spaces as one graph that decides for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from harness.errors import BadInput
from harness.models.policy_graph import Bounded, Numbered, PolicyGraph

How = Literal["mean", "vote"]
HOWS = ("mean", "vote")


class Ensemble(nn.Module):
    """`mean`: of choices the one that the members' probabilities (of `dqn`: values) favour on the whole, of numbers
    their mean. `vote`: the choice that most members take; of equals the one that `mean` prefers. It draws nothing."""

    actions: Bounded | Numbered

    def __init__(self, members: Sequence[PolicyGraph], how: How) -> None:
        super().__init__()
        self.members, self.how = nn.ModuleList(members), how
        self.actions = members[0].decision.actions
        self.probable = members[0].decision.probable()

    def forward(self, observations: torch.Tensor, noise: None = None) -> torch.Tensor:
        if isinstance(self.actions, Bounded):
            mean = torch.stack([member(observations).to(self.actions.kind) for member in self.members]).mean(0)
            return (torch.round(mean) if self.actions.whole else mean).to(self.actions.dtype)
        choices = torch.stack([scores.argmax(-1) for scores in self.scores(observations)], dim=-1)
        return self.actions(choices)

    def scores(self, observations: torch.Tensor) -> list[torch.Tensor]:
        each = [member.scores(observations) for member in self.members]  # type: ignore[operator]
        return [self.merged(torch.stack(scores)) for scores in zip(*each)]

    def merged(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (members, n, values) of a choice as (n, values)."""
        mean = (scores.softmax(-1) if self.probable else scores).mean(0)
        if self.how == "mean":
            return mean
        votes = nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).float().sum(0)
        return votes + 0.5 * (mean if self.probable else mean.softmax(-1))

    def number(self, actions: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.actions, Numbered)
        return self.actions.number(actions)


def ensemble_of(graphs: Sequence[PolicyGraph], how: How, names: Sequence[str]) -> Ensemble:
    """BadInput where they cannot decide together. `names`: of the runs, for that line."""
    first = graphs[0].decision
    for graph, name in zip(graphs, names):
        if graph.decision.probable() != first.probable() and isinstance(first.actions, Numbered):
            raise BadInput(f"{name} has values of actions and {names[0]} probabilities, or the other way round")
    if how == "vote" and not isinstance(first.actions, Numbered):
        raise BadInput("--ensemble vote is for discrete actions; these are numbers, whose ensemble is mean")
    return Ensemble(graphs, how).eval()
