"""The state of MuJoCo's physics."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

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


def physics_of(data: Any) -> dict[str, Any]:
    """All arrays of MuJoCo's `MjData` whose size does not depend on what touches what.

    What the physics itself needs is less (mjSTATE_INTEGRATION); but rewards and observations are made of what the last
    step derived from it, which lags behind by one.
    """
    model, kind = data.model, mujoco.mjtState.mjSTATE_INTEGRATION
    integrated = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integrated, kind)
    return {"integrated": integrated, "derived": {name: getattr(data, name).copy() for name in derived_of(data)}}


def put_physics(data: Any, value: dict[str, Any]) -> None:
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
