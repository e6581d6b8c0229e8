"""Trials of a preset: `python -m harness train` with the settings of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler, RandomSampler

from harness.config import load_table, resolve
from harness.envs import share_of
from harness.errors import BadInput
from harness.files import write_text
from harness.launching.own_module import python_module
from harness.run.checks import check
from harness.schema import EvaluationSettings, RunConfig
from harness.settings import copy_tables, set_dotted, validate
from search.config import dotted
from search.space.parameter import show
from search.space.space import Space, Stored
from search.trials.task import Task, confined

JOINT_SAMPLES = 20


class PresetTask(Task):
    """`python -m harness train` on a preset or TOML file with fixed settings and a trial's own."""

    speaks_for_all = True

    def __init__(self, preset: str, fixed: Mapping[str, Any]) -> None:
        self.preset = preset
        self.fixed = fixed
        self.table = load_table(preset)
        self.evaluations = self.evaluation_count()
        self._checked: list[Any] = []

    def resolve(self, settings: Mapping[str, Any], seed: int, episodes: int | None = None) -> RunConfig:
        table = copy_tables(self.table)
        for name, value in {**self.fixed, **settings, "seed": seed}.items():
            set_dotted(table, name, value)
        if episodes is not None:
            set_dotted(table, "evaluation.final_episodes", episodes)
        return resolve(table, self.preset)

    def evaluation_count(self) -> int:
        """Of every trial, since it cannot be searched; whatever else the preset lacks without the space's values."""
        table = copy_tables(self.table)
        for name, value in self.fixed.items():
            set_dotted(table, name, value)
        return validate(EvaluationSettings, table.get("evaluation", {}), self.preset, "evaluation").count

    def values(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**dotted(self.resolve(settings, 0).to_table()), **self.fixed, **settings}

    def check_settings(self, settings: Mapping[str, Any], ranks: int) -> None:
        config = self.resolve(settings, 0)
        made: Any = (config.network, config.algorithm)
        if config.env is not None:
            share_of(config.env.count, 0, ranks)
            made = (config.network, config.env.model_copy(update={"count": 1}))
        if made not in self._checked:  # to make an environment, or to read data, may take seconds
            check(config, ranks)
            self._checked.append(made)

    def check(self, space: Space, ranks: int) -> None:
        for name in ("seed", "evaluation.count"):
            if name in space.names or name == "seed" and name in self.fixed:
                raise BadInput(f"{name} cannot be searched or fixed here: the trials of a study share it (study.seed)")
        try:
            self.check_settings({}, ranks)
        except BadInput:  # no trial runs the preset as it is: the space sets what does not fit
            if not self.runs_with_some(space, {}, ranks):
                raise
        for parameter, stored in space.probes():
            try:
                self.check_settings(space.settings(stored), ranks)
            except BadInput as error:
                if not self.runs_with_some(space, stored, ranks):
                    x = f" (x = {show(stored[parameter.name])})" if parameter.transform else ""
                    raise BadInput(f"space.{parameter.name}: {error}{x}") from None

    def runs_with_some(self, space: Space, stored: Stored, ranks: int) -> bool:
        """Whether what cannot be run with the preset's other settings can be with some that are sampled."""
        sampler = PartialFixedSampler(stored, RandomSampler(seed=0))
        study = optuna.create_study(sampler=sampler)
        for _ in range(JOINT_SAMPLES):
            try:
                self.check_settings(space.settings(space.suggest(study.ask())), ranks)
                return True
            except BadInput:
                continue
        return False

    def describe(self, settings: Mapping[str, Any], seed: int) -> str:
        return self.resolve(settings, seed).to_toml()

    def command(self, settings: Mapping[str, Any], seed: int, output: Path, episodes: int | None) -> tuple[str, ...]:
        config = output.with_name(f"{output.name}.toml")
        write_text(config, self.resolve(settings, seed, episodes).to_toml())
        return (*confined(), *python_module("harness"), "train", str(config), "--output", str(output))
