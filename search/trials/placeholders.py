"""A command's words and the placeholders in them: how a value becomes one word, several, a flag, or none.

| placeholder | what stands there |
|---|---|
| `{lr}` | the value: texts as they are, all else as JSON (0.001, true, [64, 64]) |
| `{layers:words}` | each element of a list as a word of its own |
| `{layers:csv}` | the elements of a list in one word, with commas |
| `{anneal:flag}` | `--anneal` where the value is true, nothing where it is not |
| `{anneal:--use-annealing}` | that flag where the value is true, nothing where it is not |
| `{norm:--norm|--no-norm}` | the first flag where the value is true, the second where it is not |
| `{clip:optional}` | the value; where it is `none`, the word goes, and the option before it |
| `{args}` | `--name=value` for each parameter and fixed value that stands nowhere else |
| `{args_no_hyphens}` | the same as `name=value` |
| `{args_no_boolean_flags}` | the same as `--name=value`, but `--name` for true, and nothing for false |
| `{args_json}` | all of them as one word of JSON |

The last four have the names that W&B's sweeps gave them. `${name}` is the shell's, and stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import BadInput

FLAG = r"--?[A-Za-z0-9][\w.-]*"
PLACEHOLDER = re.compile(
    rf"(?<!\$)\{{(?P<name>[A-Za-z_][\w.-]*)(?::(?P<form>words|csv|flag|optional|{FLAG}(?:\|{FLAG})?))?\}}"
)
ALL = ("args", "args_no_hyphens", "args_no_boolean_flags", "args_json")
WHOLE = ("words", "flag", "optional")
"""Forms that may be no word at all, or several: nothing may stand beside them in their word."""


@dataclass(frozen=True)
class Place:
    """One placeholder in a word."""

    name: str
    form: str | None
    whole: bool
    """Whether it is all of its word."""
    text: str

    @property
    def is_flag(self) -> bool:
        return self.form is not None and (self.form == "flag" or self.form.startswith("-"))


def places_in(words: Iterable[str]) -> list[Place]:
    return [
        Place(found["name"], found["form"], found[0] == word, found[0])
        for word in words
        for found in PLACEHOLDER.finditer(word)
    ]


def stands_for_all(name: str, known: Iterable[str]) -> bool:
    """Whether `{name}` means all parameters: a parameter of that name comes first."""
    return name in ALL and name not in known


def check_places(words: list[str], known: Iterable[str], values_of: Callable[[str], list[Any]]) -> None:
    """`BadInput` for a placeholder that stands where it cannot, or whose form does not fit its values."""
    known = list(known)
    for place in places_in(words):
        if not place.whole and (
            place.form in WHOLE or place.is_flag or stands_for_all(place.name, known) and place.name != "args_json"
        ):
            raise BadInput(f"trial.command: {place.text} may be several words or none, so it must be a word of its own")
        if not place.is_flag:
            continue
        for value in values_of(place.name):
            if not isinstance(value, bool) and not is_none(value):
                raise BadInput(
                    f"trial.command: {place.text} is a flag, so {place.name} must be true or false, got {value!r}"
                )


def filled(words: Iterable[str], values: Mapping[str, Any], given: Iterable[str]) -> list[str]:
    """The words with `values` in them; those that `given` names (the seed, the output) are not among `{args}`."""
    words = list(words)
    placed = {place.name for place in places_in(words)} | set(given)
    rest = {name: value for name, value in values.items() if name not in placed}
    result: list[str] = []
    for word in words:
        found = PLACEHOLDER.fullmatch(word)
        if found is not None and stands_for_all(found["name"], values):
            result += all_of(found["name"], rest)
        elif found is not None and (found["name"] not in values or left_out(found["form"], values[found["name"]])):
            if not found["form"] or found["form"] in ("words", "csv", "optional"):
                without_option(result)  # `--momentum {momentum}` of a parameter that does not exist goes as a whole
        elif found is not None:
            result += as_words(found["name"], found["form"], values[found["name"]])
        elif all(place.name in values or stands_for_all(place.name, values) for place in places_in([word])):
            result.append(PLACEHOLDER.sub(lambda each: inside(each, values, rest), word))
    return result


def left_out(form: str | None, value: Any) -> bool:
    return form == "optional" and is_none(value)


def without_option(result: list[str]) -> None:
    if result and result[-1].startswith("-") and "=" not in result[-1]:
        result.pop()


def as_words(name: str, form: str | None, value: Any) -> list[str]:
    """The words that one placeholder becomes which is a word of its own."""
    if form == "words":
        return [as_argument(element) for element in value] if isinstance(value, list) else [as_argument(value)]
    if form is not None and (form == "flag" or form.startswith("-")):
        yes, _, no = (f"--{name}" if form == "flag" else form).partition("|")
        flag = yes if value is True else no
        return [flag] if flag else []
    return [text_of(form, value)]


def inside(found: re.Match[str], values: Mapping[str, Any], rest: Mapping[str, Any]) -> str:
    """The text of a placeholder that stands among others in its word."""
    if stands_for_all(found["name"], values):
        return all_of(found["name"], rest)[0]
    return text_of(found["form"], values[found["name"]])


def text_of(form: str | None, value: Any) -> str:
    if form == "csv" and isinstance(value, list):
        return ",".join(map(as_argument, value))
    return as_argument(value)


def all_of(name: str, values: Mapping[str, Any]) -> list[str]:
    """All parameters that stand nowhere else, as W&B's sweeps write them."""
    if name == "args_json":
        return [json.dumps(dict(values), default=str)]
    if name == "args_no_hyphens":
        return [f"{key}={as_argument(value)}" for key, value in values.items()]
    words = []
    for key, value in values.items():
        if name == "args_no_boolean_flags" and isinstance(value, bool):
            words += [f"--{key}"] if value else []
        else:
            words.append(f"--{key}={as_argument(value)}")
    return words


def is_none(value: Any) -> bool:
    """As a config says that a value is switched off."""
    return value is None or value == "none"


def as_argument(value: Any) -> str:
    """Texts as they are, all else as JSON: 0.001, true, [64, 64]."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
