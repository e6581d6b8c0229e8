"""Studies in folders as users have them: beside files of our names, typed from elsewhere, unwritable, locked, full."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from search import __main__ as command_line
from search.__main__ import main, true_cause
from search.study import study_dir

RUN = """
echo "$PATH" > path.txt
pwd > folder.txt
echo "{\\"step\\": 1, \\"value\\": $1}" >> "$HARNESS_TRIAL_DIR/reports.jsonl"
"""
ROOT = str(Path(__file__).parents[2])


def test_a_study_typed_from_a_folder_with_files_of_our_names(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m search` would run the user's own search.py there: what is printed and what is started does not."""
    here = workplace.path
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    for name in ("search.py", "harness.py"):
        (here / name).write_text("import sys; sys.exit('the user\\'s own file')\n")
    (here / "studies of mine").mkdir()
    workplace.study_file(study={"trials": 1}, trial={"command": ["sh", "run.sh", "{x}"], "ranks": 1})
    (here / "study.toml").rename(here / "studies of mine" / "study.toml")
    (here / "studies of mine" / "run.sh").write_text(RUN)
    monkeypatch.chdir(here)

    shown = subprocess.run(
        [sys.executable, "-P", "-m", "search", "run", "studies of mine/study.toml", "--dry-run"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "sh 'studies of mine/run.sh'" in shown and "PATH of each rank: as it is here" in shown
    assert main(["run", "studies of mine/study.toml"]) == 0

    (trial,) = workplace.trials()
    assert trial.state.name == "COMPLETE" and 1.0 <= trial.value <= 2.0
    assert (here / "path.txt").read_text().strip() == os.environ["PATH"], "the PATH as it is here, nothing before it"
    assert (here / "folder.txt").read_text().strip() == str(here)


@pytest.mark.slow
def test_every_printed_command_works_there(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", ROOT)
    (workplace.path / "search").mkdir()
    (workplace.path / "search" / "__init__.py").write_text("raise SystemExit('the user\\'s own package')\n")
    (workplace.path / "run.sh").write_text(RUN)
    workplace.study_file(study={"trials": 1}, trial={"command": ["sh", "run.sh", "{x}"], "ranks": 1})
    text = (workplace.path / "study.toml").read_text()
    assert "run.sh" in text

    printed = workplace.run()

    (again,) = [line.partition(": ")[2] for line in printed.splitlines() if line.startswith("best again")]
    done = subprocess.run(shlex.split(again), cwd=workplace.path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("trial 0 with value"), done.stderr


def test_a_folder_that_cannot_be_written_is_refused_in_a_line(
    workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace.path / "taken").write_text("a file where the folder would be")
    monkeypatch.setattr(study_dir, "STUDIES", workplace.path / "taken" / "studies")
    said = workplace.run(rc=2)
    (line,) = said.splitlines()
    assert line == (
        f"search: study s cannot be kept in {workplace.path}/taken/studies/s: Not a directory; "
        "HARNESS_STUDIES=/another/folder says where studies lie"
    ) or line.endswith("Not a directory; HARNESS_STUDIES=/another/folder says where studies lie")


def test_where_studies_lie_is_a_setting_of_every_command(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = workplace.path / "elsewhere"
    code = "from search.study.study_dir import StudyDir; print(StudyDir('s').path)"
    env = {**os.environ, "HARNESS_STUDIES": str(elsewhere), "PYTHONPATH": ROOT}
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(elsewhere / "s")


def test_the_true_cause_of_a_database_that_another_holds(tmp_path: Path) -> None:
    """Optuna says that data is invalid, "e.g. exceeding max length"."""
    path = tmp_path / "study.db"
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 0.01}})
    study = optuna.create_study(storage=storage)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageInternalError) as failed:
            study.set_user_attr("a", 1)
    finally:
        holder.close()
    assert true_cause(failed.value) == "database is locked"


def test_a_full_disk_under_a_running_study_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/studies/s/trial-00003/job.json")

    monkeypatch.setattr(command_line, "run", full)
    assert main(["run", "ppo-cartpole"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "/data/studies/s/trial-00003/job.json cannot be written: No space left on device; running trials continue"
        in line
    )
