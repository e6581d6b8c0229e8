"""Somebody watches a running study in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from tests.cluster.daemons import free_ports
from tests.cluster.studies import Search, write_study
from tests.conftest import wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


def test_the_studys_page_shows_trials_and_best_value_while_the_study_runs(browser: Chrome, tmp_path: Path) -> None:
    study_file = write_study(tmp_path, "watched", trials=6, seconds=12)
    (port,) = free_ports(1)
    storage = f"sqlite:///{tmp_path}/studies/watched/study.db"

    def text() -> str:
        return browser.find_element("tag name", "body").text

    def trials_shown() -> int:
        found = re.search(r"(\d+) Trials", text())
        return int(found[1]) if found else 0

    def completed() -> list[optuna.trial.FrozenTrial]:
        study = optuna.load_study(storage=storage, study_name="watched")
        return study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))

    with Search(tmp_path, "run", str(study_file)) as run:
        wait_for(lambda: "done with value" in run.printed(), 90, "first finished trial", explain=run.printed)
        with Search(tmp_path, "dashboard", "--study", "watched", "--port", str(port)) as dashboard:
            wait_for(lambda: "http://" in dashboard.printed(), 60, "dashboard's address", explain=dashboard.printed)
            address = re.findall(r"http://127\.0\.0\.1:\d+/\S+", dashboard.printed())[0]

            browser.get(address)
            wait_for(lambda: "Best Trial (number=" in text(), 60, "best trial on the page", explain=text)
            number, value = re.findall(r"Best Trial \(number=(\d+)\)\n([\d.]+)", text())[0]
            assert (int(number), float(value)) in [(trial.number, trial.value) for trial in completed()]

            browser.get(f"{address}/trials")
            wait_for(lambda: trials_shown() > 0, 60, "list of trials", explain=text)
            assert "Running" in text() and "Complete" in text()
            seen = trials_shown()
            wait_for(lambda: trials_shown() > seen, 60, "trial that appears by itself", explain=text)
            assert run.running(), "the study had ended: nothing was watched"
        run.finish()
    assert len(completed()) == 6, "the dashboard disturbed the study"
