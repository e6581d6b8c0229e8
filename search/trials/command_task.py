"""Trials of a command of the user's own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from harness.cluster.openmpi import ALLOWED_EXIT
from harness.errors import BadInput
from search.space.space import Space
from search.trials.placeholders import check_places, filled, places_in, stands_for_all
from search.trials.task import Task, confined


class CommandTask(Task):
    """A command with `{name}` for each parameter and fixed value, `{seed}` and `{output}` (the run's directory)."""

    GIVEN = ("seed", "output")
    speaks_for_all = False
    # A simulator may end the process itself, with 0, where mpirun would miss MPI's own end; another code ends the job.
    environment = {ALLOWED_EXIT: "1"}

    def __init__(self, words: list[str], fixed: Mapping[str, Any], evaluations: int | None) -> None:
        self.words = [sys.executable if words[0] == "python" else words[0], *words[1:]]
        self.fixed = fixed
        self.evaluations = evaluations

    @property
    def placeholders(self) -> list[str]:
        return [place.name for place in places_in(self.words)]

    def check(self, space: Space, ranks: int) -> None:
        named, searched = self.placeholders, [*space.names, *self.fixed]
        known = [*searched, *self.GIVEN]
        takes_all = any(stands_for_all(name, known) for name in named)
        for name in named:
            if name not in known and not stands_for_all(name, known):
                raise BadInput(f"trial.command has {{{name}}}, which is no parameter of the space; it may be {known}")
        for name in searched:
            if name in self.GIVEN:
                raise BadInput(f"{name} cannot be searched or fixed: each run of a trial is given its own {{{name}}}")
            if name not in named and not takes_all:
                where = "space" if name in space.names else "trial.overrides"
                raise BadInput(f"{where}.{name} is not used: trial.command has no {{{name}}}")
        values = {name: [value] for name, value in self.fixed.items()}
        values |= {each.name: [each.setting(at) for at in each.extremes()] for each in space.parameters}
        check_places(self.words, known, lambda name: values.get(name, [""]))
        if shutil.which(self.words[0]) is None:
            raise BadInput(f"trial.command: {self.words[0]!r} is no program on the PATH")

    def check_seeds(self, seeds: int, confirmed: int) -> None:
        """`BadInput` where several runs are asked for that would all be the same one."""
        if "seed" in self.placeholders:
            return
        asked = [("trial.seeds", seeds)] * (seeds > 1) + [("confirm.seeds", confirmed)] * (confirmed > 0)
        if asked:
            wants = " and ".join(f"{name} = {count}" for name, count in asked)
            raise BadInput(
                f"trial.command has no {{seed}}, so that {wants} would repeat one run and confirm nothing: give the "
                "command its {seed}, or set trial.seeds = 1 and confirm.seeds = 0"
            )

    def values(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**self.fixed, **settings}

    def check_settings(self, settings: Mapping[str, Any], ranks: int) -> None:
        """Only the command knows what does not go together."""

    def describe(self, settings: Mapping[str, Any], seed: int) -> str:
        values = {name: "none" if value is None else value for name, value in {**self.fixed, **settings}.items()}
        return tomli_w.dumps({"command": self.words, "seed": seed, "settings": values})

    def command(self, settings: Mapping[str, Any], seed: int, output: Path, episodes: int | None) -> tuple[str, ...]:
        values = {**self.fixed, **settings, "seed": seed, "output": str(output)}
        return (*confined(), *filled(self.words, values, self.GIVEN))
