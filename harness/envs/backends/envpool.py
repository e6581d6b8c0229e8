"""EnvPool (Weng et al. 2022, https://arxiv.org/abs/2206.10558): environments in C++, stepped by threads.

Each environment has a seed and a stream of its own, so that N ranks see the episodes that one sees. They are others
than gymnasium's from the same seed, alike in distribution. Of Atari games its preprocessing is that of
`harness/envs/games/atari.py`, frame by frame, but for its starts: after a lost life it waits as at the start of a game.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces

from harness.envs.backends.base import Backend, InTurn, StepResult, Vector
from harness.envs.factory import exists
from harness.envs.inspection import check_environment
from harness.envs.settings import EnvSettings, stickiness
from harness.errors import BadInput
from harness.text import one_line

SAME = {
    *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *("LunarLander-v3", "LunarLanderContinuous-v3"),
    *("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5", "Reacher-v5", "Pusher-v5"),
    *("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Humanoid-v5", "HumanoidStandup-v5"),
}
"""Environments whose observations, rewards and time limits are gymnasium's, as the tests compare. Of those that have
the same name BipedalWalker is left out: in two of three comparisons its falls were rarer. Atari games come beside."""
SLOWER = {"CartPole-v1", "MountainCarContinuous-v0"}
"""Where gymnasium's are quicker, at least for few environments (tests/benchmarks/environments.py)."""


def refusal(settings: EnvSettings) -> str | None:
    """Why EnvPool cannot take gymnasium's place for these settings; None where it can."""
    asked = "env.backend = 'envpool'"
    if settings.wrappers:
        return f"{asked} steps environments in C++, which env.wrappers cannot wrap; it may be 'sync' or 'workers'"
    if settings.info_metrics:
        return f"{asked} gives no infos, which env.info_metrics needs; it may be 'sync' or 'workers'"
    if settings.reset_options:
        return f"{asked} resets environments without options: env.reset_options must be absent"
    game = settings.game
    if game is not None and (not game.max_pool or game.frame_skip < 2 or game.noop_max < 1):
        return f"{asked} preprocesses games with env.atari.max_pool, a frame_skip >= 2 and a noop_max >= 1 alone"
    if settings.id not in SAME and game is None:
        return (
            f"{asked}: EnvPool has no {settings.id} with gymnasium's observations, rewards and time limits; it has "
            f"{', '.join(sorted(SAME))} and Atari games; env.backend may be 'auto', 'sync' or 'workers'"
        )
    takes = {"max_episode_steps"} if game is None else {"max_episode_steps", "mode", "difficulty"}
    if set(settings.kwargs) - takes:
        return f"{asked} takes {', '.join(sorted(takes))} alone of env.kwargs, got {settings.kwargs}"
    if not exists("envpool"):
        return f"{asked} needs the extra 'envpool', which is not installed: pip install -e '.[envpool]'"
    return None


def name_of(settings: EnvSettings) -> str:
    """EnvPool's name of an environment: `Pong-v5` for `ALE/Pong-v5` and `PongNoFrameskip-v4`."""
    if settings.game is None:
        return settings.id
    return settings.id.removeprefix("ALE/").removesuffix("-v5").partition("NoFrameskip")[0] + "-v5"


def game_arguments(settings: EnvSettings) -> dict[str, Any]:
    """`env.atari` in EnvPool's words; rewards are clipped by whoever learns from them."""
    game = settings.game
    if game is None:
        return {}
    return {
        "noop_max": game.noop_max,
        "use_fire_reset": game.fire_on_reset,
        "frame_skip": game.frame_skip,
        "img_height": game.screen_size,
        "img_width": game.screen_size,
        "gray_scale": game.grey,
        "stack_num": game.stack,
        "episodic_life": game.episodic_life,
        "repeat_action_probability": stickiness(settings.id, game),
        "full_action_space": game.full_action_space,
    }


class EnvPool(InTurn):
    """EnvPool's environments begin their next episode in the step after the end, whatever its action; they are told to
    begin it at once instead, so that no transition mixes two episodes."""

    def __init__(
        self, settings: EnvSettings, count: int, observation_space: spaces.Box, action_space: spaces.Space, threads: int
    ) -> None:
        """The spaces are gymnasium's. `threads`: how many at most, unless `env.workers` says how many."""
        super().__init__("envpool", count, observation_space, action_space)
        # a thread that is woken for less than some environments is not worth it
        self.settings, self.threads = settings, settings.workers or min(threads, max(1, count // 4))
        self.game = settings.game
        self.ages = np.zeros(count, dtype=np.int64)
        """Of games: steps of a life so far."""
        self.first: dict[int, np.ndarray] = {}
        """Of games: the first screen of a life, by environment."""

    def reset(self, seeds: list[int]) -> np.ndarray:
        import envpool

        seed: Any = [each % 2**31 for each in seeds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that are cast to float32
            try:
                self.pool: Any = envpool.make(
                    name_of(self.settings),
                    "gymnasium",
                    num_envs=self.count,
                    env_seed=seed,
                    num_threads=self.threads,
                    **game_arguments(self.settings),
                    **self.settings.kwargs,
                )
            except (ValueError, TypeError, AssertionError) as error:
                raise BadInput(f"EnvPool does not make {self.settings.id!r}: {one_line(error)}") from None
            observations, _ = self.pool.reset()
        self.ages = np.full(self.count, 10**9)
        return observations

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, terminated, truncated, info = self.pool.step(actions)
        final, lives_lost, done = None, None, terminated | truncated
        if np.count_nonzero(done):
            final = observations
            if self.game is not None:
                lives_lost = terminated & (info["terminated"] == 0)
            which = np.flatnonzero(done).astype(np.int32)
            if self.game is None:
                begun, info = self.pool.reset(which)
            else:  # where a life was lost, `reset` would end the game too; a step whose action is ignored does not
                begun, *_, info = self.pool.step(np.zeros_like(actions[which]), which)
            observations = final.copy()
            observations[info["env_id"]] = begun
        if self.game is not None:
            self.hide_last_life(observations, self.game.stack, done)
        return StepResult(observations, rewards, rewards, terminated, truncated, final, lives_lost)

    def hide_last_life(self, observations: np.ndarray, stack: int, begins: np.ndarray) -> None:
        """EnvPool leaves the screens of the life before in a game's observations; here an episode's own first screen
        stands in their place."""
        self.ages = np.where(begins, 0, self.ages + 1)
        channels = observations.shape[1] // stack
        for env in np.flatnonzero(self.ages < stack).tolist():
            screens = observations[env].reshape(stack, channels, *observations.shape[2:])
            if begins[env]:
                self.first[env] = screens[-1].copy()
            screens[: stack - 1 - self.ages[env]] = self.first[env]

    def close(self) -> None:
        self.pool = None


class EnvPoolBackend(Backend):
    def refuses(self, settings: EnvSettings) -> str | None:
        return refusal(settings)

    def preferred(self, settings: EnvSettings, count: int, cores: int) -> bool:
        if settings.id in SLOWER or settings.game is not None:  # a game's time is the emulator's, everywhere the same
            return False
        return refusal(settings) is None

    def make(self, settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
        return EnvPool(settings, count, *check_environment(settings), settings.workers or cores)

    def library_vector(self, settings: EnvSettings, count: int, cores: int) -> Any:
        import envpool

        threads = min(settings.workers or cores, count)
        arguments = {**game_arguments(settings), **settings.kwargs}
        return envpool.make(name_of(settings), "gymnasium", num_envs=count, num_threads=threads, seed=0, **arguments)
