"""Elastic ranks: what is lost is done without, what returns is taken in, and the run's counters stay right."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cluster.handshake import Handshake
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.files import read_json
from harness.lifecycle.elastic import RanksChange
from harness.lifecycle.heartbeat import read_beats
from harness.lifecycle.result import Result
from harness.run import train as of_runs
from harness.run.attempt import Attempt
from harness.schema import RunConfig
from tests import checkpoints
from tests.command import harness
from tests.conftest import wait_for
from tests.multirank.test_failures import RUN, left_of
from tests.multirank.test_stop import start, steps_done

FAST = ["run.name=elastic", "compile.mode=off", "evaluation.episodes=10"]


def lines_of(folder: Path) -> list[dict]:
    path = folder / "run" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def ranks_of(folder: Path) -> list[int]:
    """Their numbers in turn."""
    return [key for key, _ in groupby(line["ranks"] for line in lines_of(folder))]


def written(result: dict, lines: list[dict]) -> bool:
    """Whether all updates have their line, but for one whose evaluation the request to stop has cut."""
    return result["env_steps"] in (lines[-1]["env_steps"], lines[-1]["env_steps"] + 256)


def learned(folder: Path) -> bool:
    """Whether an evaluation reached CartPole's threshold after the killed rank's place was filled again."""
    last = [line for line in lines_of(folder)[-200:] if line["ranks"] == 2]
    return ranks_of(folder)[-3:] == [2, 1, 2] and any(line.get("eval_return_mean", 0) >= 475 for line in last)


@pytest.mark.slow
def test_training_goes_on_with_one_rank_returns_to_two_and_learns(tmp_path: Path) -> None:
    running = start(tmp_path, *FAST, "--elastic", "1:2")
    wait_for(lambda: steps_done(tmp_path) > 20, 60, "update")
    os.kill(read_beats(tmp_path / "run")[1].pid, signal.SIGKILL)
    wait_for(lambda: learned(tmp_path), 120, "evaluation at the threshold", lambda: str(lines_of(tmp_path)[-3:]))
    os.kill(running.pid, signal.SIGTERM)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 75, out
    result, lines = read_json(tmp_path / "run" / "result.json"), lines_of(tmp_path)
    assert [line["update"] for line in lines] == list(range(1, len(lines) + 1)), "each update appears once"
    assert [line["env_steps"] for line in lines] == [256 * line["update"] for line in lines]
    assert result["ranks"] == 2 and written(result, lines)
    assert not left_of("elastic-")


def test_what_the_first_ranks_decided_is_kept_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a measurement on other ranks would say, the next attempt is not asked."""
    place = SimpleNamespace(rank=0, size=1, launcher="gloo")
    world: Any = SimpleNamespace(place=place, communicator=Alone(), device=SimpleNamespace(type="cpu"))
    found: list[RunConfig] = []

    def go(attempt: Attempt) -> Result:
        config, run_dir = attempt.config, attempt.run_dir
        found.append(config)
        if len(found) > 1:
            return Result("done")
        assert config.env is not None
        env = config.env.model_copy(update={"backend": "workers", "double_buffer": "on"})
        compiled = config.compile.model_copy(update={"mode": "on", "products": "onednn"})
        (run_dir / "config.toml").write_text(config.model_copy(update={"env": env, "compile": compiled}).to_toml())
        checkpoints.save(run_dir / "checkpoints", 1, {}, {})
        raise RanksChange

    def keep_going(try_on: Callable[[Any, Any], Result]) -> Result:
        with pytest.raises(RanksChange):
            try_on(world, None)
        return try_on(world, None)

    monkeypatch.setattr(of_runs, "go", go)
    monkeypatch.setattr(of_runs, "keep_going", keep_going)
    of_runs.train_elastic(load_run_config("sac-pendulum", []), tmp_path, "never", Handshake())
    decided = [
        (each.env.backend, each.env.double_buffer, each.compile.mode, each.compile.products)
        for each in found
        if each.env
    ]
    assert decided == [("auto", "auto", "auto", "auto"), ("workers", "on", "on", "onednn")]


def test_rank_0_too_is_done_without_and_its_place_is_filled_again(tmp_path: Path) -> None:
    """It holds the directory's lock, its metrics and the manifest of a save in flight."""
    running = start(tmp_path, *FAST, "--elastic", "1:2")
    wait_for(lambda: steps_done(tmp_path) > 20, 60, "update")
    os.kill(read_beats(tmp_path / "run")[0].pid, signal.SIGKILL)
    wait_for(lambda: ranks_of(tmp_path)[-3:] == [2, 1, 2], 90, "return", lambda: str(lines_of(tmp_path)[-3:]))
    os.kill(running.pid, signal.SIGTERM)
    out, _ = running.communicate(timeout=300)
    lines = lines_of(tmp_path)
    assert running.returncode == 75, out
    assert [line["update"] for line in lines] == list(range(1, len(lines) + 1)), "each update appears once"
    assert written(read_json(tmp_path / "run" / "result.json"), lines)
    assert not left_of("elastic-")


@pytest.mark.slow
def test_an_error_that_would_come_again_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text(RUN.format(how="raise", rank=1))
    ran = harness("train", "broken.toml", "--elastic", "1:2", "--output", "run", cwd=tmp_path)
    assert ran.code == 1 and "rank 1" in ran.out and "the environment broke on purpose" in ran.out, ran.out + ran.err
    assert not left_of("broken-")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--elastic", "2"], "--elastic must be MIN:MAX"),
        (["--elastic", "3:2"], "--elastic must be MIN:MAX"),
        (["--elastic", "1:2", "--ranks", "2"], "in place of --ranks"),
        (["--elastic", "1:9"], "env.count must be at least the number of ranks, 9"),
    ],
)
def test_what_cannot_be_elastic_is_refused_in_a_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    ran = harness("train", "ppo-cartpole", *arguments, cwd=tmp_path)
    assert ran.code == 2 and says in ran.err and len(ran.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
