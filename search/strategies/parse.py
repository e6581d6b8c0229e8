"""`study.sampler` and `study.pruner`: from a name, or a table with Optuna's own arguments, to the settings of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import BadInput
from harness.settings import unknown_key, validate
from search.display import complain
from search.strategies.pruners import PRUNERS
from search.strategies.samplers import SAMPLERS

STRATEGIES: dict[str, Mapping[str, Any]] = {"sampler": SAMPLERS, "pruner": PRUNERS}
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
        raise BadInput(f"{where} must be a name or a table with a name, one of {', '.join(known)}, got {table!r}")
    if table["name"] not in known:
        raise BadInput(f"{where}: " + unknown_key(table["name"], known).replace("is no setting", f"is no {kind}"))
    settings = known[table["name"]]
    table = with_new_names(table, settings.model_fields, where)
    if "wrapped_pruner" in settings.model_fields and "wrapped_pruner" in table:
        inner = read_strategy("pruner", table["wrapped_pruner"], source, f"{where}.wrapped_pruner")
        table = {**table, "wrapped_pruner": inner}
    return validate(settings, table, source, where)


def with_new_names(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table with Optuna's names in place of the old ones: a line on standard error names both."""
    renamed = {old: RENAMED[old] for old in table if old not in known and RENAMED.get(old) in known}
    for old, new in renamed.items():
        if new in table:
            raise BadInput(f"{where}.{old} is the old name of {new}, which is set too: leave {old} out")
        complain(f"{where}.{old} is now {new}")
    return {renamed.get(key, key): value for key, value in table.items()}
