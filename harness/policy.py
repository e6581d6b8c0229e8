"""A trained policy, loaded from its run's directory: to act with, or to be evaluated."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch

from harness.algorithms import Context, Evaluation, algorithm_class
from harness.config import RunConfig, load_run_config
from harness.distributed.collectives import Alone
from harness.envs import Environments, make_environment, make_environments, play_episodes
from harness.envs.making import one_line
from harness.envs.playing import episode_seeds
from harness.envs.settings import LIFE_LOST
from harness.errors import BadInput
from harness.lifecycle import checkpoint
from harness.reporting import PhaseTimer
from harness.training.compiled import CompileSettings

Which = Literal["latest", "best"]


class Policy:
    """`policy(observations)`: observations (n, *obs_shape) to the deterministic actions, as the environment takes
    them."""

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

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return self.algorithm.act_best(self.environments.normalize(observations))


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
    run_dir: Path | str, episodes: int = 100, seed: int | None = None, which: Which = "latest", video: bool = False
) -> Evaluation:
    """Whole episodes of a run's policy, with seeds that training and its own evaluations never used.

    `seed` gives other episodes; `video` also writes the first of them to RUN_DIR/video.mp4.
    """
    policy = load_policy(run_dir, which)
    assert policy.config.env is not None
    seeds = episode_seeds(policy.config.seed if seed is None else seed, "command", episodes)
    if video:  # first: it can fail, and the episodes take their time
        film(policy, seeds[0], Path(run_dir) / "video.mp4")
    return Evaluation(play_episodes(policy.config.env, policy, seeds, Alone()))


def film(policy: Policy, seed: int, path: Path) -> None:
    """One episode as a video, written frame by frame; BadInput where what draws or writes it is not installed, or
    nothing is drawn."""
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
        over = False
        while not over:
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
