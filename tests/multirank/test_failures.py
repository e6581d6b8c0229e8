"""What goes wrong in one rank ends the run on all of them in seconds, with the reason, and leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.files import read_json, write_json
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.heartbeat import read_beats
from tests.command import harness
from tests.conftest import slow

SOON = 120
"""Seconds: of a machine as slow as any, and far from the 600 after which a run counts as hanging."""

RUN = """
[run]
name = "broken"
steps = 100_000
[env]
id = "tests.environments:Broken-v0"
count = 4
kwargs = {{how = "{how}", rank = {rank}}}
[algorithm]
name = "ppo"
rollout_steps = 32
minibatch_size = 32
"""


def broken(
    how: str, folder: Path, launcher: str = "mpirun", rank: int = 1, ranks: int = 2, settings: str = RUN
) -> dict:
    """Runs it; checks what is true of every failure; returns the result."""
    (folder / "broken.toml").write_text(settings.format(how=how, rank=rank))
    options = ["--ranks", str(ranks), "--launcher", launcher] if ranks > 1 else []
    ran = harness("train", "broken.toml", *options, "--output", "run", cwd=folder)
    assert ran.code == 1, ran.err
    result = read_json(folder / "run" / "result.json")
    assert result["status"] == "failed" and result["reason"] in ran.out + ran.err, ran.out
    assert not left_of("broken-"), "something of the run is left"
    return result


def left_of(run_id: str) -> list[str]:
    """Processes whose run id begins so."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(variable.startswith(f"HARNESS_RUN_ID={run_id}".encode()) for variable in variables):
            found.append(environ.parent.name)
    return found


@pytest.mark.parametrize("launcher", ["horovodrun", slow("horovodrun-gloo"), slow("mpirun")])
def test_an_exception_in_one_rank_is_told_with_its_rank_and_last_lines(launcher: str, tmp_path: Path) -> None:
    result = broken("raise", tmp_path, launcher)
    assert "rank 1" in result["reason"] and "RuntimeError: the environment broke on purpose" in result["reason"]
    assert result["failed_rank"] == 1 and not result["divergence"]
    assert "broke on purpose" in result["last_lines"][-2] and result["last_lines"][-1] == "in environment 2"


@pytest.mark.parametrize("launcher", ["horovodrun-gloo", slow("horovodrun"), slow("mpirun")])
def test_a_rank_that_is_killed_is_told_with_its_signal(launcher: str, tmp_path: Path) -> None:
    result = broken("kill", tmp_path, launcher)
    assert time.time() - killed_at(tmp_path, 1) < SOON
    assert result["failed_rank"] == 1 and f"rank 1 on {os.uname().nodename} was killed by SIGKILL" in result["reason"]


@pytest.mark.slow
def test_rank_0_is_told_as_any_other(tmp_path: Path) -> None:
    result = broken("kill", tmp_path, rank=0)
    assert time.time() - killed_at(tmp_path, 0) < SOON
    assert result["failed_rank"] == 0 and "SIGKILL" in result["reason"]


def killed_at(folder: Path, rank: int) -> float:
    """When a rank gave its last sign of life, which is a second before at most."""
    return read_beats(folder / "run")[rank].time


@pytest.mark.parametrize(("how", "launcher"), [("nan-reward", "mpirun"), slow("nan-observation", "horovodrun-gloo")])
def test_a_number_that_is_none_is_told_of_its_environment_and_step(how: str, launcher: str, tmp_path: Path) -> None:
    result = broken(how, tmp_path, launcher)
    assert not result["divergence"], "no other settings would mend it"
    assert result["reason"].startswith("environment 2 gave nan")
    assert result["reason"].endswith("in its step 10 of this run")
    assert result["failed_rank"] == 1


SCARCE = RUN.replace("Broken", "Scarce").replace("100_000", "4_000") + """
[evaluation]
count = 5
episodes = 4
"""


@pytest.mark.parametrize("how", ["refuse", slow("exit")])
def test_what_comes_of_a_run_is_kept_where_a_rank_refuses_to_go_on_later(how: str, tmp_path: Path) -> None:
    """Another environment cannot be made then, or code in it ends with what is the code of bad input."""
    result = broken(how, tmp_path, settings=SCARCE)
    assert result["failed_rank"] == 1
    assert ("no licence is left" if how == "refuse" else "exit code 2") in result["reason"]
    assert (tmp_path / "run" / "checkpoints" / "latest" / "manifest.json").exists()


def test_what_the_attempt_before_left_is_told_once_and_is_no_reason_of_this_one(tmp_path: Path) -> None:
    left = {"rank": 0, "host": "far", "reason": "it was long ago", "lines": []}
    write_json(tmp_path / "run" / "failure.rank-0.json", left)
    result = broken("raise", tmp_path)
    assert result["failed_rank"] == 1 and "broke on purpose" in result["reason"]
    (attempt,) = (tmp_path / "run" / "attempts.jsonl").read_text().splitlines()
    assert "it was long ago" in attempt


DRIFTS = """
[run]
name = "broken"
steps = 40_000
[env]
id = "CartPole-v1"
count = 4
[algorithm]
name = "ppo"
rollout_steps = 64
minibatch_size = 128
epochs = 1
[network]
class = "tests.networks:Drifting"
kwargs = {{rank = {rank}, after = 5_000}}
[compile]
mode = "off"
[evaluation]
count = 20
episodes = 2
"""


def test_ranks_whose_parameters_differ_leave_no_checkpoint_of_that(tmp_path: Path) -> None:
    result = broken("drift", tmp_path, settings=DRIFTS)
    assert "parameters of rank 1 differ" in result["reason"]
    assert (result["failed_rank"], result["failed_host"]) == (1, os.uname().nodename)
    assert result["env_steps"] < 30_000, "not at the end alone"
    steps = [path.name for path in checkpoint.saved_steps(tmp_path / "run" / "checkpoints")]
    assert steps and max(steps) < checkpoint.name_of(result["env_steps"])


def test_one_rank_alone_that_cannot_go_on_has_failed_and_not_refused_its_input(tmp_path: Path) -> None:
    result = broken("refuse", tmp_path, rank=0, ranks=1, settings=SCARCE)
    assert "no licence is left" in result["reason"]


def test_one_rank_alone_fails_with_its_reason_too(tmp_path: Path) -> None:
    result = broken("raise", tmp_path, rank=0, ranks=1)
    assert "RuntimeError: the environment broke on purpose" in result["reason"]


def test_one_rank_alone_tells_of_its_environment_too(tmp_path: Path) -> None:
    result = broken("nan-reward", tmp_path, rank=0, ranks=1)
    assert not result["divergence"] and "environment 0 gave nan as its reward" in result["reason"]
