"""How long an episode may be: by the environment itself, its wrappers, its registration, or the evaluation's limit."""

from __future__ import annotations

from contextlib import suppress

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from harness.envs.settings import EnvSettings
from harness.envs.snapshots.snapshot import layers

LONGEST = 100_000
"""Steps after which an episode is cut where neither the environment nor the user has a limit."""
LIMITS = ("max_episode_steps", "_max_episode_steps", "max_steps", "max_episode_length", "episode_length")
"""What environments call a limit on the steps of an episode that they keep themselves."""


def is_limited(settings: EnvSettings, env: gym.Env | None = None) -> bool:
    """Whether its episodes end by a time limit, as far as can be told: by its registration, or by the wrappers of
    `env`, where there is one."""
    if settings.game is not None:
        return True
    with suppress(gym.error.Error, ImportError):
        spec = gym.spec(settings.id)
        by_kwargs = {**spec.kwargs, **settings.kwargs}
        if spec.max_episode_steps is not None or by_kwargs.get("max_episode_steps") is not None:
            return True
        if by_kwargs.get("max_num_frames_per_episode"):  # of Atari's raw games
            return True
    if env is not None:
        return any(isinstance(layer, TimeLimit) for layer in layers(env))
    return any("TimeLimit" in str(wrapper) for wrapper in settings.wrappers)


def longest_episode(settings: EnvSettings, max_steps: int | None, env: gym.Env | None = None) -> int | None:
    """`evaluation.max_steps`, or what it is where that is unset: None for no limit of ours."""
    if max_steps is not None:
        return max_steps
    return None if is_limited(settings, env) else LONGEST


def without_limit(env: gym.Env, settings: EnvSettings) -> list[str]:
    """Where nothing but the environment itself ends an episode."""
    spec, inner = env.spec, env.unwrapped
    limited = any(isinstance(layer, TimeLimit) for layer in layers(env))
    limited |= any(isinstance(getattr(inner, name, None), (int, float)) for name in LIMITS)
    limited |= spec is not None and (spec.max_episode_steps is not None or "max_num_frames_per_episode" in spec.kwargs)
    if limited:
        return []
    return [
        f"{settings.id} has no time limit: its episodes last until it ends them itself; "
        "env.kwargs.max_episode_steps = N cuts them after N steps"
    ]
