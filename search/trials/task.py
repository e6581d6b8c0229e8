"""What a trial trains: a preset of `harness train`, or a command of the user's own. One run is one job of all ranks."""

from __future__ import annotations

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.samplers import PartialFixedSampler, RandomSampler

from harness.cluster.openmpi import ALLOWED_EXIT
from harness.config import load_table, resolve
from harness.envs import share_of
from harness.errors import BadInput
from harness.files import write_text
from harness.launching.own_module import python_module
from harness.run.checks import check
from harness.schema import EvaluationSettings, RunConfig
from harness.settings import copy_tables, set_dotted, validate
from search.config import StudyConfig, dotted
from search.space.space import Space, Stored, show
from search.trials.placeholders import check_places, filled, places_in, stands_for_all

JOINT_SAMPLES = 20


class Task(ABC):
    evaluations: int | None
    """K, the number of reports of one run; None where nobody knows."""
    speaks_for_all: bool
    """Whether a `result.json` stands for all ranks; a script's rank 0 writes it whatever becomes of the others."""
    environment: Mapping[str, str] = {}
    """What its ranks need beside what all ranks do."""

    @abstractmethod
    def check(self, space: Space, ranks: int) -> None:
        """Refuses, before anything starts, a space whose settings a run would not take."""

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


def confined() -> tuple[str, ...]:
    """Before a command: each of its ranks sees the cores and the GPU of its own slot alone."""
    return python_module("harness.cluster.slots")


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
        """What goes together only the command knows."""

    def describe(self, settings: Mapping[str, Any], seed: int) -> str:
        values = {name: "none" if value is None else value for name, value in {**self.fixed, **settings}.items()}
        return tomli_w.dumps({"command": self.words, "seed": seed, "settings": values})

    def command(self, settings: Mapping[str, Any], seed: int, output: Path, episodes: int | None) -> tuple[str, ...]:
        values = {**self.fixed, **settings, "seed": seed, "output": str(output)}
        return (*confined(), *filled(self.words, values, self.GIVEN))


def make_task(config: StudyConfig) -> Task:
    trial, fixed = config.trial, dotted(config.trial.overrides)
    if trial.command is not None:
        if trial.seeds > 1 and config.objective.evaluations is None:
            raise BadInput(
                "objective.evaluations is missing: for a command with trial.seeds > 1, the most reports of one seed"
            )
        command = CommandTask(trial.command, fixed, config.objective.evaluations)
        command.check_seeds(trial.seeds, config.confirm.seeds)
        return command
    assert trial.preset is not None
    if config.objective.evaluations is not None:
        raise BadInput("objective.evaluations is for commands; a preset's is trial.overrides.evaluation.count")
    return PresetTask(trial.preset, fixed)
