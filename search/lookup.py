"""Finds a study that exists by its name, for the commands that look at one."""

from __future__ import annotations

import optuna

from harness.errors import BadInput
from search.read_space import read_space
from search.space import Space
from search.storage import open_storage
from search.study import existing_study
from search.study_dir import STUDIES, StudyDir


def find(name: str, storage: str | None) -> tuple[optuna.Study, Space]:
    """A study and its space; `BadInput` where there is none, or where `search run` did not make it."""
    study = existing_study(name, open_storage(storage_of(name, storage)))
    if "config" not in study.user_attrs:
        raise BadInput(f"study {name} was not made by `search run`")
    return study, read_space(study.user_attrs["config"]["space"])


def storage_of(name: str, storage: str | None) -> str:
    """The URL of a study's storage: as given, as its directory notes it, or the database in its directory."""
    if storage is not None:
        return storage
    directory = StudyDir(name)
    if not directory.path.is_dir():
        known = ", ".join(sorted(path.name for path in STUDIES.glob("*") if path.is_dir())) or "it holds none"
        raise BadInput(
            f"there is no study {name!r} in {STUDIES}/ ({known}); for one that is kept elsewhere give --storage"
        )
    noted = str(directory.noted().get("storage", directory.database))
    if ":***@" in noted:
        raise BadInput(f"study {name} is kept in {noted}: give --storage with the password")
    return noted
