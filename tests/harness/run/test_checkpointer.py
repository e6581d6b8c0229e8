"""When a run saves: training does not wait for the disk, nor end with it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.algorithms import Algorithm, Evaluation
from harness.algorithms.base import Context, Iteration
from harness.config import load_run_config
from harness.distributed.mesh import mesh_on_one_channel
from harness.distributed.sync.allreduce import AllReduce
from harness.distributed.transports.base import Alone
from harness.lifecycle.checkpoints import checkpoint
from harness.reporting.metrics import MetricsWriter
from harness.run.checkpointer import Checkpointer
from tests.multirank.stopped_run import go


class Still(Algorithm):
    """Learns nothing."""

    def __init__(self, context: Context | None = None) -> None:
        pass

    def iterate(self, iteration: int) -> Iteration:
        raise NotImplementedError

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"weight": torch.ones(1)}

    def load_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


def test_a_save_that_is_due_waits_for_the_one_before_unless_it_is_of_the_best(tmp_path: Path) -> None:
    go_on, lines = threading.Event(), list[str]()
    config = load_run_config("ppo-cartpole", [])
    lone = Alone(), AllReduce(mesh_on_one_channel(Alone()))
    checkpointer = Checkpointer(config, tmp_path, Still(), None, *lone, lines.append, lambda: go_on.wait(10) and None)
    checkpointer.save(1, 100, {"iteration": 1})
    checkpointer.due = True
    checkpointer.on_agreement(checkpointer.agenda())
    assert not checkpointer.ready, "it would wait for the disk"
    checkpointer.best = True
    assert checkpointer.ready, "the policy that was evaluated is to be kept, not one of later"
    checkpointer.best = False
    go_on.set()
    assert checkpointer.saver.thread is not None
    checkpointer.saver.thread.join()
    checkpointer.on_agreement(checkpointer.agenda())
    assert checkpointer.ready
    checkpointer.save(3, 300, {"iteration": 3})
    assert not checkpointer.due and checkpointer.settle() is None and not lines
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == ["step-000000100", "step-000000300"]


def fails_once() -> Callable[..., None]:
    left = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def settle_files(*_: Any) -> None:
        if left:
            raise left.pop()

    return settle_files


def test_a_boundary_whose_save_failed_is_saved_when_asked_again(tmp_path: Path) -> None:
    lines = list[str]()
    config, lone = load_run_config("ppo-cartpole", []), (Alone(), AllReduce(mesh_on_one_channel(Alone())))
    checkpointer = Checkpointer(config, tmp_path, Still(), None, *lone, lines.append, fails_once())
    checkpointer.save(1, 100, {"iteration": 1})
    assert checkpointer.settle() == "no checkpoint of 100 steps: No space left on device" == lines[-1]
    checkpointer.save(1, 100, {"iteration": 1})
    assert checkpointer.settle() is None
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == ["step-000000100"]


def test_a_run_that_stops_while_a_save_fails_tries_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation of the boundary at which it stops has begun that save."""
    monkeypatch.setattr(MetricsWriter, "sync", fails_once())
    settings = ["ppo-cartpole", "run.steps=5120", "evaluation.count=20", "evaluation.episodes=1", "compile.mode=off"]
    ended = go(str(tmp_path), settings, stop_after=1)
    assert (ended["status"], ended["reason"]) == ("stopped", "stop requested (SIGTERM)")
    assert len(checkpoint.saved_steps(tmp_path / "checkpoints")) == 1


def test_a_damaged_segment_that_all_checkpoints_name_costs_the_replay_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["dqn-cartpole", "env.count=2", "run.steps=3000", "evaluation.count=6", "evaluation.episodes=1"]
    settings += ["evaluation.final_episodes=1", "compile.mode=off", "network.hidden=[32]", "algorithm.train_freq=8"]
    settings += ["algorithm.gradient_steps=1", "algorithm.learning_starts=100"]
    half = go(str(tmp_path), settings, stop_after=5)
    oldest = min((tmp_path / "checkpoints" / "replay").glob("*/*"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(oldest.read_bytes())
    data[len(data) // 2] ^= 1
    oldest.write_bytes(data)
    before = (tmp_path / "metrics.jsonl").read_text()
    ended = go(str(tmp_path), settings)
    out = capsys.readouterr().out
    assert "all that is taken of it" in out and "the replay is empty" in out, out
    assert ended["status"] == "done" and ended["iterations"] > half["iterations"] == 5
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    assert checkpoint.load(tmp_path / "checkpoints" / "latest") is not None
