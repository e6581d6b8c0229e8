"""Which backend steps a rank's environments: what the settings say, or what is fastest for them here."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np

from harness.envs.backends.base import Vector
from harness.envs.backends.cartpole import CartPole
from harness.envs.backends.envpool import EnvPool, check_envpool, prefers_envpool
from harness.envs.backends.registered import Registered, has_vector_class
from harness.envs.backends.sync import Sync
from harness.envs.backends.workers import Workers
from harness.envs.inspection import borrowed, check_environment, close_spare
from harness.envs.settings import EnvSettings
from harness.errors import BadInput

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator

CARTPOLES = {"CartPole-v0", "CartPole-v1"}
WORKER_SECONDS = 50e-6
"""What a step of workers costs beside the environments' own time, one core each (tests/benchmarks/environments.py)."""
CLEARLY = 0.75
"""How much shorter the estimate of another backend's step must be than that of the simpler one."""
MANY_WORKERS = 4
"""While the policy acts on one core, all workers wait for it; with two halves it acts twice. From so many on that is
shorter than what they wait. A policy on another device takes nothing from them."""
MEASURE_SECONDS = 0.02
BLOCKS = 8


def check_backend(settings: EnvSettings) -> None:
    """BadInput where `env.backend` asks for what this environment, or this machine, does not have."""
    if settings.backend == "native" and not (is_cartpole(settings) or has_vector_class(settings)):
        raise BadInput(
            f"env.backend = 'native': {settings.id} has no vector class registered in gymnasium (or env.wrappers, "
            "env.reset_options or env.info_metrics is set, which need single environments); it may be 'auto', "
            "'envpool', 'sync' or 'workers'"
        )
    if settings.backend == "envpool":
        check_envpool(settings)


def choose_backend(settings: EnvSettings, count: int, cores: int, device: str = "cpu") -> EnvSettings:
    """The settings with `backend` and `double_buffer` as they are to be for a rank of `count` environments, whose
    policy acts on `device`.

    Whether `auto` comes to be `native` or `envpool`, whose episodes are not those of `sync` and `workers`, never
    depends on a measurement or on the number of ranks.
    """
    backend: str = settings.backend
    if backend == "auto":
        if is_native(settings):
            backend = "native"
        elif prefers_envpool(settings):
            backend = "envpool"
        else:
            backend = "workers" if seems_slow(settings, count, cores) else "sync"
    buffered: str = settings.double_buffer
    if buffered == "auto":
        workers = settings.workers or cores
        idle = device != "cpu" or workers >= MANY_WORKERS
        buffered = "on" if backend == "workers" and idle and count >= 2 * workers else "off"
    return settings.model_copy(update={"backend": backend, "double_buffer": buffered})


def agree_on_backend(settings: EnvSettings, communicator: Communicator, cores: int, device: str = "cpu") -> EnvSettings:
    """What rank 0 chooses, on all ranks; collective."""
    fewest = int(communicator.agree({"cores": cores}, "min")["cores"])
    share = -(-settings.count // communicator.size)
    chosen = choose_backend(settings, share, fewest, device) if communicator.rank == 0 else None
    return communicator.broadcast_object(chosen)


def make_vector(settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
    """`settings` as `choose_backend` gives them; `first`: the global index of this rank's first environment."""
    check_backend(settings)
    if settings.backend != "sync":
        close_spare()
    if settings.backend == "native":
        return CartPole(count, **cartpole_arguments(settings)) if is_cartpole(settings) else Registered(settings, count)
    if settings.backend == "sync":
        return Sync(settings, count, first)
    observation_space, action_space = check_environment(settings)
    workers = settings.workers or cores
    if settings.backend == "envpool":
        return EnvPool(settings, count, observation_space, action_space, workers)
    groups = 2 if settings.double_buffer == "on" else 1
    return Workers(settings, count, observation_space, action_space, workers, groups, first)


def is_cartpole(settings: EnvSettings) -> bool:
    """Whether the vector of this project moves as these settings say."""
    ours = set(settings.kwargs) <= {"max_episode_steps", "sutton_barto_reward"}
    single = settings.wrappers or settings.reset_options or settings.info_metrics
    return settings.id in CARTPOLES and not single and ours


def cartpole_arguments(settings: EnvSettings) -> dict:
    return {"max_episode_steps": gym.spec(settings.id).max_episode_steps, **settings.kwargs}


def is_native(settings: EnvSettings) -> bool:
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


def seems_slow(settings: EnvSettings, count: int, cores: int) -> bool:
    """Whether workers clearly shorten a step of so many environments, by a measurement of some milliseconds."""
    workers = min(settings.workers or cores, count)
    if workers == 1:
        return False
    try:
        one = seconds_of_one(settings)
    except BadInput:
        raise
    except Exception:  # the run meets what is wrong with it again, where it is told with its environment and rank
        return False
    return -(-count // workers) * one + WORKER_SECONDS < CLEARLY * count * one


def seconds_of_one(settings: EnvSettings) -> float:
    """Of one environment's step with random actions, resets among them: the least of BLOCKS means, so that what else
    runs on the machine decides nothing."""
    with borrowed(settings) as env:
        env.reset(seed=0)
        actions = copy.deepcopy(env.action_space)
        actions.seed(0)
        env.step(actions.sample())  # the first may be slower
        seconds: list[float] = []
        until = time.perf_counter() + MEASURE_SECONDS
        while len(seconds) < BLOCKS or time.perf_counter() < until and len(seconds) < 1000:
            began = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(actions.sample())
            if terminated or truncated:
                env.reset()
            seconds.append(time.perf_counter() - began)
        return float(min(block.mean() for block in np.array_split(seconds, BLOCKS)))
