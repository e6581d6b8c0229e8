"""What tells functions, classes, modules and spaces from others of their kind, alike in every process.

An environment may hold them, and none of them can be stored. But whether a reset has left the like of what was held can
be told: by the name, the code and all that a function closes over; by all that a space is made of.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

DESCRIBED = (spaces.Space, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
PLAIN = (bool, int, float, complex, str, bytes, type(None), types.EllipsisType, np.generic, np.dtype)


class NotUnderstood(Exception):
    """What an environment holds cannot be taken out and put back."""


def description(value: Any, layers: Sequence[Any]) -> str:
    """A checksum of what tells `value` apart; NotUnderstood where it holds what is not known here. `layers`: of the
    environment that holds it; what they are is told elsewhere."""
    return hashlib.sha256(repr(describe(value, layers)).encode()).hexdigest()


def describe(value: Any, layers: Sequence[Any]) -> Any:
    """`value` by names, numbers and tuples of these."""
    for place, layer in enumerate(layers):
        if value is layer:
            return "layer", place
    if isinstance(value, PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    if isinstance(value, type):
        return "type", value.__module__, value.__qualname__
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return "array", value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *(describe(item, layers) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, *sorted(repr(describe(item, layers)) for item in value)
    if isinstance(value, dict):
        return "dict", *((describe(key, layers), describe(item, layers)) for key, item in value.items())
    if isinstance(value, types.FunctionType):
        closed_over = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = value.__defaults__, value.__kwdefaults__
        own = value.__module__, value.__qualname__, value.__code__, defaults, closed_over, vars(value)
        return "function", *(describe(each, layers) for each in own)
    if isinstance(value, types.CodeType):
        return "code", value.co_code, value.co_names, *(describe(constant, layers) for constant in value.co_consts)
    if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType):
        return "function", value.__module__, value.__qualname__
    if isinstance(value, spaces.Space):
        made_of = {name: item for name, item in vars(value).items() if name != "_np_random"}
        return describe(type(value), layers), describe(made_of, layers)
    raise NotUnderstood(f"{type(value).__module__}.{type(value).__qualname__}")


def spaces_in(value: Any) -> Iterator[spaces.Space]:
    """A space, and those that it is made of, each of which has a generator of its own."""
    if isinstance(value, spaces.Space):
        yield value
        value = vars(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        yield from spaces_in(item)
