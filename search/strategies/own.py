"""A sampler or pruner of the user's own, `module:Class`: derived from our settings' base, or Optuna's class itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import BadInput
from harness.settings import named_object, unknown_key
from harness.text import one_line


def own_class(name: str, where: str, *bases: type) -> Any:
    """The class that `name` means; BadInput where it means none that derives from one of `bases` and can be made."""
    found = named_object(name, where)
    if not (isinstance(found, type) and issubclass(found, bases)):
        may_be = " or ".join(f"{base.__module__.partition('._')[0]}:{base.__name__}" for base in bases)
        raise BadInput(f"{where} = {name!r} must be a class that derives from {may_be}")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise BadInput(f"{where} = {name!r} must have the methods {', '.join(lacking)}")
    return found


def arguments_of(made_by: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(made_by).parameters


def check_arguments(made_by: type, names: Iterable[str], where: str) -> None:
    """BadInput for the first of `names` that is no argument of the class."""
    known = arguments_of(made_by)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        return
    for name in names:
        if name not in known:
            raise BadInput(unknown_key(f"{where}.{name}", known))


def make(made_by: type, kind: str, name: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return made_by(**arguments)
    except Exception as error:
        problem = one_line(f"{type(error).__name__}: {error}")
        raise BadInput(f"study.{kind} = {name!r} with {dict(arguments)} cannot be made: {problem}") from error
