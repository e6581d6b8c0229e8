"""When a run saves: training does not wait for the disk."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from harness.algorithms import Algorithm, Evaluation
from harness.algorithms.base import Context, Iteration
from harness.config import load_run_config
from harness.distributed.collectives import Alone
from harness.keeping import Keeping
from harness.lifecycle import checkpoint


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
    go_on, told = threading.Event(), list[str]()
    config = load_run_config("ppo-cartpole", [])
    keeping = Keeping(config, tmp_path, Still(), None, Alone(), told.append, lambda: go_on.wait(10) and None)
    keeping.save(1, 100, {"iteration": 1})
    keeping.due = True
    keeping.hear(keeping.words())
    assert not keeping.ready, "it would wait for the disk"
    keeping.best = True
    assert keeping.ready, "the policy that was evaluated is to be kept, not one of later"
    keeping.best = False
    go_on.set()
    assert keeping.saver.thread is not None
    keeping.saver.thread.join()
    keeping.hear(keeping.words())
    assert keeping.ready
    keeping.save(3, 300, {"iteration": 3})
    assert not keeping.due and keeping.settle() is None and not told
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == ["step-000000100", "step-000000300"]
