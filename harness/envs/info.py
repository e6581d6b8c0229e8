"""Metrics that an environment tells of an episode in its last info, such as `is_success`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def metrics_of(info: Mapping[str, Any], names: Sequence[str]) -> tuple[float, ...]:
    """The numbers of these names, NaN where there is none; TypeError for what is no number."""
    return tuple(number_of(info, name) for name in names)


def number_of(info: Mapping[str, Any], name: str) -> float:
    value = info.get(name)
    if value is None:
        return float("nan")
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise TypeError(f"env.info_metrics = [{name!r}, …] must name numbers or truths, got info[{name!r}] = {value!r}")
    return float(array.reshape(-1)[0])
