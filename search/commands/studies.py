"""`search list`, `search stop`, `search delete`: the studies in `studies/`, and what may be done with a whole one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import BadInput
from search.display import number, plural
from search.study.existing import find_study_of, storage_of
from search.study.storage import open_storage, without_password
from search.study.study import best_trial, existing_study, find_study
from search.study.study_dir import STUDIES, StudyDir
from search.trials.retention import shown_size, size_of

COLUMNS = ("study", "trials", "direction", "best", "state", "size", "storage")
NARROWEST = 160  # columns of a table that goes to a file or a pipe


def list_studies(storage: str | None) -> None:
    """Prints a table of the studies in `studies/`, or of those in a storage."""
    table = Table(*COLUMNS)
    for row in in_storage(open_storage(storage)) if storage is not None else in_studies():
        table.add_row(*map(Text, row))
    if not table.rows:
        print("there are no studies in " + (without_password(storage) if storage is not None else f"{STUDIES}/"))
        return
    console = Console()
    (console if console.is_terminal else Console(width=NARROWEST)).print(table)


def in_studies() -> Iterator[tuple[str, ...]]:
    for path in sorted(path for path in STUDIES.glob("*") if path.is_dir()):
        directory = StudyDir(path.name)
        size, kept = shown_size(size_of(path)), "" if directory.has_own_database else str(directory.noted()["storage"])
        try:
            study = find_study_of(path.name, None)
        except BadInput as error:
            yield (path.name, "", "", "", f"cannot be read: {error}", size, kept)
            continue
        yield (path.name, *described(study), "running" if directory.locked else "", size, kept)


def in_storage(storage: BaseStorage) -> Iterator[tuple[str, ...]]:
    for name in sorted(optuna.get_all_study_names(storage)):
        study = existing_study(name, storage)
        yield (name, *described(study), "", "", "")


def described(study: optuna.Study) -> tuple[str, str, str]:
    directions = "/".join(direction.name.lower() for direction in study.directions)
    best = best_trial(study) if len(study.directions) == 1 else None
    return str(len(study.get_trials(deepcopy=False))), directions, "" if best is None else number(best.value)


def stop(name: str, storage: str | None, trial: int | None) -> str:
    """Asks the driver of a study to stop, or to end one of its trials; a line on what will happen."""
    study, directory = find_study_of(name, storage), StudyDir(name)
    if not directory.locked:
        raise BadInput(f"study {name} is not running here: there is no search to stop")
    if trial is None:
        directory.request_stop()
        return f"study {name} will stop: its trials are asked to, and are queued again for the next `search run`"
    states = {each.number: each.state for each in study.get_trials(deepcopy=False)}
    if states.get(trial) != TrialState.RUNNING:
        running = ", ".join(str(each) for each, state in states.items() if state == TrialState.RUNNING) or "none"
        is_now = states[trial].name.lower() if trial in states else "not there"
        raise BadInput(f"--trial {trial} of study {name} is {is_now}; running: {running}")
    directory.request_stop(trial)
    return f"trial {trial} of study {name} will stop, and is recorded as pruned at its last report"


def delete(name: str, storage: str | None, sure: bool) -> str:
    """Deletes a study from its storage, and its directory; a line on what is gone. Without `sure` it only says so."""
    directory = StudyDir(name)
    if directory.locked:
        raise BadInput(f"study {name} is running: stop it first (search stop)")
    url = storage_of(name, storage)
    own = storage is None and directory.has_own_database
    called = directory.study if storage is None else name
    opened = None if own and not Path(directory.path / "study.db").exists() else open_storage(url)
    study = find_study(called, opened) if opened is not None else None
    if study is None and not directory.path.is_dir():
        raise BadInput(f"there is no study {name!r} in {without_password(url)}")
    trials = plural(len(study.get_trials(deepcopy=False)) if study is not None else 0, "trial")
    files = f" and {directory.path} ({shown_size(size_of(directory.path))})" if directory.path.is_dir() else ""
    if not sure:
        raise BadInput(f"study {name} of {trials}{files} would be deleted for good: give --yes")
    if study is not None and opened is not None and not own:
        optuna.delete_study(study_name=called, storage=opened)
    shutil.rmtree(directory.path, ignore_errors=True)
    return f"deleted: study {name} of {trials}{files}"
