"""Looking up an implementation by the name that a setting gives: one of ours, or a user's `module:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
import pydantic_core

from harness.errors import BadInput
from harness.settings import named_object


def check_name(name: Any, known: Mapping[str, Any] | tuple[str, ...], *others: str) -> None:
    """ValueError, in words that follow a setting's name, where `name` is neither known, nor one of `others`, nor
    written module:Class."""
    if name not in (*others, *known) and not (isinstance(name, str) and all(name.partition(":"))):
        raise ValueError(f"must be one of {', '.join((*others, *known))}, or module:Class of your own")


def shipped(name: Any, registry: Mapping[str, str], setting: str) -> str:
    """The registry's entry of that name, or the user's own `module:Class` as it is; BadInput names `setting` where it
    is neither."""
    try:
        check_name(name, registry)
    except ValueError as error:
        raise BadInput(f"{setting} {error}, got {name!r}") from None
    return registry.get(name, name)


def named_class(name: Any, registry: Mapping[str, str], setting: str, base: type) -> Any:
    """The class that `name` means. `registry`: `module:Class` by our names. BadInput names `setting` where it means
    nothing, or no class derived from `base`."""
    found = named_object(shipped(name, registry, setting), setting)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise BadInput(f"{setting} = {name!r} must be a class that derives from {base.__module__}:{base.__name__}")
    return found


class Names:
    """Annotates a setting that names an entry of a registry, or the user's own as `module:Class`."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return pydantic_core.core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, name: str) -> str:
        check_name(name, self.known)
        return name
