"""What a trial trains: a preset of `harness train`, or a command of the user's own. One run is one job of all ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.launching.own_module import python_module
from search.space.space import Space


class Task(ABC):
    evaluations: int | None
    """K, the number of reports of one run; None where it is not known."""
    speaks_for_all: bool
    """Whether a `result.json` stands for all ranks; a script's rank 0 writes it whatever becomes of the others."""
    environment: Mapping[str, str] = {}
    """What its ranks need beside what all ranks do."""

    @abstractmethod
    def check(self, space: Space, ranks: int) -> None:
        """Refuses, before anything starts, a space whose settings a run would refuse."""

    @abstractmethod
    def check_settings(self, settings: Mapping[str, Any], ranks: int) -> None:
        """Refuses (`BadInput`) sampled settings that do not go together."""

    @abstractmethod
    def values(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """All settings of a run by their dotted names, for constraints; `BadInput` where there can be no such run."""

    @abstractmethod
    def describe(self, settings: Mapping[str, Any], seed: int) -> str:
        """The resolved settings as TOML: the trial's `config.toml`."""

    @abstractmethod
    def command(self, settings: Mapping[str, Any], seed: int, output: Path, episodes: int | None) -> tuple[str, ...]:
        """The command of one rank, of the run in `output`; writes what it needs beside `output`.

        `episodes`: of the evaluation at the end, where it is to differ from the search's.
        """


def confined() -> tuple[str, ...]:
    """Before a command: each of its ranks sees the cores and the GPU of its own slot alone."""
    return python_module("harness.cluster.slots")
