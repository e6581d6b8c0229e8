"""The shipped batch scripts, and `srun`, on a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest

from tests.cluster.slurm import NODES, SlurmCluster
from tests.cluster.studies import write_study
from tests.conftest import wait_for

SCRIPTS = Path(__file__).parents[2] / "slurm"
SHORT = ("run.steps=2048", "evaluation.count=2", "evaluation.episodes=2", "evaluation.final_episodes=4")


@pytest.fixture
def user(slurm: SlurmCluster, tmp_path: Path) -> SlurmUser:
    return SlurmUser(slurm, tmp_path)


class SlurmUser:
    """Someone with a folder, an environment in its `.venv`, and none of it on the PATH."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        (folder / ".venv").symlink_to(sys.prefix)
        own = str(Path(sys.prefix) / "bin")
        self.env = {"PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)}

    def submit(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """The job's id. Its log is `ID.log`."""
        command = ("sbatch", "--parsable", "--output=%j.log", *arguments)
        return self.cluster.run(*command, cwd=self.folder, env={**self.env, **(env or {})}).stdout.strip()

    def wait(self, job: str, seconds: float = 240) -> int:
        """The exit code of a job that has ended; what ends by a signal has 128 and more, as in a shell."""
        # not CONFIGURING, say, as a job is for a moment after it was submitted
        over = "COMPLETED|FAILED|CANCELLED|TIMEOUT|PREEMPTED|NODE_FAIL|BOOT_FAIL|OUT_OF_MEMORY|DEADLINE"
        ended = re.compile(rf"JobState=(?:{over})\b.*ExitCode=(\d+):(\d+)")
        found: list[re.Match[str]] = []

        def look() -> bool:
            shown = self.cluster.run("scontrol", "show", "job", "-o", job).stdout
            found.extend(ended.finditer(shown))
            return bool(found)

        wait_for(look, seconds, f"end of job {job}", explain=lambda: self.log(job))
        code, signal = map(int, found[0].groups())
        return code or signal and 128 + signal

    def log(self, job: str) -> str:
        path = self.folder / f"{job}.log"
        return path.read_text(errors="replace") if path.exists() else f"job {job} wrote nothing"

    def sbatch(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Submits, and waits until the job has ended well."""
        job = self.submit(*arguments, env=env)
        code = self.wait(job)
        assert code == 0, f"sbatch {' '.join(arguments)} ended with {code}:\n{self.log(job)}"


def result_in(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_the_training_script_trains_over_both_nodes(user: SlurmUser) -> None:
    user.sbatch(str(SCRIPTS / "train.sbatch"), "ppo-cartpole", *SHORT, "--output", "run")

    result = result_in(user.folder / "run")
    assert (result["status"], result["ranks"], sorted(result["hosts"])) == ("done", 2, list(NODES))


def test_the_study_script_runs_trials_over_both_nodes(user: SlurmUser) -> None:
    fixed = [f"trial.overrides.{setting}" for setting in SHORT]
    arguments = ("ppo-cartpole", "study.trials=2", "confirm.seeds=0", *fixed)
    elsewhere = {"HARNESS_VENV": sys.prefix}
    (user.folder / ".venv").unlink()
    user.sbatch(str(SCRIPTS / "study.sbatch"), *arguments, env=elsewhere)

    (study,) = (user.folder / "studies").iterdir()
    results = [result_in(folder) for folder in sorted(study.glob("trial-*/seed-0"))]
    assert [sorted(result["hosts"]) for result in results] == [list(NODES)] * 2
    trials = optuna.load_study(storage=f"sqlite:///{study}/study.db", study_name="ppo-cartpole").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]


def test_two_trials_share_a_node_side_by_side(user: SlurmUser) -> None:
    (user.folder / "study.toml").write_text(SIDE_BY_SIDE.format(python=sys.executable))
    (user.folder / "trial.py").write_text(WAITS_FOR_ITS_NEIGHBOUR)
    user.sbatch("--nodes=1", "--ntasks-per-node=4", str(SCRIPTS / "study.sbatch"), "study.toml")

    trials = [json.loads(line) for line in (user.folder / "met.jsonl").read_text().splitlines()]
    assert sorted(trial["slots"] for trial in trials) == ["n1:0,1/4", "n1:2,3/4"]
    assert all(trial["met"] for trial in trials), "one waited in Slurm's queue for the other's end"


SIDE_BY_SIDE = """
[study]
name = "pair"
trials = 2
sampler = "random"
pruner = "none"

[trial]
command = ["{python}", "trial.py", "{{x}}"]
ranks = 2

[space]
x = {{low = 0.0, high = 1.0}}

[confirm]
seeds = 0
"""

# Each trial leaves a file and waits for the other's: they can meet only if both run at once.
WAITS_FOR_ITS_NEIGHBOUR = """
import json, os, sys, time
from pathlib import Path
from mpi4py import MPI
from harness import reporting

rank, ranks = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
assert ranks == 2
folder = Path(os.environ["HARNESS_TRIAL_DIR"])
here, there = sorted({folder.name, "trial-00000", "trial-00001"}, key=lambda name: name != folder.name)
Path(f"{here}.here").touch()
until = time.monotonic() + 60
while not Path(f"{there}.here").exists() and time.monotonic() < until:
    time.sleep(0.1)
if rank == 0:
    with open("met.jsonl", "a") as out:
        print(json.dumps({"slots": os.environ["HARNESS_SLOTS"], "met": Path(f"{there}.here").exists()}), file=out)
reporting.report(1, float(sys.argv[1]))
"""


def test_srun_itself_starts_the_ranks(user: SlurmUser) -> None:
    command = ("srun", "-N2", ".venv/bin/python", "-m", "harness", "train", "ppo-cartpole", *SHORT, "--output", "run")
    user.cluster.run(*command, cwd=user.folder, env=user.env)

    result = result_in(user.folder / "run")
    assert (result["status"], result["ranks"], sorted(result["hosts"])) == ("done", 2, list(NODES))
    assert result["sync_path"].startswith("horovod")


@pytest.mark.parametrize("script", ["train.sbatch", "study.sbatch"])
def test_a_missing_environment_is_one_line(user: SlurmUser, script: str) -> None:
    (user.folder / ".venv").unlink()
    job = user.submit(str(SCRIPTS / script), "ppo-cartpole")
    assert user.wait(job) == 2
    (line,) = user.log(job).splitlines()
    assert f"no Python environment in {user.folder}/.venv" in line and "HARNESS_VENV" in line


@pytest.mark.slow
def test_a_run_and_a_study_whose_time_is_nearly_up_stop_in_good_order(user: SlurmUser) -> None:
    """Slurm warns two to three minutes before the end of four: by then both jobs, side by side, are under way."""
    run = user.submit(
        *("--time=4", str(SCRIPTS / "train.sbatch"), "ppo-cartpole", "run.steps=1000000000", "compile.mode=off"),
        *("--output", "run"),
    )
    write_study(user.folder, "endless", trials=2, seconds=3000)
    study = user.submit("--time=4", str(SCRIPTS / "study.sbatch"), "endless.toml")

    codes = [user.wait(run), user.wait(study)]
    assert codes == [75, 75], user.log(run) + user.log(study)
    assert result_in(user.folder / "run")["status"] == "stopped"
    assert (user.folder / "run" / "checkpoints" / "latest").exists()
    trials = optuna.load_study(storage=f"sqlite:///{user.folder}/studies/endless/study.db", study_name="endless").trials
    assert trials and "RUNNING" not in [trial.state.name for trial in trials]
