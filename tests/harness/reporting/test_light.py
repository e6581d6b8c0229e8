"""What every rank of every trial waits for: `from harness.reporting import report` loads nothing that takes seconds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.files import read_json, read_json_lines
from tests.harness.reporting.test_script import BIN, environment

HEAVY = ("torch", "numpy", "rich", "pydantic", "optuna", "gymnasium", "tensorboard")

SCRIPT = f"""
import json, sys
from harness.reporting import report, should_stop
at_import = [name for name in {HEAVY} if name in sys.modules]
report(1, 2.5)
stop = should_stop()
print(json.dumps([at_import, [name for name in {HEAVY} if name in sys.modules], stop]), flush=True)
"""


@pytest.mark.fresh_start
def test_a_script_that_reports_and_asks_loads_nothing_heavy(tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    trial.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment(trial), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], [], False]
    assert read_json(trial / "seed-0" / "result.json")["value"] == 2.5


@pytest.mark.fresh_start
def test_two_ranks_under_mpirun_agree_without_torch_and_rank_0_alone_may_report(tmp_path: Path) -> None:
    """Rank 0 reports after the script has started MPI: a report that asked the other rank would never return."""
    trial = tmp_path / "trial"
    trial.mkdir()
    script = SCRIPT.replace("report(1, 2.5)", "from mpi4py import MPI\nif MPI.COMM_WORLD.rank == 0: report(1, 2.5)")
    mpirun = [str(BIN / "mpirun"), "-np", "2", "--oversubscribe", "--bind-to", "none"]
    done = subprocess.run(
        [*mpirun, sys.executable, "-c", script], env=environment(trial), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # mpi4py itself loads numpy where it has buffers to describe; torch nobody asked for
    lines = re.findall(r"\[\[.*?\], \[.*?\], \w+\]", done.stdout)  # mpirun may put them on one line
    for line in lines:
        at_import, at_end, stop = json.loads(line)
        assert at_import == [] and "torch" not in at_end and stop is False
    assert len(lines) == 2
    reports, _ = read_json_lines(trial / "reports.jsonl")
    assert [report["value"] for report in reports] == [2.5]
    assert read_json(trial / "seed-0" / "result.json")["ranks"] == 2


def test_all_names_of_the_room_are_there_when_asked_for() -> None:
    import harness.reporting

    assert all(getattr(harness.reporting, name) is not None for name in harness.reporting.__all__)
    assert set(harness.reporting.HOMES) | {"report", "should_stop"} == set(harness.reporting.__all__)
    assert "HARNESS_TRIAL_DIR" not in os.environ
