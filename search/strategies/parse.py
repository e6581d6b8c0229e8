"""`study.sampler` and `study.pruner`: from a name, or a table with Optuna's own arguments, to the settings of one.

The name is one of ours, or the user's own `module:Class`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from harness.errors import BadInput
from harness.settings import Settings, unknown_key, validate
from search.display import complain
from search.strategies.own import check_arguments, own_class
from search.strategies.pruners import PRUNERS, OwnPruner, PrunerSettings
from search.strategies.samplers import SAMPLERS, OwnSampler, SamplerSettings

STRATEGIES: dict[str, Mapping[str, Any]] = {"sampler": SAMPLERS, "pruner": PRUNERS}
OWN: dict[str, tuple[type[Settings], type[Settings], type]] = {
    "sampler": (SamplerSettings, OwnSampler, BaseSampler),
    "pruner": (PrunerSettings, OwnPruner, BasePruner),
}
"""What a user's own class derives from: our base, whose settings it is; or Optuna's, whose settings are the second."""
RENAMED = {
    "startup_trials": "n_startup_trials",
    "warmup_steps": "n_warmup_steps",
    "min_trials": "n_min_trials",
    "startup_steps": "n_startup_steps",
    "pruner": "wrapped_pruner",
}
"""Old names of settings, and Optuna's names, which they have now; both are read for a release."""


def read_strategy(kind: str, table: Any, source: str = "", where: str = "") -> Any:
    """The settings of a `sampler` or `pruner`; `BadInput` names what is wrong with them, and where."""
    known, where = STRATEGIES[kind], where or f"study.{kind}"
    table = {"name": table} if isinstance(table, str) else table
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        may_be = f"one of {', '.join(known)}, or module:Class of your own"
        raise BadInput(f"{where} must be a name or a table with a name, {may_be}, got {table!r}")
    settings = settings_class(kind, table, where)
    table = with_new_names(table, settings.model_fields, where)
    if "wrapped_pruner" in settings.model_fields and "wrapped_pruner" in table:
        inner = read_strategy("pruner", table["wrapped_pruner"], source, f"{where}.wrapped_pruner")
        table = {**table, "wrapped_pruner": inner}
    return validate(settings, table, source, where)


def settings_class(kind: str, table: Mapping[str, Any], where: str) -> Any:
    """The class of a strategy's settings; BadInput where its name means none, or Optuna's class lacks an argument."""
    known, name = STRATEGIES[kind], table["name"]
    if name in known:
        return known[name]
    if ":" not in name:
        raise BadInput(f"{where}: " + unknown_key(name, known).replace("is no setting", f"is no {kind}"))
    ours, of_optuna, optunas = OWN[kind]
    found = own_class(name, where, ours, optunas)
    if issubclass(found, ours):
        return found
    check_arguments(found, [key for key in table if key != "name"], where)
    return of_optuna


def with_new_names(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table with Optuna's names in place of the old ones: a line on standard error names both."""
    renamed = {old: RENAMED[old] for old in table if old not in known and RENAMED.get(old) in known}
    for old, new in renamed.items():
        if new in table:
            raise BadInput(f"{where}.{old} is the old name of {new}, which is set too: leave {old} out")
        complain(f"{where}.{old} is now {new}")
    return {renamed.get(key, key): value for key, value in table.items()}
