"""The environment's own vector class: this project's of CartPole, or one that is registered in gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from harness.envs.backends.base import Backend, Vector
from harness.envs.backends.cartpole import CartPole
from harness.envs.backends.registered import Registered, has_vector_class
from harness.envs.settings import EnvSettings
from harness.errors import BadInput

CARTPOLES = {"CartPole-v0", "CartPole-v1"}


class NativeBackend(Backend):
    def refuses(self, settings: EnvSettings) -> str | None:
        if is_cartpole(settings) or has_vector_class(settings):
            return None
        return (
            f"env.backend = 'native': {settings.id} has no vector class registered in gymnasium (or env.wrappers, "
            "env.reset_options or env.info_metrics is set, which need single environments); it may be 'auto', "
            "'envpool', 'sync' or 'workers'"
        )

    def preferred(self, settings: EnvSettings, count: int, cores: int) -> bool:
        """Whether there is a vector class whose episodes are the same on any number of ranks."""
        if is_cartpole(settings):
            return True
        if not has_vector_class(settings):
            return False
        try:
            made = Registered(settings, 1)
        except BadInput:  # its own requirements are missing (gymnasium's phys2d without jax)
            return False
        made.close()
        return made.same_experiment

    def make(self, settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
        if not is_cartpole(settings):
            return Registered(settings, count)
        return CartPole(count, **{"max_episode_steps": gym.spec(settings.id).max_episode_steps, **settings.kwargs})

    def library_vector(self, settings: EnvSettings, count: int, cores: int) -> Any:
        return gym.make_vec(settings.id, count, vectorization_mode="vector_entry_point", **settings.kwargs)


def is_cartpole(settings: EnvSettings) -> bool:
    """Whether the vector of this project moves as these settings say."""
    ours = set(settings.kwargs) <= {"max_episode_steps", "sutton_barto_reward"}
    single = settings.wrappers or settings.reset_options or settings.info_metrics
    return settings.id in CARTPOLES and not single and ours
