"""A study whose database is a real PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest

from tests.cluster.studies import Search, write_study


def test_a_study_lives_in_postgresql_and_grows_there(postgres_url: str, tmp_path: Path) -> None:
    study_file = write_study(tmp_path, "in-postgres", trials=2, seconds=0.3)
    arguments = ("run", str(study_file), "--storage", postgres_url)
    Search(tmp_path, *arguments).finish()
    Search(tmp_path, *arguments).finish()

    study = optuna.load_study(storage=postgres_url, study_name="in-postgres")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert all(sorted(trial.intermediate_values) == [1, 2, 3] for trial in study.trials)
    assert not list(tmp_path.rglob("*.db")), "a SQLite file was made beside it"

    best = Search(tmp_path, "best", "--study", "in-postgres", "--storage", postgres_url).finish()
    shown = re.search(r"trial (\d+) with value ([\d.]+)", best)
    assert shown and int(shown[1]) == study.best_trial.number
    assert float(shown[2]) == pytest.approx(study.best_value, rel=1e-3)
