"""A study's settings: `load_study("ppo-cartpole", ["study.trials=30"])`."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field, SerializeAsAny

from harness.errors import BadInput
from harness.settings import Settings, apply_overrides, copy_tables, load_toml, table_of, unknown_key, validate
from search.strategies.parse import STRATEGIES, read_strategy
from search.strategies.pruners import Median, PrunerSettings
from search.strategies.samplers import SamplerSettings, Tpe


class StudySettings(Settings):
    name: str
    """What the study is called, in the storage and as `studies/NAME/`; without it, the name of its file. Any text that
    a folder can be called by."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether a higher or a lower value is better."""
    trials: int = Field(20, ge=1)
    """Trials that one `search run` adds to the study. Settings that cannot be run, or were tried before, do not count:
    others are drawn."""
    first: list[dict[str, Any]] = []
    """Known settings, which are tried before anything is proposed: tables `[[study.first]]` of `"section.key" = value`
    as a config has them. Parameters that one leaves out are drawn."""
    constraints: list[str] = []
    """What the settings of a trial must fulfil, such as `"env.count * algorithm.rollout_steps >= 256"`; draws that do
    not are drawn again. A name that is no identifier stands in braces: `"{lr-min} < {lr-max}"`."""
    max_minutes: float | None = Field(None, gt=0)
    """Minutes after which one `search run` stops, as on a stop request: trials that run are asked to stop and queued
    again, and the next `search run` resumes."""
    sampler: SerializeAsAny[SamplerSettings] = Tpe(name="tpe")
    """Who proposes: tpe, gp, cmaes, random or grid; a name, or a table with the sampler's own settings. One of your own
    is a `module:Class` ([extending](extending.md#a-sampler-a-pruner))."""
    pruner: SerializeAsAny[PrunerSettings] = Median(name="median")
    """Who ends bad trials early: median, percentile, halving, hyperband, threshold, patient, wilcoxon or none; a name,
    or a table with the pruner's own settings. One of your own is a `module:Class`
    ([extending](extending.md#a-sampler-a-pruner))."""
    storage: str | None = None
    """A database that Optuna can open (`postgresql://…`, `sqlite:///…`, …); unset: `studies/NAME/study.db`."""
    seed: int = Field(0, ge=0)
    """The sampler's draws, the seeds of the trials and those of the confirmation follow from it."""

    @pydantic.field_validator("name")
    @classmethod
    def can_name_a_folder(cls, name: str) -> str:
        if (why := no_folder(name)) is not None:
            raise ValueError(f"must be a name that a folder can have: {why}")
        return name


class TrialSettings(Settings):
    preset: str | None = None
    """What a trial trains: a preset of `harness train`, or a TOML file, beside the study's or where one types."""
    command: list[str] | None = Field(None, min_length=1)
    """Instead of a preset: a command that runs on every rank; `{name}` stands for a parameter, `{seed}`, `{output}`.
    Its files lie beside the study's or where one types; `python` as its first word is the one that runs the search, and
    programs are those of the PATH as it is."""
    overrides: dict[str, Any] = {}
    """Fixed settings of every trial; of a command, fixed values of its placeholders."""
    ranks: int = Field(2, ge=1)
    """Ranks of a trial: so many slots are leased to it."""
    seeds: int = Field(1, ge=1, le=1000)
    """Runs of a trial, one after the other on the same slots, each with another seed."""
    launcher: str | None = None
    """horovodrun, horovodrun-gloo, mpirun, your own, `module:Class`, or a pool of warm ranks: pool (by horovodrun),
    pool-gloo, pool-mpirun. Unset: pool for a preset and horovodrun for a command, and mpirun inside a Slurm
    allocation."""
    max_minutes: float = Field(10.0, gt=0)
    """A trial that reports nothing for so long is ended and recorded as failed."""
    max_total_minutes: float | None = Field(None, gt=0)
    """Minutes that a trial may take from its start, all its seeds together; it is then asked to stop, and recorded as
    pruned at its last report."""
    keep: Literal["everything", "checkpoints", "best", "results"] = "checkpoints"
    """What stays of a trial that has ended: `everything`; `checkpoints`, without the replay memory that only a
    continued run would use; `best`, the checkpoint of its best evaluation alone; or its `results` without any."""
    grace_seconds: float = Field(60.0, ge=0)
    """How long a trial that was asked to stop may take before its job is ended."""
    cores: int = Field(1, ge=1)
    """Cores of one slot on this machine, where no hostfile and no Slurm allocation says what slots there are."""

    @pydantic.model_validator(mode="after")
    def runs_one_thing(self) -> TrialSettings:
        if (self.preset is None) == (self.command is None):
            raise ValueError("needs either preset or command" + ("" if self.preset is None else ", not both"))
        return self


class ObjectiveSettings(Settings):
    aggregate: Literal["median", "mean"] = "median"
    """How the values of several seeds become one."""
    on_divergence: Literal["prune", "fail", "worst"] = "prune"
    """A trial that diverges is recorded as pruned at its last report, as failed, or with the study's worst value so
    far."""
    evaluations: int | None = Field(None, ge=1)
    """The most reports that a command sends for one seed; needed with `trial.seeds` > 1. A preset knows it itself."""


class ConfirmSettings(Settings):
    seeds: int = Field(3, ge=0, le=1000)
    """How often the best configuration is trained again, with seeds that the search never used; 0: not at all."""
    episodes: int = Field(100, ge=1)
    """Episodes of each evaluation at the end of those (of a preset)."""


class StudyConfig(Settings):
    study: StudySettings
    trial: TrialSettings
    space: dict[str, Any]
    """Parameters by the dotted name of the setting: see search/space/space.py."""
    objective: ObjectiveSettings = ObjectiveSettings()
    confirm: ConfirmSettings = ConfirmSettings()

    def to_table(self) -> dict[str, Any]:
        return table_of(self)


def load_study(preset_or_path: str | Path, overrides: Iterable[str] = (), study: Mapping[str, Any] = {}) -> StudyConfig:
    """The study of a preset or TOML file, with overrides, and with `study` (name, storage) from the command line."""
    path = study_path(str(preset_or_path))
    table = apply_overrides(load_toml(path), overrides)
    section = table.setdefault("study", {})
    if isinstance(section, dict):
        section.setdefault("name", path.stem)
        section.update({key: value for key, value in study.items() if value is not None})
    trial = table.get("trial")
    if isinstance(trial, dict) and isinstance(trial.get("preset"), str):
        if trial["preset"].endswith(".toml"):
            trial["preset"] = from_here(trial["preset"], path.parent)
    if isinstance(trial, dict) and isinstance(trial.get("command"), list):
        trial["command"] = [
            from_here(word, path.parent) if is_path(word, first=index == 0) else word
            for index, word in enumerate(trial["command"])
        ]
    return resolve_study(table, str(preset_or_path))


def from_here(word: str, folder: Path) -> str:
    """A path that stands in a file of `folder`, as it is reached from here: there is one rule for all of them. They are
    relative to the file that they stand in; what is not there is looked for where the command was typed."""
    there = folder / word
    return str(there) if folder.resolve() != Path.cwd() and os.path.isfile(there) else word


def is_path(word: object, first: bool) -> bool:
    """Whether a word of a command may name a file: a program without a folder is looked for on the PATH."""
    if not isinstance(word, str) or word.startswith("-") or "{" in word or Path(word).is_absolute():
        return False
    return "/" in word or not first and bool(Path(word).suffix)


def resolve_study(table: Mapping[str, Any], source: str = "") -> StudyConfig:
    """`table` checked and filled with defaults; raises `BadInput` that names the key."""
    table = copy_tables(table)
    section = table.get("study")
    if isinstance(section, dict):
        for kind in STRATEGIES:
            if kind in section:
                section[kind] = read_strategy(kind, section[kind], source)
    return validate(StudyConfig, table, source)


def study_path(preset_or_path: str) -> Path:
    if preset_or_path.endswith(".toml") or "/" in preset_or_path:
        return Path(preset_or_path)
    path = presets_folder() / f"{preset_or_path}.toml"
    if preset_or_path not in study_presets():
        wrong = unknown_key(preset_or_path, study_presets())
        raise BadInput(wrong.replace("is no setting", "is no study preset and no .toml file"))
    return path


def study_presets() -> list[str]:
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def presets_folder() -> Path:
    return Path(str(resources.files("search") / "presets"))


MOST_BYTES = 200  # of a folder's name: file systems take 255, and other files are named after it


def no_folder(name: str) -> str | None:
    """Why a study cannot be called so; None where it can."""
    if not name or name != name.strip():
        return "not empty, no spaces at its ends"
    if name[0] in ".-":
        return "not one that begins with . or -"
    if "/" in name or any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "without / and control characters"
    if name.endswith(".toml"):
        return "not one that ends in .toml, which is how a study's file is distinguished from its name"
    return f"at most {MOST_BYTES} bytes" if len(name.encode()) > MOST_BYTES else None


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names: `{"run": {"steps": 1}}` and `{"run.steps": 1}` are the same fixed setting."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
