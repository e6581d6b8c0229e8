"""Environments of tests of evaluations, `env.id = "tests.evaluated:EvaluatedName-v0"`; workers import no torch."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np

from tests.environments import Line


class Forever(Line):
    """As Line, without an end; the process gets SIGTERM at step `at` of an episode."""

    def __init__(self, at: int = 500) -> None:
        self.at = at

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, _, _, info = super().step(action)
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return observation, reward, False, False, info


class Lone(Line):
    """As Line, of which a process may have so many open; what it holds cannot be stored."""

    open_now, most = 0, 2

    def __init__(self) -> None:
        if Lone.open_now >= Lone.most:
            raise RuntimeError("worker number 0 is still in use")
        Lone.open_now += 1
        self.line = threading.Lock()

    def close(self) -> None:
        Lone.open_now -= 1


class Told(Line):
    """As Line; its last info tells whether the last step went right."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"is_success": bool(action)} if terminated else {}


class Leaving(Line):
    """As Line; its tenth step in a process ends it, with a code that means that all is well."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.steps == 10:
            raise SystemExit(0)
        return super().step(action)


class SlowToMake(Line):
    """As Line; the process gets SIGTERM while the third is made, which takes for ever."""

    made = 0

    def __init__(self) -> None:
        SlowToMake.made += 1
        if SlowToMake.made == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)


for each in (Forever, Lone, Told, Leaving, SlowToMake):
    gym.register(f"Evaluated{each.__name__}-v0", each)
