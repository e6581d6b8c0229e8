"""A rank that dies or hangs ends the run within a bounded time, by name; a run that may starts again, and ends well."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness.files import read_json
from harness.lifecycle.heartbeat import read_beats
from tests.conftest import slow, wait_for
from tests.multirank.test_failures import RUN, SOON, broken, left_of
from tests.multirank.test_stop import start, steps_done

SHORT = ["run.steps=40000", "run.name=mortal", "evaluation.count=20", "evaluation.final_episodes=4", "compile.mode=off"]
RANKS = ["--ranks", "2"]


def strike(folder: Path, number: signal.Signals, rank: int = 1) -> float:
    """Signals a rank that is in the middle of training; when that was."""
    wait_for(lambda: steps_done(folder) > 20 and rank in read_beats(folder / "run"), 60, "update")
    os.kill(read_beats(folder / "run")[rank].pid, number)
    return time.monotonic()


@pytest.mark.parametrize("launcher", ["mpirun", slow("horovodrun-gloo")])
def test_a_rank_that_is_stopped_ends_the_run_soon_and_by_name(launcher: str, tmp_path: Path) -> None:
    running = start(tmp_path, *SHORT, "run.steps=5000000", *RANKS, "--launcher", launcher)
    struck = strike(tmp_path, signal.SIGSTOP)
    out, _ = running.communicate(timeout=300)
    assert time.monotonic() - struck < SOON
    assert running.returncode == 1, out
    result = read_json(tmp_path / "run" / "result.json")
    assert result["status"] == "failed" and result["failed_rank"] == 1
    assert f"rank 1 on {os.uname().nodename} was stopped by SIGSTOP" in result["reason"] and result["reason"] in out
    assert not left_of("mortal-")


@pytest.mark.parametrize("number", [signal.SIGKILL, slow(signal.SIGSTOP)])
def test_a_run_that_may_start_again_completes(number: signal.Signals, tmp_path: Path) -> None:
    running = start(tmp_path, *SHORT, "run.max_restarts=1", *RANKS)
    strike(tmp_path, number)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 0, out
    assert f"rank 1 on {os.uname().nodename} was" in out and "starting again from the last checkpoint" in out, out
    assert "steps done" in out, "it started over"
    result = read_json(tmp_path / "run" / "result.json")
    assert result["status"] == "done" and result["env_steps"] == 39_936
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 39_936 // 256, "each update appears once"


@pytest.mark.slow
def test_a_run_that_starts_again_by_itself_has_no_more_time_than_at_first(tmp_path: Path) -> None:
    settings = ["run.steps=500000000", "run.max_restarts=1", "run.max_minutes=1.0"]
    running = start(tmp_path, *SHORT, *settings, *RANKS, "--launcher", "mpirun")
    wait_for(lambda: steps_done(tmp_path) > 0, 60, "update")
    first = [beat.pid for beat in read_beats(tmp_path / "run").values()]
    time.sleep(30)
    strike(tmp_path, signal.SIGKILL)
    wait_for(lambda: [b for b in read_beats(tmp_path / "run").values() if b.pid not in first], 60, "second attempt")
    began = time.monotonic()
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 75 and "starting again" in out and "run.max_minutes is over" in out, out
    assert time.monotonic() - began < 55, "it had a minute of its own"


@pytest.mark.slow
def test_an_environment_that_hangs_is_told_with_where_it_does(tmp_path: Path) -> None:
    result = broken("hang", tmp_path, settings=RUN.replace("[env]", "hang_seconds = 10\n[env]"))
    assert result["failed_rank"] == 1
    assert "hangs: no progress for 10 s, in step (environments.py:" in result["reason"]
