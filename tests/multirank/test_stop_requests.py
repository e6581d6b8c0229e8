"""The table of docs/launching.md: what each launcher makes of each signal, to it alone and to its group.

Whatever was sent: 15 s later no process with the run's id is left, and the newest checkpoint is whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.files import read_json, write_json
from harness.lifecycle.heartbeat import read_beats
from tests.checkpoints import load_newest
from tests.command import environment, harness
from tests.conftest import need, slow, wait_for
from tests.multirank.test_failures import left_of
from tests.multirank.test_stop import LONG, start, steps_done

pytestmark = pytest.mark.fresh_start  # whose signals they are depends on whose children the ranks are
BIN = Path(sys.executable).parent
BARE = {
    "mpirun": ["mpirun", "--bind-to", "none", "-np", "2"],
    "horovodrun": ["horovodrun", "--mpi", "-np", "2", "-H", "localhost:2"],
    "horovodrun-gloo": ["horovodrun", "--gloo", "-np", "2", "-H", "localhost:2"],
}
TERM, INT, USR2, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGKILL
STOPPED, EITHER, ENDED = ("stopped",), ("stopped", None), (None,)
"""`result.json`'s status: a checkpoint was written; it is written where it takes less than a second; it is not."""


def status(folder: Path) -> str | None:
    return (read_json(folder / "run" / "result.json") or {}).get("status")


def end_of(folder: Path, run_id: str, struck: float) -> None:
    """What is true after every request, 15 s later on an idle machine."""
    while left_of(run_id) and time.monotonic() < struck + 60:
        time.sleep(0.05)
    assert not left_of(run_id), "a minute later something of the run is left"
    found, damaged = load_newest(folder / "run" / "checkpoints")
    assert found is not None and not damaged
    if status(folder) == "stopped":
        assert found.progress["env_steps"] == read_json(folder / "run" / "result.json")["env_steps"]


def bare(launcher: str, run_id: str, folder: Path, *settings: str) -> subprocess.Popen[bytes]:
    """Two ranks below a launcher that no parent of ours has started; they print into `log`."""
    need((BIN / "mpirun").exists(), "Open MPI is the system's: make install MPI=pypi")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OPAL_PREFIX": sys.prefix}
    env = environment({**as_root, "HARNESS_RUN_ID": run_id, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"})
    train = [sys.executable, "-m", "harness", "train", *LONG, "compile.mode=off", *settings, "--output", "run"]
    with (folder / "log").open("w") as log:
        command = [*BARE[launcher], *train]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.parametrize(
    ("launcher", "number", "to_group", "statuses"),
    [
        slow("mpirun", TERM, False, EITHER),
        slow("mpirun", INT, True, EITHER),
        slow("mpirun", USR2, False, STOPPED),
        slow("mpirun", KILL, False, ENDED),
        ("horovodrun", TERM, False, STOPPED),
        slow("horovodrun", INT, True, EITHER),
        slow("horovodrun", USR2, True, STOPPED),
        slow("horovodrun", KILL, False, STOPPED),
        slow("horovodrun-gloo", TERM, False, EITHER),
        slow("horovodrun-gloo", INT, True, EITHER),
        slow("horovodrun-gloo", USR2, False, EITHER),
        slow("horovodrun-gloo", KILL, False, ENDED),
    ],
)
def test_a_bare_launcher(
    launcher: str, number: signal.Signals, to_group: bool, statuses: tuple[str | None, ...], tmp_path: Path
) -> None:
    run_id = f"bare-{launcher}-{number.name}-{os.getpid()}"
    running = bare(launcher, run_id, tmp_path)
    try:
        wait_for(lambda: steps_done(tmp_path) > 40, 90, "update", (tmp_path / "log").read_text)
        struck = time.monotonic()
        (os.killpg if to_group else os.kill)(running.pid, number)
        running.wait(300)
        end_of(tmp_path, run_id, struck)
        assert status(tmp_path) in statuses, (tmp_path / "log").read_text()[-2000:]
    finally:
        for pid in left_of(run_id):
            os.kill(int(pid), KILL)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "rank"), [("mpirun", 0), ("horovodrun-gloo", 1)])
def test_a_rank_that_is_stopped_ends_the_run_under_a_bare_launcher_and_the_next_start_tells_it(
    launcher: str, rank: int, tmp_path: Path
) -> None:
    run_id = f"bare-stopped-{os.getpid()}"
    running = bare(launcher, run_id, tmp_path, "run.hang_seconds=10")
    try:
        wait_for(lambda: steps_done(tmp_path) > 40 and len(read_beats(tmp_path / "run")) == 2, 90, "update")
        time.sleep(2)  # each has seen the other
        struck = time.monotonic()
        os.kill(read_beats(tmp_path / "run")[rank].pid, signal.SIGSTOP)
        assert running.wait(300) != 0, "it went on"
        end_of(tmp_path, run_id, struck + 25)
    finally:
        for pid in left_of(run_id):
            os.kill(int(pid), KILL)
    again = harness("train", *LONG, "run.max_minutes=0.01", "--output", "run", cwd=tmp_path)
    line = f"rank {rank} on {os.uname().nodename} failed: was stopped by SIGSTOP: no sign of life for 10 s"
    assert again.code == 75 and line in again.err


@pytest.mark.slow
def test_the_next_start_tells_how_ranks_ended_that_could_not(tmp_path: Path) -> None:
    (tmp_path / "run" / "heartbeats").mkdir(parents=True)
    beat = {"rank": 1, "host": "far", "pid": 1, "number": 9, "progress": 3, "waits": False, "where": "step (a.py:7)"}
    write_json(tmp_path / "run" / "heartbeats" / "rank-1.json", {**beat, "time": time.time()})
    short = ["run.steps=2048", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    ran = harness("train", "ppo-cartpole", *short, "--output", "run", cwd=tmp_path)
    assert ran.code == 0 and "ended without a result" in ran.err and "rank 1 on far at " in ran.err, ran.err
    assert "in step (a.py:7)" in (tmp_path / "run" / "attempts.jsonl").read_text()
    again = harness("train", "ppo-cartpole", *short, "--output", "run", cwd=tmp_path)
    assert again.code == 0 and "without a result" not in again.err


@pytest.mark.parametrize(
    ("launcher", "number", "to_group"),
    [("mpirun", USR2, False), ("horovodrun", TERM, True), slow("horovodrun-gloo", TERM, True)],
)
def test_the_parent_passes_on_what_it_or_its_group_is_sent(
    launcher: str, number: signal.Signals, to_group: bool, tmp_path: Path
) -> None:
    running = start(tmp_path, "run.name=asked", "--ranks", "2", "--launcher", launcher, session=True)
    wait_for(lambda: steps_done(tmp_path) > 20, 60, "update")
    struck = time.monotonic()
    (os.killpg if to_group else os.kill)(running.pid, number)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 75 and status(tmp_path) == "stopped", out
    assert "did not stop within" not in out
    end_of(tmp_path, "asked-", struck)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "hang.toml").write_text(HANGS)
    command = [sys.executable, "-m", "harness", "train", "hang.toml", "--ranks", "2", "--output", "run"]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: steps_done(tmp_path) >= 3, 60, "the last rollout before it hangs")
    time.sleep(1.0)
    os.kill(running.pid, INT)
    time.sleep(1.0)
    assert running.poll() is None, "a rank that hangs cannot stop at a boundary"
    os.kill(running.pid, INT)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 1 and "did not stop within" not in out
    assert "ended after SIGINT" in out and not left_of("impatient-")


@pytest.mark.slow
def test_ranks_that_do_not_stop_have_the_seconds_that_the_settings_give_them(tmp_path: Path) -> None:
    (tmp_path / "hang.toml").write_text(HANGS)
    command = [sys.executable, "-m", "harness", "train", "hang.toml", "run.stop_seconds=3", "--ranks", "2"]
    running = subprocess.Popen(
        [*command, "--output", "run"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: steps_done(tmp_path) >= 3, 60, "the last rollout before it hangs")
    time.sleep(1.0)
    os.kill(running.pid, TERM)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "did not stop within 3 s" in out and "ended after SIGTERM" in out and not left_of("impatient-")


HANGS = """
[run]
name = "impatient"
steps = 100_000
[env]
id = "tests.environments:Broken-v0"
count = 4
kwargs = { how = "hang", at = 14 }
[algorithm]
name = "ppo"
rollout_steps = 4
minibatch_size = 16
[evaluation]
count = 1
"""
