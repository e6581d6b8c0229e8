"""The confirmation that a study keeps: of its best configuration, by seeds that the search never used."""

from __future__ import annotations

from dataclasses import dataclass

from search.display import number

CONFIRMATION = "confirmation"
"""User attribute of the study: the last confirmation."""


@dataclass(frozen=True)
class Confirmation:
    trial: int
    """Number of the trial whose parameters were confirmed."""
    seeds: list[int]
    episodes: int
    trained: str
    """Stands for the ranks and all settings: a confirmation of others is another one."""
    values: list[float]
    """Of the seeds that ended well, in their order."""
    mean: float | None
    std: float | None
    """Sample standard deviation over the seeds; 0 of a single one."""
    failures: list[str]
    """One line for each seed that did not end well."""

    def describe(self) -> str:
        if self.mean is None or self.std is None:
            return "none of the seeds ended well"
        values = ", ".join(map(number, self.values))
        return f"{self.mean:.6g} ± {self.std:.3g} over {len(self.values)} unseen seeds ({values})"
