"""State that lies on the ranks in parts, by environment: what a rank takes of the parts of others.

Each value of such a state is an array (envs, …), a list of as many, a dict of these, or None where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Part:
    """What a rank had of its own: of the environments `first … first + count - 1` of `total`."""

    first: int
    count: int
    total: int
    own: dict[str, Any]


def rows_of(state: Any, rows: slice) -> Any:
    """The state of some environments of a part."""
    if isinstance(state, dict):
        return {name: rows_of(value, rows) for name, value in state.items()}
    return None if state is None else state[rows]


def joined(states: Sequence[Any]) -> Any:
    """The states of consecutive parts as one; None where one of them has none."""
    if any(state is None for state in states):
        return None
    if isinstance(states[0], dict):
        return {name: joined([state[name] for state in states]) for name in states[0]}
    if isinstance(states[0], np.ndarray):
        return np.concatenate(states)
    return [value for state in states for value in state]


def share_from(parts: Sequence[Part], first: int, count: int, total: int) -> dict[str, Any] | None:
    """The state of the environments `first … first + count - 1` of `total`, from the parts that have them; None where
    some are in none of them."""
    found, at = [], first
    for part in sorted(parts, key=lambda part: part.first):
        low, high = max(at, part.first), min(first + count, part.first + part.count)
        if part.total == total and low == at and low < high:
            found.append(rows_of(part.own, slice(low - part.first, high - part.first)))
            at = high
    return joined(found) if found and at == first + count else None
