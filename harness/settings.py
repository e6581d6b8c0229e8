"""Settings: typed, bounded, documented in place; read from TOML, changed by `section.key=value`."""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from harness.errors import BadInput


class Settings(pydantic.BaseModel):
    """Base of every section: unknown keys are refused, values do not change, a field's docstring documents it."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def none_is_none(cls, table: Any) -> Any:
        """TOML has no word for none: the text `none` is that, where a setting may be none."""
        if not isinstance(table, Mapping) or NONE not in [value for value in table.values() if isinstance(value, str)]:
            return table
        may_be = {key for name, field in cls.model_fields.items() if may_be_none(field) for key in (name, field.alias)}
        return {key: None if key in may_be and value == NONE else value for key, value in table.items()}


NONE = "none"
"""How a config switches off what may be none, such as `algorithm.max_grad_norm = "none"`."""


def may_be_none(field: pydantic.fields.FieldInfo) -> bool:
    """Whether `none` switches a setting off, rather than being one of its own words."""
    kinds = flatten_annotation(field.annotation)
    words = [word for kind in kinds if typing.get_origin(kind) is typing.Literal for word in typing.get_args(kind)]
    return (type(None) in kinds or None in words) and NONE not in words


def table_of(settings: Settings) -> dict[str, Any]:
    """All settings as TOML can hold them: what is none is left out where that is the default, else it is `none`."""
    return written(settings, settings.model_dump(mode="json", by_alias=True))


def written(settings: Settings, dumped: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        key, inner = field.serialization_alias or field.alias or name, getattr(settings, name)
        value = dumped[key]
        if isinstance(inner, Settings):
            table[key] = written(inner, value)
        elif value is not None:
            table[key] = without_none(value)
        elif field.get_default(call_default_factory=True) is not None:
            table[key] = NONE
    more = getattr(settings, "model_extra", None) or {}  # of a class of the user's own
    return table | {key: without_none(dumped[key]) for key in more}


def without_none(value: Any) -> Any:
    """A table of a user's own, without what TOML has no word for."""
    if not isinstance(value, Mapping):
        return value
    return {key: without_none(inner) for key, inner in value.items() if inner is not None}


S = TypeVar("S", bound=pydantic.BaseModel)


def load_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file; a missing or broken file is `BadInput`."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not valid TOML: {error}") from None
    except (OSError, ValueError, RecursionError) as error:  # no text, or a name that no file can have
        raise BadInput(f"{path}: cannot be read: {error}") from None


def parse_value(text: str) -> Any:
    """What stands right of `=` on the command line: a TOML value, or else the text itself (`optimizer.name=adam`)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def set_dotted(table: dict[str, Any], key: str, value: Any) -> None:
    """Sets `section.key` in nested tables, making the tables on the way."""
    *parents, last = key.split(".")
    for at, parent in enumerate(parents):
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadInput(f"{key}: {'.'.join(parents[: at + 1])} is a value, not a section")
    table[last] = value


def apply_overrides(table: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `table` with each `section.key=value` set; one without `=` or with an empty key is `BadInput`."""
    changed = copy_tables(table)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip() or "" in key.strip().split("."):
            raise BadInput(f"{override!r} is no override: expected section.key=value, such as optimizer.lr=0.001")
        set_dotted(changed, key.strip(), parse_value(text.strip()))
    return changed


def copy_tables(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copy_tables(value) if isinstance(value, Mapping) else value for key, value in table.items()}


def validate(model: type[S], table: Any, source: str = "", prefix: str = "") -> S:
    """`table` as a `model`; the first thing wrong with it becomes one line of `BadInput` that names the dotted key."""
    try:
        return model.model_validate(table)
    except pydantic.ValidationError as error:
        raise BadInput(explain(model, error, prefix) + (f" ({source})" if source else "")) from None


def explain(model: type[pydantic.BaseModel], error: pydantic.ValidationError, prefix: str = "") -> str:
    """The first thing that is wrong, as one line: the key, its value and what it may be."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = [str(part) for part in first["loc"]]
    name = ".".join(([prefix] if prefix else []) + where)
    if first["type"] == "extra_forbidden":
        return unknown_key(name, nested_keys(model, where[:-1]))
    if first["type"] == "missing":
        return f"{name} is missing"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if first["type"] in ("value_error", "assertion_error") and (not where or isinstance(first["input"], dict)):
        return f"{name}: {message}" if name else message
    message = message.replace("Input should be", "must be").replace("greater than or equal to", ">=")
    message = message.replace("less than or equal to", "<=").replace("greater than", ">").replace("less than", "<")
    message = message.removesuffix(", unable to parse string as a number")
    return (
        f"{name}: {message}, got {first['input']!r}"
        if not message.startswith("must")
        else (f"{name} {message}, got {first['input']!r}")
    )


def unknown_key(name: str, known: Iterable[str]) -> str:
    *parents, last = name.split(".")
    known = sorted(known)
    near = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
    may_be = f"did you mean {'.'.join([*parents, near[0]])}?" if near else f"it may be one of {', '.join(known)}"
    return f"{name} is no setting; {may_be}"


def nested_keys(model: type[pydantic.BaseModel], path: list[str]) -> list[str]:
    """The keys that the section at `path` knows."""
    current: Any = model
    for part in path:
        field = current.model_fields.get(part) if is_model(current) else None
        candidates = [] if field is None else [a for a in flatten_annotation(field.annotation) if is_model(a)]
        if not candidates:
            return []
        current = candidates[0]
    return list(current.model_fields)


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def flatten_annotation(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [inner for part in typing.get_args(annotation) for inner in flatten_annotation(part)]
    return [annotation]


def named_object(name: str, setting: str) -> Any:
    """What `module:Name` means; BadInput names `setting` where it means nothing."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise BadInput(f"{setting} must be written module:Name, got {name!r}")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = f"there is no module {error.name!r} on the path of this directory"
        raise BadInput(f"{setting} = {name!r}: {missing}") from None
    except AttributeError:
        raise BadInput(f"{setting} = {name!r}: module {module!r} has no {attribute!r}") from None
