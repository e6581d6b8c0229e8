"""A study that the release before wrote, as its driver left it when it was killed while trial 1 ran: older_study/."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from pathlib import Path

from harness.launching import find_job
from tests.search.conftest import Workplace

OLDER = Path(__file__).parent / "older_study"


def test_a_study_of_the_release_before_resumes(workplace: Workplace) -> None:
    directory = workplace.path / "studies" / "s"
    shutil.copytree(OLDER, directory)
    shutil.move(directory / "study.toml", workplace.path / "study.toml")
    for job in directory.glob("trial-*/job.json"):  # as if it had been written on this host
        job.write_text(job.read_text().replace('"HOST"', f'"{socket.gethostname()}"'))
    with sqlite3.connect(directory / "study.db") as database:
        database.executescript((directory / "study.sql").read_text())

    printed = workplace.run()

    assert workplace.states() == ["COMPLETE"] * 3, printed
    done, ended_alone, new = workplace.trials()
    assert done.value == 4 * done.params["x"]
    assert ended_alone.value == 40 * ended_alone.params["x"] and len(ended_alone.intermediate_values) == 40
    assert not workplace.started(0) and not workplace.started(1) and len(workplace.started(2)) == 2
    assert "best value: 62.7186 (trial 1)" in printed


def test_a_job_that_was_about_to_start_when_its_driver_died_is_found() -> None:
    """The release before named no launcher there."""
    saved = {"launcher": "", "pid": -1, "start_time": None, "run_id": "never-begun", "host": socket.gethostname()}
    job = find_job({**saved, "hosts": [{"name": "localhost", "slots": 2}], "output": "output.log", "output_start": 0})
    assert job.poll() is not None and job.end() == []
