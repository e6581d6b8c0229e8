"""Which spaces a policy can act in and see, told before a network is built: without torch, for parents and drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from harness.errors import BadInput

if TYPE_CHECKING:
    from harness.schema import NetworkSettings

Choices = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
SMALLEST = 36
"""Pixels of the smallest height and width that the convolutions can be put to."""


def check_actions(space: spaces.Space, env_id: str, squash: bool = False, gsde: bool = False) -> None:
    """BadInput where a stochastic policy has no head for these actions, or none of the kind that is asked for."""
    if isinstance(space, spaces.Box):
        if squash:
            check_bounds(space, env_id, "algorithm.squash")
        return
    for name, wanted in (("squash", squash), ("gsde", gsde)):
        if wanted:
            raise BadInput(f"algorithm.{name} must be false: env.id = {env_id!r} has {space} actions, no Box")
    if not isinstance(space, Choices):
        may_be = "they may be Discrete, MultiDiscrete, MultiBinary or a Box"
        raise BadInput(f"env.id = {env_id!r} has {space} actions; {may_be}")


def check_discrete(space: spaces.Space, env_id: str, name: str) -> None:
    """BadInput where algorithm `name`, which has a value for each action, has no finite number of them."""
    if not isinstance(space, spaces.Discrete):
        raise BadInput(f"env.id = {env_id!r} has {space} actions; with {name} they must be Discrete")


def check_bounds(space: spaces.Box, env_id: str, setting: str) -> None:
    """BadInput where actions cannot be squashed, because the space has no bounds."""
    if not (space.bounded_below.all() and space.bounded_above.all()):
        raise BadInput(f"env.id = {env_id!r} has actions without bounds; {setting} squashes them to bounds")


def convolves(settings: NetworkSettings, observation_space: spaces.Box) -> bool:
    """Whether the network begins with convolutions; BadInput where `network.kind` asks for them in vain."""
    image = is_image(observation_space)
    if settings.kind == "cnn" and not image:
        raise BadInput(
            f"network.kind = 'cnn' is for images of three dimensions and at least {SMALLEST} x {SMALLEST} pixels, got "
            f"observations of shape {observation_space.shape}; it may be 'auto' or 'mlp'"
        )
    return settings.kind == "cnn" or settings.kind == "auto" and image and observation_space.dtype == np.uint8


def is_image(space: spaces.Box) -> bool:
    return len(space.shape) == 3 and sorted(space.shape)[1] >= SMALLEST
