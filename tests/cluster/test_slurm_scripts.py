"""What the batch script for training makes of its run's end; with stand-ins for Python and `scontrol`, and no Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import wait_for

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
RUN = """#!/bin/bash
trap 'exit 75' USR2 TERM
echo "$@" > asked
while [[ $1 == -m && $CODE == none ]]; do sleep 0.05; done
exit $CODE
"""
REQUEUE = """#!/bin/bash
echo "$@" > scontrol
"""


def begin(folder: Path, code: str, **env: str) -> subprocess.Popen[bytes]:
    """The script as Slurm would run it; its run ends with `code` (`none`: when it is asked to stop)."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("python", RUN), ("scontrol", REQUEUE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "CODE": code}
    command = ["bash", str(SCRIPT), "ppo-cartpole", "run.steps=5"]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **slurm, **env})


def test_the_ranks_have_time_to_stop_that_fits_the_warning_unless_one_says_otherwise(tmp_path: Path) -> None:
    assert begin(tmp_path, "0").wait(30) == 0
    asked = (tmp_path / "asked").read_text().split()
    assert asked[2:] == ["train", "--ranks", "2", "--launcher", "mpirun", "ppo-cartpole", *asked[-2:]]
    assert asked[-2:] == ["run.stop_seconds=100", "run.steps=5"], "what one says comes later, and counts"
    assert "--signal=B:USR2@120" in SCRIPT.read_text()


@pytest.mark.parametrize(("code", "again"), [("75", True), ("0", False), ("1", False)])
def test_only_a_run_that_was_stopped_is_queued_again(code: str, again: bool, tmp_path: Path) -> None:
    ended = begin(tmp_path, code, HARNESS_REQUEUE="1").wait(30)
    assert (tmp_path / "scontrol").exists() == again and ended == (0 if again else int(code))
    if again:
        assert (tmp_path / "scontrol").read_text() == "requeue 17\n"


def test_nothing_is_queued_again_by_default(tmp_path: Path) -> None:
    assert begin(tmp_path, "75").wait(30) == 75
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_a_job_that_is_warned_is_queued_again_and_one_that_is_cancelled_is_not(
    number: signal.Signals, again: bool, tmp_path: Path
) -> None:
    running = begin(tmp_path, "none", HARNESS_REQUEUE="1")
    wait_for(lambda: (tmp_path / "asked").exists(), 30, "run")
    os.kill(running.pid, number)
    assert running.wait(300) == (0 if again else 75)
    assert (tmp_path / "scontrol").exists() == again
