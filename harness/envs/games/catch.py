"""Catch (Mnih et al. 2014, https://arxiv.org/abs/1406.6247; bsuite, Osband et al. 2020) on 84 x 84 pixels: a small
task for image networks.

A ball falls from the top of a 12 x 12 board, a cell a step. The paddle at the bottom moves left, stays, or moves right.
An episode is one ball, 11 steps: a return of 1 if it is caught, else -1.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CELLS, PIXELS, STACK = 12, 7, 4


class Catch(gym.Env):
    """Observations: uint8 (4, 84, 84), the last four screens, the newest last. Actions: 0 left, 1 stay, 2 right."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8, "frame_stack": STACK}
    observation_space = spaces.Box(0, 255, (STACK, CELLS * PIXELS, CELLS * PIXELS), np.uint8)
    action_space = spaces.Discrete(3)
    episode_length = CELLS - 1

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.screens = np.zeros(self.observation_space.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.row, self.paddle = 0, CELLS // 2
        self.column = int(self.np_random.integers(CELLS))
        self.screens[:] = self.screen()
        return self.screens.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.paddle = min(max(self.paddle + int(action) - 1, 0), CELLS - 1)
        self.row += 1
        self.screens[:-1] = self.screens[1:]
        self.screens[-1] = self.screen()
        down = self.row == CELLS - 1
        reward = 0.0 if not down else 1.0 if self.column == self.paddle else -1.0
        return self.screens.copy(), reward, down, False, {}

    def screen(self) -> np.ndarray:
        """uint8 (84, 84): a cell is 7 x 7 pixels; the ball is white, the paddle grey."""
        screen = np.zeros((CELLS, PIXELS, CELLS, PIXELS), np.uint8)
        screen[-1, :, self.paddle] = 128
        screen[self.row, :, self.column] = 255
        return screen.reshape(CELLS * PIXELS, CELLS * PIXELS)

    def render(self) -> np.ndarray:
        """uint8 (84, 84, 3)"""
        return np.repeat(self.screens[-1, :, :, None], 3, axis=2)


gym.register("Catch-v0", Catch)  # type: ignore[arg-type]
