"""What a row holds: the contestants' scores, what is claimed of them, and the verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.machine import Birth


def number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Claim:
    """`of`'s figure over `against`'s, by its median, and what it is to be; without a bound it is told, not judged."""

    of: str
    against: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Score:
    """A contestant's figures, one a round."""

    name: str
    command: str
    values: list[float]
    shares: dict[str, float] = field(default_factory=dict)
    """Where the time went in the round of the median, of contestants that tell it; they sum to 1."""
    told: str = ""
    """What else it said in that round."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Verdict:
    of: str
    against: str
    ratio: float
    """Of the medians."""
    low: float
    high: float
    """The lowest and the highest ratio of a round."""
    target: str
    holds: bool | None
    """None where there is no target."""

    @classmethod
    def on(cls, claim: Claim, scores: list[Score]) -> Verdict:
        named = {score.name: score for score in scores}
        of, against = named[claim.of], named[claim.against]
        ratio, each = of.median / against.median, [a / b for a, b in zip(of.values, against.values)]
        target, holds = "", None
        if claim.at_least is not None:
            target, holds = f"at least {claim.at_least:g}", ratio >= claim.at_least
        elif claim.at_most is not None:
            target, holds = f"at most {claim.at_most:g}", ratio <= claim.at_most
        return cls(claim.of, claim.against, ratio, min(each), max(each), target, holds)


@dataclass(frozen=True)
class Result:
    """A row as RESULTS.json keeps it."""

    key: str
    title: str
    unit: str
    note: str
    scores: list[Score]
    verdicts: list[Verdict]
    birth: Birth

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Result:
        scores = [Score(**score) for score in kept["scores"]]
        verdicts = [Verdict(**verdict) for verdict in kept["verdicts"]]
        return cls(**{**kept, "scores": scores, "verdicts": verdicts, "birth": Birth(**kept["birth"])})
