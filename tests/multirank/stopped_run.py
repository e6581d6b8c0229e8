"""A run that stops after some iterations, or dies, and what it is at its end: for tests of resuming.

In a rank: the argument is, as JSON, what `go` takes for each of several runs, made one after the other; their outcomes
are handed to the test.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch

from harness.config import load_run_config
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.checkpoints.serialization import as_tensors
from harness.lifecycle.result import Result
from harness.run.loop import Run
from harness.run.train import train

STOP, KILL, KILL_IN_SAVE = "SIGTERM", "SIGKILL", "SIGKILL, in the save that follows"


class Careless(gym.Env):
    """Draws from the generators that Python, numpy and torch have for the whole process; `seed` makes no difference."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return self.look(), {}

    def look(self) -> np.ndarray:
        return np.array([random.random(), np.random.normal(), torch.rand(())], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        seen = self.look()
        return seen, float(seen.sum()) * float(action), self.steps >= 15, False, {}


gym.register("Careless-v0", Careless)


def go(run_dir: str, settings: list[str], stop_after: int = 0, how: str = STOP, sync_path: str = "auto") -> Any:
    """Trains by a preset and overrides; after `stop_after` iterations (0: never) the process sends itself the signal
    `how`; or KILL while it writes the checkpoint that follows, all but its manifest. Returns how the run ended, and
    everything that it would resume from."""
    preset, *overrides = settings
    runs: list[Run] = []
    begin, iterate, in_place = Run.go, Run.iterate, checkpoint.put_in_place

    def remembered(self: Run) -> Result:
        runs.append(self)
        return begin(self)

    def stopped(self: Run) -> dict[str, float]:
        metrics = iterate(self)
        if stop_after and self.counters.iteration == stop_after and how != KILL_IN_SAVE:
            if self.checkpointer is not None and how == KILL:
                self.checkpointer.close()  # so that it is known which checkpoint the run resumes from
            os.kill(os.getpid(), signal.Signals[how])
        return metrics

    def put_in_place(*arguments: Any) -> Path:
        if how == KILL_IN_SAVE and runs[0].counters.iteration >= stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return in_place(*arguments)

    patches = (Run, "go", remembered), (Run, "iterate", stopped), (checkpoint, "put_in_place", put_in_place)
    with ExitStack() as patched:
        for each in patches:
            patched.enter_context(patch.object(*each))
        result = train(load_run_config(preset, [f"sync.path={sync_path}", *overrides]), Path(run_dir))
    ended: dict[str, Any] = {"status": result.status, "reason": result.reason, "value": result.value}
    if runs:
        algorithm = runs[0].algorithm
        rings = {name: in_order(ring) for name, ring in algorithm.rings().items()}
        ended |= {"state": as_tensors(algorithm.state()), "own": as_tensors(algorithm.local_state()), "rings": rings}
        ended |= {"iterations": runs[0].counters.iteration, "compiled": algorithm.compiled is not None}
    return ended


def in_order(ring: Any) -> list[Any]:
    """What it holds of each environment, the oldest first."""
    slots = ring.array.shape[1]
    starts = np.maximum(np.maximum(ring.first, ring.end - slots), 0)
    places = [np.arange(low, high) % slots for low, high in zip(starts, ring.end)]
    return [as_tensors(ring.array[env, rows]) for env, rows in enumerate(places)]


if __name__ == "__main__":
    from tests.multirank.launch import SYNC_PATH, give

    give([go(**each, sync_path=os.environ[SYNC_PATH]) for each in json.loads(sys.argv[1])])
