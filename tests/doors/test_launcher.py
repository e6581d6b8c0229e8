"""A launcher of a user's own, in a file beside the study and named by `module:Class`: docs/extending.md shows it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.command import harness
from tests.search.conftest import SCRIPT, Workplace, workplace

__all__ = ["workplace"]
NAME = "mine:Subprocesses"


@pytest.fixture
def place(workplace: Workplace) -> Workplace:  # noqa: F811
    shutil.copy(Path(__file__).with_name("subprocess_launcher.py"), workplace.path / "mine.py")
    (workplace.path / "train.py").write_text(SCRIPT.replace("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK"))
    return workplace


def test_it_starts_the_ranks_of_trials_and_a_rank_that_died_is_named(place: Workplace) -> None:
    place.plan(t1={"kill_at": 2})

    ran = place.search("run", "study.toml", "study.trials=2", f"trial.launcher={NAME}")

    assert ran.returncode == 0, ran.stderr
    done, killed = place.trials()
    assert (done.value, len(place.started(0))) == (4 * done.params["x"], 2)
    assert killed.user_attrs["reason"] == f"rank 1 on {os.uname().nodename} was killed by SIGKILL"
    assert f"2 trials of 2 ranks by {NAME} on 2 slots" in ran.stdout
    job = json.loads((place.path / "studies/s/trial-00001/job.json").read_text())
    assert job["seeds"]["0"]["job"]["launcher"] == NAME


def test_it_starts_the_ranks_of_a_run(place: Workplace) -> None:
    run = ("run.steps=2048", "evaluation.count=1", "evaluation.final_episodes=1", "compile.mode=off", "--output", "run")
    ran = harness("train", "ppo-cartpole", *run, "--ranks", "2", "--launcher", NAME, cwd=place.path)

    assert ran.code == 0, ran.err
    result = json.loads((place.path / "run/result.json").read_text())
    assert (result["status"], result["ranks"]) == ("done", 2)


@pytest.mark.parametrize("name, says", [("mine:Nothing", "has no 'Nothing'"), ("mine:main", "derives from")])
def test_what_is_no_launcher_is_refused_in_a_line(place: Workplace, name: str, says: str) -> None:
    refused = place.search("run", "study.toml", f"trial.launcher={name}")
    assert refused.returncode == 2 and says in refused.stderr and refused.stderr.count("\n") == 1
