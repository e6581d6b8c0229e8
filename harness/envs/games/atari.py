"""Atari games by ale-py, with the preprocessing of Mnih et al. (2015) in one environment.

A step costs about 0.5 ms, of which the emulator takes four fifths, so that several layers of wrappers in Python would
not cost much; but what they do to lives, flickering sprites and the ends of games depends on their order, and here it
can be read from top to bottom.
"""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from ale_py import roms
from gymnasium import spaces

from harness.envs.settings import LIFE_LOST, AtariSettings, stickiness
from harness.envs.snapshots.ale import emulator_state, load_emulator

FRAMES_PER_SECOND = 60
KEPT = ("frames", "last", "stack", "steps", "lives", "goes_on")
"""The attributes that are a game's state, beside the emulator's own."""


def make_game(env_id: str, settings: AtariSettings, **kwargs: Any) -> Atari:
    """The game that ale-py registers as `env_id`."""
    return Atari(gym.spec(env_id).kwargs["game"], settings, stickiness(env_id, settings), **kwargs)


class Atari(gym.Env):
    """Observations are uint8 (stack, size, size), or (3 * stack, size, size) in colours; rewards are the game's own."""

    def __init__(
        self,
        game: str,
        settings: AtariSettings,
        repeat_action_probability: float,
        max_episode_steps: int = 27_000,
        mode: int | None = None,
        difficulty: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """`game`: the ROM's name; `max_episode_steps`: after which a game is cut, by default half an hour of play."""
        self.settings, self.max_episode_steps, self.render_mode = settings, max_episode_steps, render_mode
        self.game, self.mode, self.difficulty = game, mode, difficulty
        fps = FRAMES_PER_SECOND // settings.frame_skip
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps, "frame_stack": settings.stack}
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", repeat_action_probability)
        self.load()
        full = settings.full_action_space
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.fires = settings.fire_on_reset and ale_py.Action.FIRE in self.actions
        height, width = self.ale.getScreenDims()
        size, channels = settings.screen_size, 1 if settings.grey else 3
        self.resize = AreaResize(height, width, size, size)
        self.frames = np.zeros((2, height, width) if settings.grey else (2, height, width, channels), np.uint8)
        """The last two, of which `last` is the newer."""
        self.last = 0
        self.channels = channels
        self.stack = np.zeros((settings.stack * channels, size, size), np.uint8)
        self.observation_space = spaces.Box(0, 255, self.stack.shape, np.uint8)
        self.action_space = spaces.Discrete(len(self.actions))
        self.goes_on = False
        """Whether a life was lost and the game is not over: what `reset` goes on with."""

    def load(self) -> None:
        """Loads the game, which also takes a new seed into use."""
        path = roms.get_rom_path(self.game)
        assert path is not None
        self.ale.loadROM(path)
        if self.mode is not None:
            self.ale.setMode(self.mode)
        if self.difficulty is not None:
            self.ale.setDifficulty(self.difficulty)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new game; or the next life of this one, where the last episode ended by losing one and `seed` is None."""
        super().reset(seed=seed)
        if seed is not None:
            self.ale.setInt("random_seed", int(self.np_random.integers(2**31)))
            self.load()
        if self.goes_on and seed is None:
            waits = int(self.fires)
        else:
            waits = int(self.np_random.integers(1, self.settings.noop_max + 1)) if self.settings.noop_max else 0
            waits = max(waits, int(self.fires))
            self.ale.reset_game()
            self.steps = 0
        for left in range(waits, 0, -1):
            self.ale.act(ale_py.Action.FIRE if self.fires and left == 1 else ale_py.Action.NOOP)
            if self.ale.game_over():
                self.ale.reset_game()
        self.goes_on = False
        self.lives = self.ale.lives()
        self.keep_frame()
        screen = self.resize(self.frames[self.last])
        for first in range(0, len(self.stack), self.channels):
            self.stack[first : first + self.channels] = screen
        return self.stack.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        ale, settings = self.ale, self.settings
        chosen, reward, kept, over = self.actions[int(action)], 0.0, 0, False
        for left in range(settings.frame_skip - 1, -1, -1):
            reward += ale.act(chosen)
            over = ale.game_over()
            if left == 0 or over or (left == 1 and settings.max_pool):
                self.keep_frame()
                kept += 1
            if over:
                break
        screen = self.resize(self.frames.max(0) if kept == 2 else self.frames[self.last])
        self.stack[: -self.channels] = self.stack[self.channels :]
        self.stack[-self.channels :] = screen
        self.steps += 1
        truncated = not over and self.steps >= self.max_episode_steps
        lives = ale.lives()
        self.goes_on = settings.episodic_life and 0 < lives < self.lives and not over and not truncated
        self.lives = lives
        info: dict[str, Any] = {LIFE_LOST: True} if self.goes_on else {}
        return self.stack.copy(), reward, over or self.goes_on, truncated, info

    def get_state(self) -> dict[str, Any]:
        """The game's state (its random numbers come beside)."""
        kept = {name: getattr(self, name) for name in KEPT}
        return {"emulator": emulator_state(self.ale), **kept}

    def set_state(self, state: dict[str, Any]) -> None:
        load_emulator(self.ale, state["emulator"])
        for name in KEPT:
            setattr(self, name, state[name])

    def keep_frame(self) -> None:
        self.last = 1 - self.last
        if self.settings.grey:
            self.ale.getScreenGrayscale(self.frames[self.last])
        else:
            self.ale.getScreenRGB(self.frames[self.last])

    def render(self) -> np.ndarray:
        """The screen as it is, uint8 (height, width, 3)."""
        return self.ale.getScreenRGB()


class AreaResize:
    """Resizes frames so that a pixel is the mean of the area that it covers, rounded to the nearest, halves to even.

    Areas are counted in whole numbers, so that the sums are exact. (OpenCV's INTER_AREA means the same and rounds its
    sums on the way: a pixel of some thousands differs by 1.) No product of matrices: numpy's would wake threads, which
    ranks that share the cores pay for with milliseconds.
    """

    def __init__(self, height: int, width: int, new_height: int, new_width: int) -> None:
        rows, columns = area_weights(height, new_height), area_weights(width, new_width)
        self.area = np.float32(rows[0].sum() * columns[0].sum())
        dtype = np.uint16 if 255 * self.area < 2**16 else np.uint32
        self.rows = [(taps, weights.astype(dtype)[:, None]) for taps, weights in few(rows)]
        self.columns = [(taps, weights.astype(dtype)) for taps, weights in few(columns)]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 (height, width) to (new_height, new_width), and (height, width, 3) to (3, new_height, new_width)."""
        if frame.ndim == 3:
            return np.stack([self(channel) for channel in np.moveaxis(frame, -1, 0)])
        for axis, parts in enumerate((self.rows, self.columns)):
            taps, weights = parts[0]
            total = frame.take(taps, axis) * weights
            for taps, weights in parts[1:]:
                total += frame.take(taps, axis) * weights
            frame = total
        means = frame / self.area
        return np.rint(means, out=means).astype(np.uint8)


def few(weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """A new pixel lies in few old ones: for the first of them, the second, …, which it is and its weight, (new,) each.

    `weights`: (new, old).
    """
    new, old = weights.shape
    most = int((weights > 0).sum(1).max())
    first = np.minimum((weights > 0).argmax(1), old - most)
    return [(first + tap, weights[np.arange(new), first + tap]) for tap in range(most)]


def area_weights(old: int, new: int) -> np.ndarray:
    """int64 (new, old): how much of each old pixel lies in each new one, in units that make all of it whole numbers."""
    edges = np.arange(old + 1) * new
    low = np.arange(new)[:, None] * old
    return np.maximum(0, np.minimum(edges[1:], low + old) - np.maximum(edges[:-1], low)) // np.gcd(old, new)
