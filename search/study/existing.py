"""Finds a study that exists by its name, for the commands that look at one."""

from __future__ import annotations

from pathlib import Path

import optuna

from harness.errors import BadInput
from harness.settings import load_toml
from search.config import no_folder
from search.space.parse import read_space
from search.space.space import Space
from search.study.storage import open_storage
from search.study.study import existing_study
from search.study.study_dir import STUDIES, StudyDir


def find(name: str, storage: str | None) -> tuple[optuna.Study, Space]:
    """A study and its space; `BadInput` where there is none, or where `search run` did not make it."""
    study = find_study_of(name, storage)
    if "config" not in study.user_attrs:
        raise BadInput(f"study {name} was not made by `search run`")
    return study, read_space(study.user_attrs["config"]["space"])


def find_study_of(name: str, storage: str | None) -> optuna.Study:
    """A study as its storage has it, whoever made it."""
    called = name if storage is not None else StudyDir(name).study
    return existing_study(called, open_storage(storage_of(name, storage)))


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
    if directory.has_own_database:
        return directory.database
    noted = str(directory.noted()["storage"])
    if ":***@" in noted:
        raise BadInput(f"study {name} is kept in {noted}: give --storage with the password")
    return noted


def named(study: str) -> tuple[str, str | None]:
    """The study that `--study` names, by its name, its directory or its file; and the storage that a file names."""
    path = Path(study)
    if study.endswith(".toml"):
        section = load_toml(path).get("study", {})
        name = section.get("name", path.stem) if isinstance(section, dict) else path.stem
        storage = section.get("storage") if isinstance(section, dict) else None
        return str(name), storage if isinstance(storage, str) else None
    if "/" in study:
        inside = path.absolute()
        if inside.parent == STUDIES.absolute() and inside.is_dir():
            return inside.name, None
    if (why := no_folder(study)) is not None:
        raise BadInput(f"--study must be a study's name, its file or its directory in {STUDIES}/, got {study!r}: {why}")
    return study, None
