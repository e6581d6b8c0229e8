"""Requests to stop on a real Slurm of two nodes: `scancel`, with a signal and without, of a batch script and of srun."""

# flake8: noqa: F811

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.checkpoints import load_newest
from tests.cluster.test_slurm import SCRIPTS, SlurmUser, result_in, user  # noqa: F401
from tests.conftest import wait_for
from tests.multirank.test_failures import left_of
from tests.multirank.test_stop import steps_done

LONG = ("ppo-cartpole", "run.steps=5000000", "evaluation.count=1000", "evaluation.episodes=2", "compile.mode=off")


def whole_checkpoint(folder: Path) -> int:
    """The steps of the newest checkpoint; all are whole."""
    found, damaged = load_newest(folder / "run" / "checkpoints")
    assert found is not None and not damaged
    return int(found.progress["env_steps"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--signal=USR2", "--batch"), 75),  # to the script, which has become the parent
        ((), None),  # TERM to all of it at once, KILL after the cluster's KillWait
    ],
)
def test_scancel_of_the_training_script(user: SlurmUser, options: tuple[str, ...], code: int | None) -> None:
    name = f"scancelled-{len(options)}"
    job = user.submit(str(SCRIPTS / "train.sbatch"), *LONG, f"run.name={name}", "--output", "run")
    wait_for(lambda: steps_done(user.folder) > 20, 90, "update", lambda: user.log(job))
    user.cluster.run("scancel", *options, job)
    struck = time.monotonic()
    ended = user.wait(job, 60)
    wait_for(lambda: not left_of(name), 15, "end of its last process")
    assert time.monotonic() - struck < 30
    steps = whole_checkpoint(user.folder)
    if code is not None:
        assert ended == code and result_in(user.folder / "run")["env_steps"] == steps


@pytest.mark.parametrize("options", [("--signal=USR2",), ()])
def test_scancel_of_ranks_that_srun_started(user: SlurmUser, options: tuple[str, ...]) -> None:
    name = f"bare-srun-{len(options)}"
    command = ["srun", "-N2", f"--job-name={name}", ".venv/bin/python", "-m", "harness", "train", *LONG]
    env = {**user.cluster.env, **user.env, "HARNESS_RUN_ID": name}
    running = subprocess.Popen([*command, "--output", "run"], cwd=user.folder, env=env)
    try:
        wait_for(lambda: steps_done(user.folder) > 20, 90, "update")
        user.cluster.run("scancel", *options, "--name", name)
        running.wait(300)
        wait_for(lambda: not left_of(name), 15, "end of its last process")
        assert result_in(user.folder / "run")["status"] == "stopped"
        assert result_in(user.folder / "run")["env_steps"] == whole_checkpoint(user.folder)
    finally:
        running.kill()
