"""A trained policy, loaded from its run's directory: to act with, or to be evaluated."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch

from harness.algorithms import Context, Evaluation, algorithm_class
from harness.config import RunConfig, load_run_config
from harness.distributed.collectives import Alone
from harness.envs import Environments, make_environment, make_environments
from harness.envs.making import one_line
from harness.envs.playing import InEnvironmentsOfTheirOwn, episode_seeds, longest_episode
from harness.envs.settings import LIFE_LOST
from harness.errors import BadInput
from harness.lifecycle import checkpoint
from harness.reporting import PhaseTimer
from harness.training.compiled import CompileSettings

Which = Literal["latest", "best"]


class Policy:
    """`policy(observations)`: observations (n, *obs_shape), or a single one (*obs_shape), to the deterministic actions
    (n, …), or the single one, as the environment takes them."""

    def __init__(self, config: RunConfig, state: dict) -> None:
        assert config.env is not None
        eager = CompileSettings(mode="off")
        self.config = config.model_copy(update={"algorithm": config.algorithm.for_acting(), "compile": eager})
        one = config.env.model_copy(update={"count": 1, "backend": "sync"})
        self.environments: Environments = make_environments(one, 0, 1)
        context = Context(
            self.config,
            Alone(),
            torch.device("cpu"),
            PhaseTimer(),
            self.environments,
            lambda act, n, final: np.zeros(0),
        )
        self.algorithm = algorithm_class(config.algorithm.name)(context)
        self.algorithm.load_state(state)
        self.algorithm.close()
        self.generator = np.random.default_rng(config.seed)

    def __call__(self, observations: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """`deterministic`: the likeliest actions; off: drawn as in training, where the policy draws any."""
        space = self.environments.observation_space
        seen = np.asarray(observations)
        single = seen.shape == space.shape
        if not single and seen.shape[1:] != space.shape:
            raise ValueError(
                f"observations must be of shape (n, {', '.join(map(str, space.shape))}), or a single one of shape "
                f"{space.shape}, got {seen.shape}"
            )
        drawn_from, batch = self.algorithm.drawn_from, seen[None] if single else seen
        drawn = None
        if not deterministic and drawn_from is not None:
            drawn = np.stack([drawn_from.draw(self.generator) for _ in batch])
        actions = self.act(batch.astype(space.dtype, copy=False), drawn)
        return actions[0] if single else actions

    def act(self, observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        """Actions for observations (n, *obs_shape), by random numbers where they are `drawn` by these."""
        seen = self.environments.normalize(observations)
        return self.algorithm.act_best(seen) if drawn is None else self.algorithm.act_drawn(seen, drawn)


def load_policy(run_dir: Path | str, which: Which = "latest") -> Policy:
    """The last or the best policy of a run; BadInput where the directory holds none."""
    run_dir = Path(run_dir)
    if not (run_dir / "config.toml").is_file():
        raise BadInput(f"{run_dir} is no run's directory: it has no config.toml")
    config = load_run_config(str(run_dir / "config.toml"))
    if config.env is None:
        raise BadInput(f"{run_dir} holds a run of {config.algorithm.name}, which has no policy")
    found = checkpoint.load(run_dir / "checkpoints" / which, state_alone=True)
    if found is None:
        raise BadInput(f"{run_dir}/checkpoints/{which}: no whole checkpoint there")
    return Policy(config, found.state)


def evaluate(
    run_dir: Path | str,
    episodes: int = 100,
    seed: int | None = None,
    which: Which = "latest",
    video: bool = False,
    deterministic: bool | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Whole episodes of a run's policy, with seeds that training and its own evaluations never used.

    `seed` gives other episodes; `video` also writes the first of them to RUN_DIR/video.mp4. `deterministic`: as the
    run's `evaluation.deterministic`, which it is where it is None. Episodes are cut, and environments made, as the
    run's `evaluation` says. `stop` is asked several times a second; once it is true, the evaluation is that of the
    episodes that are over (of none, a mean of NaN).
    """
    policy = load_policy(run_dir, which)
    settings, evaluation = policy.config.env, policy.config.evaluation
    assert settings is not None
    if deterministic is None:
        deterministic = evaluation.deterministic
    seeds = episode_seeds(policy.config.seed if seed is None else seed, "command", episodes)
    max_steps = longest_episode(settings, evaluation.max_steps)
    if video:  # first: it can fail, and the episodes take their time
        film(policy, seeds[0], Path(run_dir) / "video.mp4", max_steps, stop)
    at_once = evaluation.at_once if evaluation.environments == "own" else min(evaluation.at_once, settings.count)
    players = InEnvironmentsOfTheirOwn(settings, Alone(), at_once)
    try:
        players.max_steps = longest_episode(settings, evaluation.max_steps, players.make())

        def listen(busy: bool) -> bool:
            return busy and not stop()

        played = players.play(policy.act, seeds, listen, None if deterministic else policy.algorithm.drawn_from)
    finally:
        players.close()
    return Evaluation(played.returns, played.metrics, played.cut)


def film(
    policy: Policy,
    seed: int,
    path: Path,
    max_steps: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """One episode as a video, written frame by frame, and cut after `max_steps` or once `stop` is true; BadInput where
    what draws or writes it is not installed, or nothing is drawn."""
    settings = policy.config.env
    assert settings is not None
    try:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

        env = make_environment(settings)
        modes = env.metadata.get("render_modes") or []
        env.close()
        if "rgb_array" not in modes:
            known = ", ".join(modes) or "none"
            raise BadInput(f"--video needs the render mode rgb_array; those of {settings.id}: {known}")
        draw_without_display()
        env = make_environment(settings, render_mode="rgb_array")
        observation, _ = env.reset(seed=seed)
        frame = first_frame(env, settings.id)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise BadInput(f"--video needs the extra 'video': pip install -e '.[video]' ({error})") from None
    height, width = frame.shape[:2]
    with FFMPEG_VideoWriter(str(path), (width, height), env.metadata.get("render_fps", 30)) as film:
        film.write_frame(frame)
        over, steps = False, 0
        while not over and steps != max_steps and not stop():
            steps += 1
            observation, _, terminated, truncated, info = env.step(policy(np.asarray(observation)[None])[0])
            film.write_frame(np.asarray(env.render(), np.uint8))
            if LIFE_LOST in info:
                observation, _ = env.reset()
            else:
                over = terminated or truncated
    env.close()


def draw_without_display() -> None:
    """Where there is no display, MuJoCo draws by EGL, unless the user has said by what."""
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")


def first_frame(env: gym.Env, env_id: str) -> np.ndarray:
    """uint8 (height, width, 3); BadInput where nothing can be drawn on this machine."""
    try:
        return np.asarray(env.render(), np.uint8)
    except (ImportError, gym.error.DependencyNotInstalled):
        raise
    except Exception as error:  # of whatever library draws it
        by = ""
        if "mujoco" in sys.modules:
            by = f"; MUJOCO_GL may be egl, osmesa or glfw, it is {os.environ.get('MUJOCO_GL') or 'unset'}"
        raise BadInput(f"--video: {env_id} cannot be drawn here ({one_line(error)}){by}") from None
