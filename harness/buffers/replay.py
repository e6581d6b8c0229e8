"""A rank's share of the replay memory: what its environments went through, in their order, every observation once.

Each environment has a ring of transitions and a ring of frames. An observation is written once, as the frame that
transition t ends with and t + 1 begins with; where observations are stacks of the last frames, only their newest frame
is written, and the stack is put together again when it is drawn. So that no transition mixes two episodes, an episode
begins with all frames of its first observation, and one that a time limit cut ends with one more: its last observation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.buffers.ring import Ring
from harness.envs.backends.base import StepResult

GOES_ON, TERMINATED, TRUNCATED = range(3)
"""What followed a transition: the next of its episode, nothing, or what a limit cut off."""
RINGS = ("actions", "rewards", "ends", "places")
"""What there is of each transition."""
COUNTERS = ("written", "count", "first")


class Replay:
    """The last `capacity` transitions of each of `envs` environments, in preallocated arrays.

    A transition has a number, counted from 0 in its environment for ever; of one that is not kept any more the place is
    another's. Frames that episodes' ends need beside their transitions have a margin of 1/32; where that is too little,
    the oldest transitions are given up earlier.
    """

    def __init__(
        self,
        capacity: int,
        envs: int,
        observation_shape: tuple[int, ...],
        observation_dtype: np.dtype,
        action: np.ndarray,
        n_steps: int = 1,
        gamma: float = 0.99,
        stack: int = 1,
    ) -> None:
        """`capacity`: of each environment. `action`: an example of one, for its shape and dtype. `stack`: how many
        frames of equal size an observation has along its first axis, the newest last, of which each step brings one; 1:
        it is a whole of its own."""
        self.capacity, self.envs, self.n_steps, self.gamma, self.stack = capacity, envs, n_steps, gamma, stack
        self.observation_shape = self.frame_shape = observation_shape
        if stack > 1:
            if observation_shape[0] % stack:
                raise ValueError(f"observations must be stacks of {stack} frames, got the shape {observation_shape}")
            self.frame_shape = (observation_shape[0] // stack, *observation_shape[1:])
        self.slots = frame_slots(capacity, stack)
        self.frames = np.zeros((envs * self.slots, *self.frame_shape), observation_dtype)
        """(envs * slots, *frame_shape): environment e's ring begins at e * slots."""
        self.actions = np.zeros((envs * capacity, *action.shape), action.dtype)
        self.rewards = np.zeros(envs * capacity, np.float32)
        self.ends = np.zeros(envs * capacity, np.uint8)
        self.places = np.zeros(envs * capacity, np.int64)
        """Which frame, counted from 0 for ever, is the newest of the observation that a transition begins with."""
        self.written = np.zeros(envs, np.int64)
        """Frames that were ever written, of each environment."""
        self.count = np.zeros(envs, np.int64)
        """Transitions that were ever added."""
        self.first = np.zeros(envs, np.int64)
        """The oldest transition that is kept."""
        self.every = np.arange(envs)

    # -- what comes in -------------------------------------------------------------------------------------------------

    def begin(self, observations: np.ndarray) -> None:
        """`observations` (envs, *obs_shape) are the first of new episodes, in all environments."""
        for env in range(self.envs):
            self._begin(env, observations[env])

    def add(self, actions: np.ndarray, result: StepResult) -> None:
        """One step of all environments, by `actions` (envs, …), from the observations that came last."""
        every = self.every if result.valid is None else np.flatnonzero(result.valid)
        at = every * self.capacity + self.count[every] % self.capacity
        ends = result.terminated + TRUNCATED * (result.truncated & ~result.terminated)
        chosen = slice(None) if result.valid is None else every
        self.actions[at] = actions[chosen]
        self.rewards[at] = result.rewards[chosen]
        self.ends[at] = ends[chosen]
        self.places[at] = self.written[every] - 1
        self.count[every] += 1
        ended = result.final_observations is not None and bool(ends.any())
        if not ended and result.valid is None:
            self._write(self.every, result.observations)
            return
        goes_on = ends == GOES_ON if result.valid is None else (ends == GOES_ON) & result.valid
        on = np.flatnonzero(goes_on)
        self._write(on, result.observations[on])
        for env in np.flatnonzero(~goes_on).tolist():
            if ends[env] == TRUNCATED:
                assert result.final_observations is not None
                self._write(env, result.final_observations[env : env + 1])
            self._begin(env, result.observations[env])

    def _begin(self, env: int, observation: np.ndarray) -> None:
        for frame in range(1 - self.stack, 0):
            self._write(env, observation[None], frame - 1)
        self._write(env, observation[None])

    def _write(self, envs: np.ndarray | int, observations: np.ndarray, frame: int = -1) -> None:
        """One frame of each of `observations`, the newest unless `frame` says otherwise."""
        at = envs * self.slots + self.written[envs] % self.slots
        if self.stack > 1:
            observations = observations.reshape(-1, self.stack, *self.frame_shape)[:, frame]
        self.frames[at] = observations
        self.written[envs] += 1

    # -- what can be drawn ---------------------------------------------------------------------------------------------

    def window(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 (envs,) each: the first transition that can be drawn, and how many can from there on. The last
        n_steps - 1 wait for what follows them."""
        np.maximum(self.first, self.count - self.capacity, out=self.first)
        while True:
            at = self.every * self.capacity + self.first % self.capacity
            overwritten = self.places[at] - (self.stack - 1) < self.written - self.slots
            overwritten &= self.first < self.count
            if not overwritten.any():
                break
            self.first += overwritten
        return self.first, np.maximum(self.count - self.n_steps + 1 - self.first, 0)

    def sample(self, env: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The numbers (n,) of one transition of each environment in `env`, uniform where `draws` are in [0, 1)."""
        first, sizes = self.window()
        return first[env] + (draws * sizes[env]).astype(np.int64)

    def fetch(self, env: np.ndarray, number: np.ndarray, out: Mapping[str, np.ndarray]) -> None:
        """Fills `out` with the transitions `number` (n,) of the environments `env` (n,), in its first n rows.

        `observations`, `actions`; `returns`: the discounted sum of the n_steps rewards, or of those up to the end of
        the episode; `discounts`: what the value of `next_observations` is multiplied by then, γ to the number of those
        rewards, and 0 where the episode terminated. (Sutton and Barto 2018, equation 7.1; Pardo et al. 2018, equation
        6: what a time limit cut off has a value.)
        """
        n = len(env)
        base = env * self.capacity
        at = base + number % self.capacity
        returns, last, steps = self.rewards[at], at, np.ones(n, np.int64)
        goes_on = self.ends[at] == GOES_ON
        for step in range(1, self.n_steps):
            at_step = base + (number + step) % self.capacity
            returns = returns + np.where(goes_on, np.float32(self.gamma**step) * self.rewards[at_step], np.float32(0))
            last = np.where(goes_on, at_step, last)
            steps += goes_on
            goes_on &= self.ends[at_step] == GOES_ON
        out["returns"][:n] = returns
        out["discounts"][:n] = np.where(self.ends[last] == TERMINATED, 0.0, self.gamma**steps)
        np.take(self.actions, at, axis=0, out=out["actions"][:n], mode="clip")
        self._observations(env, self.places[at], out["observations"][:n])
        self._observations(env, self.places[last] + 1, out["next_observations"][:n])

    def _observations(self, env: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """The observations whose newest frames are at `places`."""
        if self.stack == 1:
            np.take(self.frames, env * self.slots + places % self.slots, axis=0, out=out, mode="clip")
            return
        stacks = places[:, None] + np.arange(1 - self.stack, 1)
        out = out.reshape(-1, self.stack, *self.frame_shape)
        np.take(self.frames, env[:, None] * self.slots + stacks % self.slots, axis=0, out=out, mode="clip")

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in ("frames", *RINGS, *COUNTERS))

    def rings(self) -> dict[str, Ring]:
        """The transitions and their frames: the arrays themselves, whose slots are written in their order."""
        first, _ = self.window()
        kept = {name: Ring(self.by_environment(name), first, self.count) for name in RINGS}
        return {"frames": Ring(self.by_environment("frames"), self.written - self.slots, self.written), **kept}

    def by_environment(self, name: str) -> np.ndarray:
        array = getattr(self, name)
        return array.reshape(self.envs, -1, *array.shape[1:])

    def state(self) -> dict[str, Any]:
        """What is to be known beside the rings: arrays (envs, …)."""
        return {name: getattr(self, name).copy() for name in COUNTERS}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """After the rings were filled."""
        for name in COUNTERS:
            getattr(self, name)[...] = state[name]

    def break_off(self, env: int, observation: np.ndarray) -> None:
        """The last episode of `env` goes no further, as if a limit had cut it off; `observation` begins another."""
        if self.count[env]:
            last = env * self.capacity + (self.count[env] - 1) % self.capacity
            if self.ends[last] == GOES_ON:
                self.ends[last] = TRUNCATED
        self._begin(env, observation)


def frame_slots(capacity: int, stack: int) -> int:
    """How many frames an environment's ring has."""
    return capacity + capacity // 32 + 4 * (stack + 1)


def bytes_of(
    transitions: int, observation_shape: tuple[int, ...], dtype: np.dtype, action: np.ndarray, stack: int
) -> int:
    """What a replay of so many transitions takes, before it is made."""
    frame = math.prod(observation_shape) // stack * dtype.itemsize
    return frame_slots(transitions, stack) * frame + transitions * (action.nbytes + 4 + 1 + 8)
