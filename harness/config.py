"""A run's settings, whole: `load_run_config("ppo-cartpole", ["optimizer.lr=0.001"])`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from harness.algorithms import settings_class
from harness.errors import BadInput
from harness.schema import RunConfig
from harness.settings import apply_overrides, load_toml, unknown_key, validate


def resolve(table: Mapping[str, Any], source: str = "") -> RunConfig:
    """`table` checked and filled with defaults; the algorithm's own settings are looked up by `algorithm.name`."""
    table = dict(table)
    section = table.get("algorithm")
    if not isinstance(section, Mapping) or "name" not in section:
        raise BadInput("algorithm.name is missing" + (f" ({source})" if source else ""))
    known = set(RunConfig.model_fields)
    for key in table:
        if key not in known:
            raise BadInput(unknown_key(key, known) + (f" ({source})" if source else ""))
    settings = settings_class(section["name"])
    table["algorithm"] = validate(settings, section, source, "algorithm")
    return validate(RunConfig, table, source)


def load_run_config(preset_or_path: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The config of a preset or of a TOML file, with `section.key=value` overrides applied."""
    return resolve(apply_overrides(load_table(preset_or_path), overrides), preset_or_path)


def load_table(preset_or_path: str) -> dict[str, Any]:
    """A preset or file as it stands, before overrides and defaults; `run.name` is filled in from its name."""
    if preset_or_path.endswith(".toml") or "/" in preset_or_path:
        path = Path(preset_or_path)
    else:
        path = preset_path(preset_or_path)
    table = load_toml(path)
    run = table.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("name", path.stem)
    return table


def preset_path(name: str) -> Path:
    if name not in preset_names():
        raise BadInput(unknown_key(name, preset_names()).replace("is no setting", "is no preset and no .toml file"))
    return Path(str(resources.files("harness") / "presets" / f"{name}.toml"))


def preset_names() -> list[str]:
    return sorted(path.stem for path in Path(str(resources.files("harness") / "presets")).glob("*.toml"))
