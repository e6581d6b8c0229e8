"""`search export`: a study's trials as CSV or JSON, with the settings as a run gets them."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from harness.errors import BadInput
from harness.files import write_text
from search.commands.status import seconds_of
from search.space.space import Space
from search.study.existing import find
from search.study.study import OUTCOME

FORMATS = ("csv", "json")


def export(name: str, storage: str | None, kind: str | None, output: str | None) -> str:
    """The trials as text; written to `output` instead where that is given, and then a line that says so."""
    kind = kind or (Path(output).suffix.removeprefix(".") if output is not None else "csv")
    if kind not in FORMATS:
        raise BadInput(f"--output must end in .csv or .json, or --format say which, got {output!r}")
    study, space = find(name, storage)
    trials = [exported(trial, space) for trial in study.get_trials(deepcopy=False)]
    text = as_csv(trials, space) if kind == "csv" else json.dumps(trials, indent=2, allow_nan=False) + "\n"
    if output is None:
        return text
    try:
        write_text(Path(output), text)
    except OSError as error:
        raise BadInput(f"--output {output} cannot be written: {error.strerror}") from None
    return f"{len(trials)} trials are in {output}\n"


def exported(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """A trial as JSON holds it."""
    known = {name: value for name, value in trial.params.items() if name in space.names}
    value = trial.values[0] if trial.values else None
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "outcome": trial.user_attrs.get(OUTCOME),
        "value": finite_or_none(value),
        "step": trial.last_step,
        "seconds": round(seconds_of(trial), 1) if trial.datetime_complete else None,
        "began": trial.datetime_start.isoformat(timespec="seconds") if trial.datetime_start else None,
        "ended": trial.datetime_complete.isoformat(timespec="seconds") if trial.datetime_complete else None,
        "reason": trial.user_attrs.get("reason"),
        "settings": trial.user_attrs.get("settings") or space.settings(known),
        "reports": {str(step): finite_or_none(value) for step, value in trial.intermediate_values.items()},
    }


def as_csv(trials: list[dict[str, Any]], space: Space) -> str:
    """One line a trial; a column for each parameter, lists and tables as JSON. Reports are in the JSON alone."""
    columns = ["trial", "state", "outcome", "value", "step", "seconds", "began", "ended", "reason"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *space.names])
    for trial in trials:
        settings = trial["settings"]
        writer.writerow(
            [trial[column] for column in columns]
            + [cell(settings[name]) if name in settings else "" for name in space.names]
        )
    return out.getvalue()


def cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) or value is None else value


def finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
