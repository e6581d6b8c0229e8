"""A request to stop: all ranks leave at one boundary, with a checkpoint, and the run resumes from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.files import read_json
from harness.launching import launcher_names
from tests.command import environment
from tests.conftest import slow, wait_for
from tests.multirank.test_failures import left_of

LONG = ["ppo-cartpole", "run.name=stopping", "run.steps=5000000", "evaluation.count=1000", "evaluation.episodes=2"]
LONG += ["compile.mode=off"]  # for so many steps the compiler would be waited for, by each start


def start(folder: Path, *options: str, session: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "train", *LONG, *options, "--output", "run"]
    pipe = subprocess.PIPE
    how: dict = {"stdout": pipe, "stderr": subprocess.STDOUT, "text": True, "start_new_session": session}
    return subprocess.Popen(command, cwd=folder, env=environment(), **how)


def steps_done(folder: Path) -> int:
    lines = folder / "run" / "metrics.jsonl"
    return len(lines.read_text().splitlines()) if lines.exists() else 0


@pytest.mark.parametrize(
    ("launcher", "number"),
    [*((name, signal.SIGTERM) for name in launcher_names()), slow("horovodrun-gloo", signal.SIGINT)],
)
def test_the_parent_passes_it_on_and_the_run_can_go_on(launcher: str, number: signal.Signals, tmp_path: Path) -> None:
    options = ["--ranks", "2", "--launcher", launcher]
    running = start(tmp_path, *options)
    wait_for(lambda: steps_done(tmp_path) > 3, 60, "update")
    os.kill(running.pid, number)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 75, out
    result = read_json(tmp_path / "run" / "result.json")
    assert result["status"] == "stopped" and result["env_steps"] > 0
    assert (tmp_path / "run" / "checkpoints" / "latest" / "manifest.json").is_file()
    assert not left_of("stopping-")
    if number == signal.SIGINT:
        return
    again = start(tmp_path, *options)
    wait_for(lambda: steps_done(tmp_path) > result["env_steps"] // 256 + 1, 60, "update after the checkpoint")
    os.kill(again.pid, signal.SIGTERM)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 75 and f"{result['env_steps']:,} steps done" in out, out


def test_a_process_alone_stops_as_well(tmp_path: Path) -> None:
    running = start(tmp_path)
    wait_for(lambda: steps_done(tmp_path) > 3, 60, "update")
    os.kill(running.pid, signal.SIGUSR2)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 75 and "SIGUSR2" in out, out


def test_ranks_under_a_bare_mpirun_hear_usr2(tmp_path: Path) -> None:
    env = environment({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OPAL_PREFIX": sys.prefix})
    mpirun = Path(sys.executable).with_name("mpirun")
    if not mpirun.exists():
        mpirun = Path("mpirun")
        env.pop("OPAL_PREFIX")
    command = [str(mpirun), "--bind-to", "none", "-np", "2", sys.executable, "-m", "harness", "train", *LONG]
    running = subprocess.Popen([*command, "--output", "run"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    wait_for(lambda: steps_done(tmp_path) > 3, 60, "update")
    time.sleep(0.2)
    os.kill(running.pid, signal.SIGUSR2)
    assert running.wait(timeout=300) == 75
    assert read_json(tmp_path / "run" / "result.json")["status"] == "stopped"
