"""What a loss is made of, by which its compiled code is found on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch


class Recorded:
    """Settings that note which of them are read."""

    def __init__(self, settings: Any) -> None:
        self._settings, self._read = settings, dict[str, str]()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        self._read[name] = repr(value)
        return value


@torch.no_grad()
def describe_loss(
    algorithm: Any,
    loss: Callable[[dict[str, torch.Tensor]], Any],
    data: dict[str, torch.Tensor],
    numbers: Sequence[str],
) -> dict[str, Any] | None:
    """The method, its spaces, the network, every switch, and every setting that the loss reads while it is made for one
    row of `data`: what is read is a constant in its code. None for a network or a method of the user's, whose code is
    not ours."""
    if algorithm.config.network.class_ is not None or not type(algorithm).__module__.startswith("harness."):
        return None
    batch = {name: values[:1] for name, values in data.items()}
    batch |= {name: torch.ones((), device=next(iter(batch.values())).device) for name in numbers}
    kept = algorithm.settings
    recorded = algorithm.settings = Recorded(kept)
    try:
        loss(batch)
    finally:
        algorithm.settings = kept
    method = f"{type(algorithm).__qualname__}.{loss.__name__}"
    # copies: a space keeps what it has once said of itself, and is part of the environments' state
    spaces = copy.deepcopy([algorithm.envs.observation_space, algorithm.envs.action_space])
    return {
        "loss": method,
        "module": str(algorithm.module),
        "network": algorithm.config.network.model_dump(),
        "spaces": [repr(space) for space in spaces],
        "switches": {name: value for name, value in kept.model_dump().items() if isinstance(value, (bool, str))},
        "settings": recorded._read,
    }
