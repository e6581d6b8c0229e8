"""The `env` section of a run's settings."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from harness.envs.backends import BACKENDS
from harness.registry import check_name
from harness.settings import Settings


class PrivateKey(str):
    """A key of an info that equals no other, whatever a user's environments and wrappers call theirs; copies of an
    info have it too."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __copy__(self) -> PrivateKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PrivateKey:
        return self

    def __reduce__(self) -> str:
        return "LIFE_LOST"


LIFE_LOST = PrivateKey("harness: life lost")
"""In a step's info: the episode ended since a life was lost, and the next `reset` goes on with the same game."""


class AtariSettings(Settings):
    """How a game is preprocessed (Mnih et al. 2015, table 1 of the extended data; Machado et al. 2018, section 3)."""

    preprocess: bool = True
    """Off: the raw environment, as `env.id` and `env.kwargs` make it; the other settings then mean nothing."""
    noop_max: int = Field(30, ge=0)
    """A game begins with 1 to so many frames in which nothing is done; 0 for none."""
    fire_on_reset: bool = True
    """In games that know FIRE it is pressed in the last of those frames, and after a lost life."""
    frame_skip: int = Field(4, ge=1)
    """Frames for which an action is repeated."""
    max_pool: bool = True
    """A screen is the brightest of the last two frames, pixel by pixel, since sprites flicker."""
    screen_size: int = Field(84, ge=1)
    """Height and width that screens are resized to, by area."""
    grey: bool = True
    """Brightness alone; off: red, green and blue, as three channels of each screen."""
    stack: int = Field(4, ge=1)
    """Screens in an observation (channels, height, width), the newest last; an episode begins with copies of its
    first."""
    episodic_life: bool = True
    """A lost life ends an episode for learning. Reported returns, and evaluations, are those of whole games."""
    clip_rewards: bool = True
    """Rewards are learned from by their sign. Reported returns are true ones."""
    repeat_action_probability: float | None = Field(None, ge=0, le=1)
    """How likely a frame repeats the action of the one before it. Unset: as `env.id` has it, 0.25 for `ALE/…-v5` and 0
    for `…NoFrameskip-v4`."""
    full_action_space: bool = False
    """All 18 actions of the joystick instead of those that the game knows."""


class WrapperSettings(Settings):
    """A wrapper with its arguments: `{class = "gymnasium.wrappers:TimeLimit", kwargs = {max_episode_steps = 50}}`."""

    model_config = ConfigDict(**{**Settings.model_config, "populate_by_name": True})

    class_: str = Field(alias="class")
    """`module:callable`, called with the environment and `kwargs`."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for it."""


class EnvSettings(Settings):
    id: str
    """A gymnasium id, or `module:Name-v0`: the module is imported first and registers the name."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for the environment."""
    count: int = Field(8, ge=1)
    """Environments over all ranks together; each rank steps its share."""
    backend: Literal["auto", "native", "envpool", "sync", "workers"] | str = "auto"
    """How a rank steps its share: `native`, the environment's own vector class; `envpool`, EnvPool's of that name;
    `sync`, one after the other; `workers`, in processes of several environments each; or a `Backend` of your own,
    `module:Class`. `auto` takes `native` where its
    episodes are the same on any number of ranks, and otherwise `envpool` where its extra is installed and it has the
    environment (but for some that gymnasium steps faster), `workers` where a measurement at the start says that they
    clearly shorten a step, else `sync`."""
    workers: int | None = Field(None, ge=1)
    """Processes of `workers`, and threads of `envpool`, per rank; unset: this rank's share of the cores."""
    double_buffer: Literal["auto", "on", "off"] = "auto"
    """With `workers`, step half of a rank's environments while the policy acts for the other half. `auto`: where the
    policy acts on a GPU, or beside four workers or more, each of which has environments in both halves."""
    wrappers: list[str | WrapperSettings] = []
    """Wrappers around each environment, innermost first: each `"module:callable"`, called with the environment, or with
    keyword arguments `{class = "module:callable", kwargs = {…}}`."""
    reset_options: dict[str, Any] = {}
    """What each `reset` of an environment is given as its `options`, in training and in evaluations."""
    info_metrics: list[str] = []
    """Numbers and truths in the last info of an episode that are metrics, such as `["is_success"]`: their means over
    the episodes of all ranks are `is_success_mean` of training and `eval_is_success_mean` of evaluations. Environments
    are then single ones, whatever `backend` would be."""
    normalize_observations: bool = False
    """Centre and scale observations by the moments of all that all ranks have seen, clipped to ±10."""
    normalize_rewards: bool = False
    """Scale rewards by the standard deviation of the discounted return, clipped to ±10. Reported returns are true
    ones."""
    atari: AtariSettings | None = None
    """Preprocessing of Atari games, `ALE/…-v5` and `…NoFrameskip-v4`; absent: the standard one."""

    @field_validator("backend")
    @classmethod
    def backend_is_named(cls, backend: str) -> str:
        check_name(backend, BACKENDS, "auto")
        return backend

    @field_validator("wrappers", mode="before")
    @classmethod
    def wrappers_are_named(cls, wrappers: Any) -> Any:
        if not isinstance(wrappers, list):
            raise ValueError("must be a list of wrappers, such as ['gymnasium.wrappers:FlattenObservation']")
        for each in wrappers:
            table = isinstance(each, dict) and isinstance(each.get("class", each.get("class_")), str)
            if not (isinstance(each, (str, WrapperSettings)) or table and each.keys() <= {"class", "class_", "kwargs"}):
                either = "'module:callable' or {class = 'module:callable', kwargs = {…}}"
                raise ValueError(f"must be each {either}: {each!r}")
        return wrappers

    @model_validator(mode="before")
    @classmethod
    def games_are_preprocessed(cls, table: Any) -> Any:
        return {"atari": {}, **table} if isinstance(table, dict) and is_atari(str(table.get("id"))) else table

    @field_validator("info_metrics")
    @classmethod
    def names_are_free(cls, names: list[str]) -> list[str]:
        taken = sorted({"return", "length"} & set(names))
        if taken or len(set(names)) < len(names) or "" in names:
            problem = f"{taken[0]}_mean is a metric of its own" if taken else "each must be a name that is there once"
            raise ValueError(f"must be keys of an episode's last info, such as ['is_success']: {problem}")
        return names

    @model_validator(mode="after")
    def games_alone_are_preprocessed_as_such(self) -> EnvSettings:
        if self.atari is not None and not is_atari(self.id):
            raise ValueError(f"env.atari is for Atari games, such as env.id = 'ALE/Pong-v5', got env.id = {self.id!r}")
        return self

    @property
    def game(self) -> AtariSettings | None:
        """How the Atari game is preprocessed; None where this is none, or it is left raw."""
        return self.atari if self.atari is not None and self.atari.preprocess else None


def is_atari(env_id: str) -> bool:
    return bool(re.fullmatch(r"ALE/\w+-v5|\w+NoFrameskip-v[04]", env_id))


def stickiness(env_id: str, game: AtariSettings) -> float:
    """How likely a frame of the game `env_id` repeats the action of the one before it."""
    if game.repeat_action_probability is not None:
        return game.repeat_action_probability
    return 0.0 if env_id.endswith("-v4") else 0.25
