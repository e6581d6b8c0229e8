"""gymnasium's CartPole vector, bit for bit, in a quarter of its time for few environments.

gymnasium's own class spends its step on temporaries and checks, draws all resets from one stream in the order in which
episodes happen to end (so that episodes depend on how many environments share the vector), and resets in the step after
the end. Here each environment has a stream of its own, and resets in the step in which its episode ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from harness.envs.backends.base import InTurn, StepResult

STARTS = 32
"""Starts of episodes that are drawn at once: the numbers are those of single draws, in a tenth of the time."""


class CartPole(InTurn):
    """The arithmetic is that of `CartPoleVectorEnv.step`, in its order, in float64; only where it is written differs.

    The state lies in one array whose rows are x, theta, their velocities, and their accelerations, so that one
    multiplication and one addition integrate all of it (explicit Euler). The rows of the accelerations hold the cosine
    and the sine until they are known.
    """

    def __init__(self, count: int, max_episode_steps: int = 500, sutton_barto_reward: bool = False) -> None:
        model = CartPoleVectorEnv(1)
        assert isinstance(model.single_observation_space, spaces.Box)
        super().__init__("native", count, model.single_observation_space, model.single_action_space)
        self.low, self.high, self.limit, self.sutton_barto_reward = -0.05, 0.05, max_episode_steps, sutton_barto_reward
        rows = np.zeros((6, count))
        self.state_rows = rows[:4]
        """float64 (4, envs): x, theta, and their velocities."""
        self.theta, self.cos, self.sin = rows[1], rows[4], rows[5]
        self.velocity_and_cos = rows[3:5]
        self.all, self.rates, self.positions = self.state_rows.reshape(-1), rows[2:].reshape(-1), rows[:2].reshape(-1)
        self.observed = self.state_rows.reshape(2, 2, count).transpose(2, 1, 0)
        """The state in the order of an observation: (envs, x or theta, position or velocity)."""
        self.change, self.distance = np.empty(4 * count), np.empty(2 * count)
        self.outside = np.empty(2 * count, dtype=bool)
        self.x_outside, self.theta_outside = self.outside[:count], self.outside[count:]
        self.squares = np.empty((2, count))
        self.push, self.denominator, self.product = self.squares[0], self.squares[1], np.empty(count)
        # numpy takes an array of one number faster than a float, and whole arrays faster than a column
        self.masses = np.repeat([[model.polemass_length], [model.masspole]], count, axis=1)
        self.limits = np.repeat([model.x_threshold, model.theta_threshold_radians], count)
        self.forces = np.array([-model.force_mag, model.force_mag])
        self.total_mass, self.length, self.gravity = map(np.asarray, (model.total_mass, model.length, model.gravity))
        self.polemass_length, self.tau = np.asarray(model.polemass_length), np.asarray(model.tau)
        self.four_thirds = np.asarray(4.0 / 3.0)
        self.ones = np.ones(count, dtype=np.float32)

    def reset(self, seeds: list[int]) -> np.ndarray:
        self.streams = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        self.now = 0
        self.ends = np.zeros(self.count, dtype=np.int64)
        """int64 (envs,): the step, counted by `now`, in which the time limit cuts the present episode."""
        self.starts = np.stack([self.draw(env) for env in range(self.count)])
        """float64 (envs, STARTS, 4): states that the next episodes begin with."""
        self.taken = np.zeros(self.count, dtype=np.int64)
        self.begin(np.arange(self.count))
        return self.observe()

    def draw(self, env: int) -> np.ndarray:
        """The next starts of an environment, from its own stream."""
        return self.streams[env].uniform(self.low, self.high, size=(STARTS, 4))[:, [0, 2, 1, 3]]

    def begin(self, which: np.ndarray) -> None:
        taken = self.taken[which]
        self.state_rows[:, which] = self.starts[which, taken].T
        self.taken[which] = taken = taken + 1
        self.ends[which] = self.now + self.limit
        self.first_end = int(self.ends.min())
        for env in which[taken == STARTS]:
            self.starts[env], self.taken[env] = self.draw(env), 0

    def observe(self) -> np.ndarray:
        observations = np.empty((self.count, 2, 2), np.float32)
        observations[...] = self.observed
        return observations.reshape(self.count, 4)

    def state(self) -> dict[str, Any]:
        return {
            "state": self.state_rows.T.copy(),
            "starts": self.starts.copy(),
            "taken": self.taken.copy(),
            "left": self.ends - self.now,
            "streams": [stream.bit_generator.state for stream in self.streams],
        }

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        self.state_rows[:] = state["state"].T
        self.starts[:], self.taken[:], self.ends[:] = state["starts"], state["taken"], self.now + state["left"]
        self.first_end = int(self.ends.min())
        for stream, own in zip(self.streams, state["streams"]):
            stream.bit_generator.state = own
        return np.ones(self.count, dtype=bool)

    def step(self, actions: np.ndarray) -> StepResult:
        """`actions`: int (envs,), 0 or 1."""
        add, subtract, multiply, divide = np.add, np.subtract, np.multiply, np.divide
        cos, sin, push, denominator, product = self.cos, self.sin, self.push, self.denominator, self.product
        np.cos(self.theta, cos)
        np.sin(self.theta, sin)
        np.square(self.velocity_and_cos, self.squares)
        multiply(self.squares, self.masses, self.squares)
        multiply(push, sin, push)
        add(push, self.forces[actions], push)
        divide(self.squares, self.total_mass, self.squares)  # push is gymnasium's `temp` now
        subtract(self.four_thirds, denominator, denominator)
        multiply(denominator, self.length, denominator)
        multiply(cos, push, product)
        multiply(sin, self.gravity, sin)
        subtract(sin, product, sin)
        divide(sin, denominator, sin)  # theta's acceleration, in its row
        multiply(sin, self.polemass_length, product)
        multiply(product, cos, product)
        divide(product, self.total_mass, product)
        subtract(push, product, cos)  # x's acceleration, in its row
        multiply(self.rates, self.tau, self.change)
        add(self.all, self.change, self.all)

        np.absolute(self.positions, self.distance)
        np.greater(self.distance, self.limits, self.outside)
        terminated = self.x_outside | self.theta_outside
        self.now += 1
        done = terminated
        if self.now < self.first_end:
            truncated = np.zeros(self.count, dtype=bool)
        else:
            truncated = self.ends <= self.now
            done = terminated | truncated
        rewards = -terminated.astype(np.float32) if self.sutton_barto_reward else self.ones.copy()
        observations, final = self.observe(), None
        if np.count_nonzero(done):
            final = observations
            self.begin(np.flatnonzero(done))
            observations = self.observe()
        return StepResult(observations, rewards, rewards, terminated, truncated, final)
