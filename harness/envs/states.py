"""What an environment goes on from, taken out of it and put back, so that its next steps are those that it would have
made.

Each layer of an environment, from its outermost wrapper inward, gives its own part. A layer that offers `get_state()`
and `set_state(state)` says itself what that is. Of any other it is all that its attributes hold, where that is
understood to the last of them: numbers, arrays, containers of these, random generators, the emulator of Atari games,
the physics of MuJoCo. Where it is not (Box2D's worlds, handles of other libraries) there is no state to be had.
"""

from __future__ import annotations

import random
import types
from collections import deque
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers.utils import RunningMeanStd

Environment = gym.Env | gym.vector.VectorEnv
PLAIN = (bool, int, float, str, bytes, type(None))
SAME = (spaces.Space, EnvSpec, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
"""What an attribute may hold that does not change while an environment steps."""
NOT_OWN = {"env", "_saved_kwargs", "_cached_spec", "_metadata"}
"""Attributes of wrappers that hold what is inside, or how they were made."""
DERIVED: tuple[str, ...] = (
    "x",
    "q",
    "cacc",
    "cam_",
    "cdof",
    "cfrc_",
    "cinert",
    "crb",
    "cvel",
    "geom_x",
    "site_x",
    "subtree_",
    "light_x",
)
DERIVED += ("sensordata", "energy", "actuator_force", "actuator_length", "actuator_velocity")
"""How the names of what MuJoCo derives begin."""
LARGEST_ITEMS = 100_000
"""Items that containers have together at most; what holds more is no state of an environment but a memory."""


class NotUnderstood(Exception):
    """An attribute holds what cannot be taken out and put back."""


def state_of(env: Environment) -> list[Any] | None:
    """What each layer goes on from, the outermost first, as plain values, lists, dicts and arrays of its own; None
    where it cannot be had."""
    try:
        taken = [own_state(layer) for layer in layers(env)]
    except (NotUnderstood, RecursionError):
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
            put_own(layer, own)
    except (NotUnderstood, AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def layers(env: Environment) -> list[Environment]:
    """The wrappers from the outermost inward, then the environment itself."""
    found = [env]
    while isinstance(found[-1], (gym.Wrapper, gym.vector.VectorWrapper)):
        found.append(found[-1].env)
    return found


def speaks_for_itself(layer: Environment) -> bool:
    return all(callable(getattr(type(layer), name, None)) for name in ("get_state", "set_state"))


def own_state(layer: Environment) -> dict[str, Any]:
    own: dict[str, Any] = {"class": type(layer).__qualname__}
    attributes = attributes_of(layer)
    if speaks_for_itself(layer):
        own["state"] = encoded(cast(Any, layer).get_state(), ())
        attributes = {name: value for name, value in attributes.items() if name == "_np_random"}
    same = constants_of(layer)
    own["attributes"] = {name: encoded(value, same) for name, value in attributes.items() if not constant(value, same)}
    return own


def put_own(layer: Environment, own: dict[str, Any]) -> None:
    for name, value in own["attributes"].items():
        setattr(layer, name, decoded(value, getattr(layer, name, None)))
    if "state" in own:
        cast(Any, layer).set_state(decoded(own["state"], None))


def attributes_of(layer: Environment) -> dict[str, Any]:
    try:
        return {name: value for name, value in vars(layer).items() if name not in NOT_OWN}
    except TypeError:
        raise NotUnderstood(f"{type(layer).__name__} has no __dict__") from None


def constants_of(layer: Environment) -> tuple[type, ...]:
    """Types whose values do not change in this layer."""
    if not type(layer).__module__.startswith("gymnasium.envs.mujoco."):  # others may change their model as they go
        return SAME
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
    from mujoco import MjModel

    return (*SAME, MujocoRenderer, MjModel)


def constant(value: Any, same: tuple[type, ...]) -> bool:
    if type(value) in (list, tuple):
        return bool(value) and all(constant(item, same) for item in value)
    return isinstance(value, same) or hasattr(type(value), "__members__")  # an enumeration's, also of C++


def encoded(value: Any, same: tuple[type, ...]) -> Any:
    """`value` in plain values, lists, dicts and arrays; arrays are those that it holds, not copies."""
    if isinstance(value, PLAIN) and type(value) in PLAIN:
        return value
    if type(value) is np.ndarray and is_stored(value.dtype):
        return value
    if isinstance(value, np.generic) and is_stored(value.dtype):
        return {"kind": "scalar", "value": np.array(value)}
    if type(value) in (list, tuple, set, deque):
        if len(value) > LARGEST_ITEMS:
            raise NotUnderstood(f"a {type(value).__name__} of {len(value)} items")
        limit = {"maxlen": value.maxlen} if isinstance(value, deque) else {}
        return {"kind": type(value).__name__, "items": [encoded(item, same) for item in value], **limit}
    if type(value) is dict:
        items = [[encoded(key, same), encoded(item, same)] for key, item in value.items() if not constant(item, same)]
        return {"kind": "dict", "items": items}
    if isinstance(value, np.random.Generator):
        return {"kind": "generator", "state": encoded(value.bit_generator.state, same)}
    if isinstance(value, np.random.RandomState):
        return {"kind": "random_state", "state": encoded(value.get_state(legacy=False), same)}
    if type(value) is random.Random:
        return {"kind": "random", "state": encoded(value.getstate(), same)}
    if isinstance(value, RunningMeanStd):
        return {"kind": "moments", "state": encoded(vars(value), same)}
    if type(value).__name__ == "ALEInterface":
        from harness.envs.emulator import emulator_state

        return {"kind": "emulator", **emulator_state(value)}
    if type(value).__name__ == "MjData" and same != SAME:
        return {"kind": "physics", **physics_of(value)}
    raise NotUnderstood(f"{type(value).__module__}.{type(value).__qualname__}")


def is_stored(dtype: np.dtype) -> bool:
    """Whether a tensor can hold it."""
    return dtype.kind in "biufc" and dtype.isnative and dtype.itemsize <= (16 if dtype.kind == "c" else 8)


CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set}


def decoded(value: Any, present: Any) -> Any:
    """The value again. `present`: what stands in its place, which generators, emulators and physics are put back
    into, since others may hold them too."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind == "scalar":
        return np.asarray(value["value"])[()]
    if kind in CONTAINERS:
        return CONTAINERS[kind](decoded(item, None) for item in value["items"])
    if kind == "deque":
        return deque((decoded(item, None) for item in value["items"]), value["maxlen"])
    if kind == "dict":
        kept = dict(present) if isinstance(present, dict) else {}  # constants in it are not saved
        pairs = [(decoded(key, None), item) for key, item in value["items"]]
        return {**kept, **{key: decoded(item, kept.get(key)) for key, item in pairs}}
    if present is None:
        raise NotUnderstood(f"nothing to put a {kind} back into")
    if kind == "emulator":
        from harness.envs.emulator import load_emulator

        load_emulator(present, value)
    elif kind == "physics":
        put_physics(present, value)
    elif kind == "generator":
        present.bit_generator.state = decoded(value["state"], None)
    elif kind == "random_state":
        present.set_state(decoded(value["state"], None))
    elif kind == "random":
        present.setstate(decoded(value["state"], None))
    else:
        vars(present).update(decoded(value["state"], None))
    return present


def physics_of(data: Any) -> dict[str, Any]:
    """All arrays of MuJoCo's `MjData` whose size does not depend on what touches what.

    What the physics goes on from is less (mjSTATE_INTEGRATION); but rewards and observations are made of what the last
    step derived from it, which lags behind by one.
    """
    import mujoco

    model, kind = data.model, mujoco.mjtState.mjSTATE_INTEGRATION
    integrated = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integrated, kind)
    return {"integrated": integrated, "derived": {name: getattr(data, name).copy() for name in derived_of(data)}}


def put_physics(data: Any, value: dict[str, Any]) -> None:
    import mujoco

    mujoco.mj_setState(data.model, data, value["integrated"], mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, array in value["derived"].items():
        getattr(data, name)[...] = array


def derived_of(data: Any) -> list[str]:
    """Names of the arrays of `MjData` that have a row for each body, joint, actuator or sensor."""
    names = []
    for name in dir(data):
        value = getattr(data, name, None) if name.startswith(DERIVED) else None
        if isinstance(value, np.ndarray) and value.size and value.dtype == np.float64:
            names.append(name)
    return names


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
