"""Films an episode of a trained policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np

from harness.envs import make_environment
from harness.envs.settings import LIFE_LOST
from harness.errors import BadInput
from harness.policy.policy import Policy
from harness.text import one_line


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
