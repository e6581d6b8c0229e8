"""Numbers of environments that are none, found before anything is learned from them."""

from __future__ import annotations

import numpy as np


def is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.logical_and.reduce(np.isfinite(array), axis=None))


def fault_in_observation(observations: np.ndarray, first: int, step: int) -> str | None:
    """The first of `observations` (envs, …) with a number in it that is not finite, in words. `first`: the global index
    of the first environment; `step`: of its steps in this run the one that gave it, counted from 1."""
    bad = np.argwhere(~np.isfinite(observations))
    if not len(bad):
        return None
    env, *place = bad[0].tolist()
    where = f"[{', '.join(map(str, place))}]" if place else ""
    return f"environment {first + env} gave {observations[tuple(bad[0])]} in its observation{where} {at(step)}"


def fault_in_reward(rewards: np.ndarray, first: int, step: int) -> str | None:
    """Of `rewards` (steps, envs), the first of which the environments gave in their step number `step`."""
    bad = np.argwhere(~np.isfinite(rewards))
    if not len(bad):
        return None
    after, env = bad[0].tolist()
    return f"environment {first + env} gave {rewards[after, env]} as its reward {at(step + after)}"


def at(step: int) -> str:
    return f"in its step {step} of this run" if step else "at its first reset"
