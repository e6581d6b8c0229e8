"""How weights begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from harness.models.action_heads import ACTIVATIONS

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal_(layer: Layer, gain: float) -> Layer:
    """Orthogonal weights (Saxe et al. 2014), no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def layers(inputs: int, widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear layers, initialised as torch does, each with its activation."""
    made: list[nn.Module] = []
    for width in widths:
        made += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return made
