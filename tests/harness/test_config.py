"""Settings: overrides, presets, what is written is what is read."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import load_policy, train
from harness.algorithms import ALGORITHMS, SETTINGS, algorithm_class, settings_class
from harness.algorithms.ppo import PPO
from harness.algorithms.settings.on_policy import PPOSettings
from harness.config import load_run_config, preset_names, preset_path, resolve
from harness.distributed.compression import COMPRESSORS
from harness.distributed.sync import SYNCHRONIZERS
from harness.distributed.transports import TRANSPORTS
from harness.envs.backends import BACKENDS
from harness.envs.settings import EnvSettings
from harness.errors import BadInput
from harness.registry import Names
from harness.schema import CompressionSettings, OptimizerSettings, SyncSettings
from harness.settings import Settings, apply_overrides, named_object
from harness.training.optimizers import OPTIMIZERS


class PatientSettings(PPOSettings):
    name: str  # type: ignore[assignment]
    patience: int = 3


class Patient(PPO):
    Settings = PatientSettings


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_say_in_their_first_line_what_they_are(name: str) -> None:
    config = load_run_config(name)
    assert config.run.name == name
    assert preset_path(name).read_text().startswith("# ")
    assert resolve(tomllib.loads(config.to_toml())) == config, "what is written is what was read"


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "sac", "td3"])
def test_the_defaults_of_an_algorithm_fit_together(name: str) -> None:
    config = resolve({"algorithm": {"name": name}, "env": {"id": "CartPole-v1"}, "run": {"steps": 50_000}})
    assert resolve(config.to_table()) == config, "and repeat the run"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_settings_that_are_had_without_an_algorithm_are_its_own(name: str) -> None:
    assert settings_class(name) is algorithm_class(name).Settings


@pytest.mark.parametrize(
    ("section", "setting", "registry", "others"),
    [
        (SyncSettings, "kind", SYNCHRONIZERS, set()),
        (SyncSettings, "path", TRANSPORTS, {"auto"}),
        (CompressionSettings, "kind", COMPRESSORS, {"none"}),
        (OptimizerSettings, "name", OPTIMIZERS, set()),
        (EnvSettings, "backend", BACKENDS, {"auto"}),
    ],
)
def test_the_names_that_a_setting_takes_are_those_of_its_registry(
    section: type[Settings], setting: str, registry: Mapping[str, Any], others: set[str]
) -> None:
    """Settings load no torch, so that some names stand twice: beside a setting and in a registry that loads it."""
    field = section.model_fields[setting]
    named = {name for each in field.metadata if isinstance(each, Names) for name in each.known}
    for part in typing.get_args(field.annotation):
        named |= set(typing.get_args(part))
    assert named == {*registry, *others}
    assert all(callable(named_object(it, setting) if isinstance(it, str) else it) for it in registry.values())


def test_each_algorithm_has_settings_in_the_table_without_torch() -> None:
    assert set(SETTINGS) == set(ALGORITHMS)


def test_an_algorithm_may_be_a_class_of_the_users_own(tmp_path: Path) -> None:
    own = [f"algorithm.name={__name__}:Patient", "run.steps=512", "evaluation.count=1", "evaluation.final_episodes=2"]
    config = load_run_config("ppo-cartpole", own)
    assert isinstance(config.algorithm, PatientSettings) and config.algorithm.patience == 3
    assert resolve(tomllib.loads(config.to_toml())) == config
    result = train(config, output=tmp_path)
    assert result.status == "done" and result.env_steps == 512
    assert load_policy(tmp_path)(np.zeros((3, 4), np.float32)).shape == (3,)
    with pytest.raises(BadInput, match="algorithm.name = 'tests.harness.test_config:None_': module"):
        load_run_config("ppo-cartpole", ["algorithm.name=tests.harness.test_config:None_"])


def test_overrides_are_toml_values_or_else_words() -> None:
    changed = apply_overrides({"a": {"b": 1}}, ["a.b=2.5", "a.c=[1, 2]", "a.d=adam", "e.f.g=true", "h='x=y'"])
    assert changed == {"a": {"b": 2.5, "c": [1, 2], "d": "adam"}, "e": {"f": {"g": True}}, "h": "x=y"}


def test_overrides_leave_what_they_change_as_it_was() -> None:
    table = {"a": {"b": 1}}
    apply_overrides(table, ["a.b=2"])
    assert table == {"a": {"b": 1}}


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", ".a=1"])
def test_what_is_no_override_is_refused(override: str) -> None:
    with pytest.raises(BadInput, match="section.key=value"):
        apply_overrides({}, [override])


def test_an_override_into_a_value_is_refused() -> None:
    with pytest.raises(BadInput, match="seed is a value, not a section"):
        load_run_config("ppo-cartpole", ["seed=1", "seed.x=2"])


def test_a_file_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[env]\nid = "CartPole-v1"\n[algorithm]\nname = "ppo"\ngamma = 2\n')
    with pytest.raises(BadInput, match=r"algorithm.gamma must be <= 1, got 2 \(.*mine.toml\)"):
        load_run_config(str(tmp_path / "mine.toml"))


def test_every_setting_is_documented_in_place() -> None:
    def undocumented(model: type, prefix: str = "") -> list[str]:
        missing = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                missing += undocumented(inner, f"{prefix}{name}.")
            elif not field.description:
                missing.append(prefix + name)
        return missing

    config = load_run_config("ppo-cartpole")
    sections = [type(getattr(config, name)) for name in type(config).model_fields]
    models = [section for section in sections if hasattr(section, "model_fields")]
    assert [(model.__name__, undocumented(model)) for model in models if undocumented(model)] == []
