"""Ranks on hosts that do not share a file system: here, each has a directory of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from harness.files import read_json
from tests.command import environment
from tests.conftest import need

MPIRUN = Path(sys.executable).with_name("mpirun")
SHORT = ["evaluation.count=2", "evaluation.episodes=2", "evaluation.final_episodes=2", "compile.mode=off"]
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OPAL_PREFIX": sys.prefix}


def train(folder: Path, *settings: str) -> str:
    """What two ranks print that see `run-0` and `run-1`."""
    command = shlex.join([sys.executable, "-m", "harness", "train", "ppo-cartpole", *SHORT, *settings, "--output"])
    ranks = [str(MPIRUN), "--bind-to", "none", "-np", "2", "sh", "-c", f"exec {command} run-$OMPI_COMM_WORLD_RANK"]
    ran = subprocess.run(ranks, cwd=folder, env=environment(AS_ROOT), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_all_go_by_what_rank_0_finds_in_its_own_and_are_told_what_is_not_kept(tmp_path: Path) -> None:
    need(MPIRUN.exists(), "Open MPI is the system's: make install MPI=pypi")
    said = train(tmp_path, "run.steps=2048", "sync.path=mpi")
    assert "rank 1 does not see run-0/checkpoints" in said
    said = train(tmp_path, "run.steps=4096")  # the path is open: rank 0's directory names one, rank 1 would measure
    assert "2,048 steps done" in said
    assert read_json(tmp_path / "run-0" / "result.json")["sync_path"] == "mpi"
    assert not os.path.exists(tmp_path / "run-1" / "result.json")
