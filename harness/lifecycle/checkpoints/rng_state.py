"""The random generators that a process has for all: Python's, numpy's and torch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from harness.lifecycle.checkpoints.serialization import as_arrays


def generators_state() -> dict[str, Any]:
    """Their states. Nothing here draws from them; users' networks and environments may."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "devices": devices,
    }


def load_generators(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(as_arrays(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["devices"] and torch.cuda.device_count() == len(state["devices"]):
        torch.cuda.set_rng_state_all(state["devices"])
