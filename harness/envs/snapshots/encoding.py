"""What an environment's attributes hold, in plain values, lists, dicts and arrays; and these put back."""

from __future__ import annotations

import random
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers.utils import RunningMeanStd

from harness.envs.snapshots.fingerprint import DESCRIBED, NotUnderstood, description, spaces_in
from harness.envs.snapshots.large_values import fingerprint

Environment = gym.Env | gym.vector.VectorEnv
PLAIN = (bool, int, float, str, bytes, type(None))
LARGEST_ITEMS = 100_000
"""Items that containers have together at most; what holds more is no state of an environment but a memory."""


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
