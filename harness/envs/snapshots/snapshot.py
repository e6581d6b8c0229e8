"""An environment's state, taken out of it and put back, so that its next steps are those that it would have
made.

Each layer of an environment, from its outermost wrapper inward, gives its own part. A layer that offers `get_state()`
and `set_state(state)` says itself what that is. Of any other it is all that its attributes hold, where that is
understood to the last of them: numbers, arrays, enumerations, containers of these, random generators, the emulator of
Atari games, the physics of MuJoCo. What cannot be stored but told apart (functions, classes, spaces) must be what a
reset leaves. What is large and a reset leaves as it was (a table of prices, a map) is told apart too, and not stored.
Where it is not understood (Box2D's worlds, handles of other libraries) there is no state to be had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from harness.envs.snapshots.encoding import Around, Environment, decoded, encoded
from harness.envs.snapshots.fingerprint import NotUnderstood
from harness.envs.snapshots.large_values import fingerprints_in

NOT_OWN = {"env", "_saved_kwargs", "_cached_spec", "_metadata", "_ezpickle_args", "_ezpickle_kwargs"}
"""Attributes that hold what is inside a wrapper, or how it was made."""


class Snapshots:
    """The states of environments that lie in one process, without what their resets leave as it was: a table that all
    of them look into, say."""

    def __init__(self) -> None:
        self.unchanged: list[frozenset[str]] | None = None
        """Of each environment: fingerprints of what is large, and its first reset has not changed."""

    @contextmanager
    def resetting(self, envs: Sequence[Environment]) -> Iterator[None]:
        """While they are reset; only the first time counts."""
        if self.unchanged is not None:
            yield
            return
        before = fingerprints(envs)
        yield
        self.unchanged = [one & other for one, other in zip(before, fingerprints(envs))]

    def take(self, envs: Sequence[Environment]) -> list[list[Any] | None]:
        """The state of each."""
        known: dict[int, tuple[Any, str | None]] = {}
        unchanged = self.unchanged or [frozenset[str]()] * len(envs)
        return [state_of(env, same, known) for env, same in zip(envs, unchanged)]


def state_of(
    env: Environment,
    unchanged: frozenset[str] = frozenset(),
    known: dict[int, tuple[Any, str | None]] | None = None,
) -> list[Any] | None:
    """The state of each layer, the outermost first, as plain values, lists, dicts and arrays of its own; None
    where it cannot be had. `unchanged`, `known`: as `Around` has them."""
    each, met = layers(env), dict[int, Any]()
    own = met, unchanged, {} if known is None else known
    try:
        taken = [layer_state(layer, Around(each, constants_of(layer), *own)) for layer in each]
    except (NotUnderstood, RecursionError, ValueError):  # ValueError: a function closes over what is not there yet
        return None
    places = sorted(place_of(array) for array in found(taken) if array.size)
    if any(low < end for (_, end), (low, _) in zip(places, places[1:])):
        return None  # one is a view of another: put back, they would part
    return copied(taken)


def place_of(array: np.ndarray) -> tuple[int, int]:
    """The memory that it spans: its first byte, and one past its last."""
    reaches = [(size - 1) * stride for size, stride in zip(array.shape, array.strides)]
    start = array.__array_interface__["data"][0]
    return start + sum(min(reach, 0) for reach in reaches), start + sum(max(r, 0) for r in reaches) + array.itemsize


def put_back(env: Environment, state: list[Any]) -> bool:
    """Puts back what `state_of` gave, after a reset of `env`. False, with `env` as the reset left it or between both,
    where it does not fit: reset it again."""
    each = layers(env)
    if len(each) != len(state):
        return False
    try:
        for layer, own in zip(each, state):
            if own["class"] != type(layer).__qualname__:
                return False
            put_layer(layer, own, Around(each, constants_of(layer)))
    except (NotUnderstood, RecursionError, AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def fingerprints(envs: Sequence[Environment]) -> list[frozenset[str]]:
    """Of all that is large in each environment."""
    known: dict[int, tuple[Any, str | None]] = {}
    found = []
    for env in envs:
        attributes = [vars(layer) for layer in layers(env) if hasattr(layer, "__dict__")]
        values = [value for each in attributes for name, value in each.items() if name not in NOT_OWN]
        found.append(frozenset(each for value in values for each in fingerprints_in(value, known)))
    return found


def layers(env: Environment) -> list[Environment]:
    """The wrappers from the outermost inward, then the environment itself."""
    found = [env]
    while isinstance(found[-1], (gym.Wrapper, gym.vector.VectorWrapper)):
        found.append(found[-1].env)
    return found


def speaks_for_itself(layer: Environment) -> bool:
    return all(callable(getattr(type(layer), name, None)) for name in ("get_state", "set_state"))


def layer_state(layer: Environment, around: Around) -> dict[str, Any]:
    own: dict[str, Any] = {"class": type(layer).__qualname__}
    if speaks_for_itself(layer):
        own["state"] = encoded(cast(Any, layer).get_state(), around)
    own["holds"] = {name: encoded(value, around) for name, value in attributes_of(layer).items()}
    return own


def put_layer(layer: Environment, own: dict[str, Any], around: Around) -> None:
    present = attributes_of(layer)
    for name in present.keys() - own["holds"].keys():
        delattr(layer, name)
    for name, value in own["holds"].items():
        setattr(layer, name, decoded(value, present.get(name), around))
    if "state" in own:
        cast(Any, layer).set_state(decoded(own["state"], None, around))


def attributes_of(layer: Environment) -> dict[str, Any]:
    """Those that are state, but for what a layer that speaks for itself says of them."""
    try:
        own = {name: value for name, value in vars(layer).items() if name not in NOT_OWN}
    except TypeError:
        raise NotUnderstood(f"{type(layer).__name__} has no __dict__") from None
    return {name: own[name] for name in own.keys() & {"_np_random"}} if speaks_for_itself(layer) else own


def constants_of(layer: Environment) -> tuple[type, ...]:
    """Types whose values do not change in this layer."""
    if not type(layer).__module__.startswith("gymnasium.envs.mujoco."):  # others may change their model as they go
        return (EnvSpec,)
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
    from mujoco import MjModel

    return EnvSpec, MujocoRenderer, MjModel


def found(value: Any) -> list[np.ndarray]:
    """The arrays in `value`."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for item in value.values() for array in found(item)]
    return [array for item in value for array in found(item)] if isinstance(value, list) else []


def copied(value: Any) -> Any:
    """`value` with arrays of its own."""
    if isinstance(value, np.ndarray):
        return np.array(value, order="C")
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value
