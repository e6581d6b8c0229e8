"""What keeps the newest of all that was ever put into it, in a row of slots for each environment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ring:
    array: np.ndarray
    """(envs, slots, …): number n of an environment, counted from 0 for ever, lies in slot n % slots."""
    first: np.ndarray
    """int64 (envs,): the oldest number that is still needed."""
    end: np.ndarray
    """int64 (envs,): one past the newest."""
