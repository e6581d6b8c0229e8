"""What an environment goes on from, taken out of it and put back, so that its next steps are those that it would have
made.

Each layer of an environment, from its outermost wrapper inward, gives its own part. A layer that offers `get_state()`
and `set_state(state)` says itself what that is. Of any other it is all that its attributes hold, where that is
understood to the last of them: numbers, arrays, enumerations, containers of these, random generators, the emulator of
Atari games, the physics of MuJoCo. What cannot be stored but told apart (functions, classes, spaces) must be what a
reset leaves. What is large and a reset leaves as it was (a table of prices, a map) is told apart too, and not stored.
Where it is not understood (Box2D's worlds, handles of other libraries) there is no state to be had.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import pickle
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers.utils import RunningMeanStd

from harness.envs.snapshots.fingerprint import DESCRIBED, NotUnderstood, description, spaces_in

Environment = gym.Env | gym.vector.VectorEnv
PLAIN = (bool, int, float, str, bytes, type(None))
NOT_OWN = {"env", "_saved_kwargs", "_cached_spec", "_metadata", "_ezpickle_args", "_ezpickle_kwargs"}
"""Attributes that hold what is inside a wrapper, or how it was made."""
LARGEST_ITEMS = 100_000
"""Items that containers have together at most; what holds more is no state of an environment but a memory."""
LARGE_BYTES, LARGE_ITEMS = 2**16, 1_000
"""Arrays of so many bytes, and containers of so many items, are looked at whether they are ever changed."""


@dataclass(frozen=True)
class Around:
    """What a value is held by, while all that an environment holds is taken out or put back."""

    layers: list[Environment]
    same: tuple[type, ...] = (EnvSpec,)
    """Types whose values do not change while the layer steps."""
    met: dict[int, Any] = field(default_factory=dict)
    """By id: the lists, sets and dicts met so far."""
    unchanged: frozenset[str] = frozenset()
    """Fingerprints of what need not be stored: a reset leaves it as it was."""
    known: dict[int, tuple[Any, str | None]] = field(default_factory=dict)
    """By id: values, and their fingerprints."""


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
    """What each layer goes on from, the outermost first, as plain values, lists, dicts and arrays of its own; None
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


def fingerprints_in(value: Any, known: dict[int, tuple[Any, str | None]], depth: int = 3) -> Iterator[str]:
    of_it = fingerprint(value, known)
    if of_it is not None:
        yield of_it
    elif depth and type(value) in (list, tuple, dict) and len(value) < LARGE_ITEMS:
        for item in value.values() if isinstance(value, dict) else value:
            yield from fingerprints_in(item, known, depth - 1)


def fingerprint(value: Any, known: dict[int, tuple[Any, str | None]]) -> str | None:
    """What tells something large from all else, alike in every process; None of what is small or cannot be told so."""
    kind = type(value)
    if kind is np.memmap and not value.flags.writeable:  # a file that nobody writes: its numbers need not be read
        return f"{os.path.basename(str(value.filename))} {value.dtype.str} {value.shape} {value.offset}"
    if kind is np.ndarray or kind in (bytes, str):
        large = (value.nbytes if kind is np.ndarray else len(value)) >= LARGE_BYTES
    else:
        large = kind in (list, tuple, dict) and len(value) >= LARGE_ITEMS or kind.__module__.startswith("pandas.")
    if not large:
        return None
    if id(value) not in known:
        known[id(value)] = value, digest(value)
    return known[id(value)][1]


def digest(value: Any) -> str | None:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return None
        digest = hashlib.sha256(f"{value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).reshape(-1).data if value.ndim else value.tobytes())
        return digest.hexdigest()
    writers: tuple[Callable[..., bytes], ...] = (marshal.dumps, pickle.dumps)
    for write in writers:  # the former is the quicker, of plain values; its version 2 knows no sharing
        try:
            return hashlib.sha256(write(value, 2)).hexdigest()
        except Exception:  # whatever its items may raise
            pass
    return None


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


def encoded(value: Any, around: Around) -> Any:
    """`value` in plain values, lists, dicts and arrays; arrays are those that it holds, not copies."""
    kind = type(value)
    if around.unchanged and (of_it := fingerprint(value, around.known)) in around.unchanged:
        return {"kind": "unchanged", "is": of_it}
    if kind in PLAIN:
        return value
    if kind is np.ndarray and is_stored(value.dtype):
        return value
    if isinstance(value, np.generic) and is_stored(value.dtype):
        return {"kind": "scalar", "value": np.array(value)}
    if kind in (list, dict, set, deque):
        if id(value) in around.met:
            raise NotUnderstood(f"two places hold one {kind.__name__}: put back, they would part")
        around.met[id(value)] = value
    if kind in (list, tuple, set, deque):
        if len(value) > LARGEST_ITEMS:
            raise NotUnderstood(f"a {kind.__name__} of {len(value)} items")
        limit = {"maxlen": value.maxlen} if isinstance(value, deque) else {}
        return {"kind": kind.__name__, "items": [encoded(item, around) for item in value], **limit}
    if kind is dict:
        return {"kind": "dict", "items": [[encoded(key, around), encoded(item, around)] for key, item in value.items()]}
    if isinstance(value, (*around.same, *DESCRIBED)):
        drawn_from = [space._np_random for space in spaces_in(value)]
        generators = [None if each is None else encoded(each, around) for each in drawn_from]
        return {"kind": "same", "is": identity(value, around), "generators": generators}
    if hasattr(kind, "__members__"):  # an enumeration's, also of C++
        place, name = f"{kind.__module__}:{kind.__qualname__}", getattr(value, "name", None)
        if enumeration(place) is not kind or kind.__members__.get(name) != value:
            raise NotUnderstood(f"{kind.__qualname__} cannot be found by its name, or {value} in it")
        return {"kind": "member", "of": place, "name": name}
    if isinstance(value, np.random.Generator):
        return {"kind": "generator", "state": encoded(value.bit_generator.state, around)}
    if isinstance(value, np.random.RandomState):
        return {"kind": "random_state", "state": encoded(value.get_state(legacy=False), around)}
    if kind is random.Random:
        return {"kind": "random", "state": encoded(value.getstate(), around)}
    if isinstance(value, RunningMeanStd):
        return {"kind": "moments", "state": encoded(vars(value), around)}
    if kind.__name__ == "ALEInterface":
        from harness.envs.snapshots.ale import emulator_state

        return {"kind": "emulator", **emulator_state(value)}
    if kind.__name__ == "MjData" and len(around.same) > 1:
        from harness.envs.snapshots.mujoco import physics_of

        return {"kind": "physics", **physics_of(value)}
    raise NotUnderstood(f"{kind.__module__}.{kind.__qualname__}")


def identity(value: Any, around: Around) -> str:
    """What a value that is not stored is compared by."""
    return type(value).__qualname__ if isinstance(value, around.same) else description(value, around.layers)


def enumeration(place: str) -> Any:
    """The class `module:name`, where it is one of an enumeration and its module is loaded: nothing is imported that a
    checkpoint names."""
    module, _, names = place.partition(":")
    found: Any = sys.modules.get(module)
    for name in names.split("."):
        found = getattr(found, name, None)
    return found if hasattr(found, "__members__") else None


def is_stored(dtype: np.dtype) -> bool:
    """Whether a tensor can hold it."""
    return dtype.kind in "biufc" and dtype.isnative and dtype.itemsize <= (16 if dtype.kind == "c" else 8)


CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set}


def decoded(value: Any, present: Any, around: Around) -> Any:
    """The value again. `present`: what stands in its place, which generators, emulators and physics are put back
    into, since others may hold them too, and which what could not be stored must be."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind == "scalar":
        return np.asarray(value["value"])[()]
    if kind in CONTAINERS or kind == "deque":
        there = list(present) if isinstance(present, (list, tuple, deque)) else []
        there += [None] * (len(value["items"]) - len(there))
        items = (decoded(item, place, around) for item, place in zip(value["items"], there))
        return deque(items, value["maxlen"]) if kind == "deque" else CONTAINERS[kind](items)
    if kind == "dict":
        found = present if isinstance(present, dict) else {}
        pairs = [(decoded(key, None, around), item) for key, item in value["items"]]
        return {key: decoded(item, found.get(key), around) for key, item in pairs}
    if kind == "member":
        return enumeration(value["of"]).__members__[value["name"]]
    if kind == "unchanged":
        if fingerprint(present, around.known) != value["is"]:
            raise NotUnderstood("a reset leaves another one")
        return present
    if present is None:
        raise NotUnderstood(f"nothing to put a {kind} back into")
    if kind == "same":
        if value["is"] != identity(present, around):
            raise NotUnderstood("a reset leaves another one")
        for space, generator in zip(spaces_in(present), value["generators"]):
            if generator is not None:
                decoded(generator, space.np_random, around)
    elif kind == "emulator":
        from harness.envs.snapshots.ale import load_emulator

        load_emulator(present, value)
    elif kind == "physics":
        from harness.envs.snapshots.mujoco import put_physics

        put_physics(present, value)
    elif kind == "generator":
        present.bit_generator.state = decoded(value["state"], None, around)
    elif kind == "random_state":
        present.set_state(decoded(value["state"], None, around))
    elif kind == "random":
        present.setstate(decoded(value["state"], None, around))
    else:
        vars(present).update(decoded(value["state"], None, around))
    return present


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
