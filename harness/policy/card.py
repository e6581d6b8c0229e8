"""What a policy's file says of itself: spaces, noise, origin and return, as JSON inside the file and beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from harness.errors import BadInput
from harness.files import plain

FORMAT = 1
KEY = "harness"
"""Of the ONNX model's metadata_props, under which the JSON stands."""


@dataclass(frozen=True)
class Card:
    observations: dict[str, Any]
    """`shape` and `dtype` of an observation as it comes from the environment."""
    actions: dict[str, Any]
    """The action space: its `kind`, and what that has."""
    noise: dict[str, Any] | None
    """`kind` (uniform in [0, 1), or normal), `shape` and `every` (steps that one draw stays for; null: an episode) of
    the input `noise`; None where the policy draws nothing."""
    algorithm: str
    preset: str
    seed: int
    which: str
    """`latest` or `best` of the run's checkpoints."""
    env_steps: int
    """That the policy was trained for."""
    env: dict[str, Any]
    """The run's `env` section."""
    max_steps: int | None = None
    """`evaluation.max_steps` of the run."""
    returns: dict[str, Any] | None = None
    """`mean`, `std`, `episodes` and `interval` (95 %, of the mean) of the run's final evaluation."""
    checked: dict[str, Any] = field(default_factory=dict)
    """The comparison with the policy itself: `states`, `largest_difference`, `ties`."""
    ensemble: str | None = None
    """`mean` or `vote`, of the policies that `members` describes."""
    members: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        return plain(asdict(self))

    def text(self) -> str:
        return json.dumps(self.as_json(), allow_nan=False)

    @classmethod
    def read(cls, text: str | None, where: str) -> Card:
        """BadInput where the text is no card, or that of a later format."""
        try:
            found = json.loads(text or "")
            card = cls(**{key: value for key, value in found.items() if key in cls.__dataclass_fields__})
            known = card.observations["shape"], np.dtype(card.observations["dtype"]), card.actions["kind"]
            assert known and card.format <= FORMAT
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BadInput(f"{where} is no policy of `harness export`: its metadata say nothing of one") from None
        except AssertionError:
            raise BadInput(f"{where} is of format {card.format}; this version reads up to {FORMAT}") from None
        return card

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.observations["shape"])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.observations["dtype"])


def describe_observations(space: spaces.Box) -> dict[str, Any]:
    return {"shape": list(space.shape), "dtype": str(space.dtype)}


def describe_actions(space: spaces.Space) -> dict[str, Any]:
    about = {"kind": type(space).__name__, "shape": list(space.shape or ()), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {**about, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {**about, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.Box):
        return {**about, "low": bound(space.low), "high": bound(space.high)}
    return about


def bound(values: np.ndarray) -> Any:
    """A number where all are equal, else lists; null where there is no bound."""
    return plain(values.flat[0].item() if (values == values.flat[0]).all() else values.tolist())


def refuse_other_spaces(card: Card, env_id: str, observations: Any, actions: Any, where: str) -> None:
    """BadInput where the policy was made for other observations or actions than those of the environment."""
    seen = describe_observations(observations) if isinstance(observations, spaces.Box) else str(observations)
    for what, ours, theirs in (
        ("observations", card.observations, seen),
        ("actions", card.actions, plain(describe_actions(actions))),
    ):
        if ours != theirs:
            raise BadInput(f"{where} is a policy for {what} {shown(ours)}; those of {env_id} are {shown(theirs)}")


def shown(about: dict[str, Any] | str) -> str:
    if isinstance(about, str):
        return about
    words = [about["kind"]] if "kind" in about else []
    words += [f"{name} {value}" for name, value in about.items() if name != "kind"]
    return " ".join(words)


def beside(path: Path) -> Path:
    """Where a file's card lies as JSON: `policy.onnx.json` beside `policy.onnx`."""
    return path.with_name(f"{path.name}.json")
