"""What environments share, or a reset leaves as it was, is in no checkpoint; what changes is."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from harness.envs import EnvSettings, make_environments
from harness.envs.snapshots.large_values import LARGE_BYTES, LARGE_ITEMS
from harness.envs.snapshots.snapshot import Snapshots, put_back
from harness.lifecycle.checkpoints.serialization import as_arrays, as_tensors
from harness.run.checkpointer import MUCH, bytes_in

TABLE = np.random.default_rng(0).normal(size=50_000)
"""400 KB, which all environments look into."""


class Prices(gym.Env):
    """Sees a price at a time. `kind`: what it holds."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, kind: str = "shared") -> None:
        self.kind = kind
        self.prices: Any = TABLE if kind == "shared" else TABLE.copy()
        if kind == "rows":
            self.prices = [[float(price), "x"] for price in TABLE[:5000]]
        if kind == "in a dict":
            self.tables = {"prices": TABLE.copy(), "names": [str(number) for number in range(LARGE_ITEMS)]}
        if kind == "a view":
            self.window = self.prices[100:20_000]
        if kind == "written":
            self.visits = np.zeros(20_000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.kind == "drawn":
            self.prices = self.np_random.normal(size=50_000)
        if self.kind == "read again":
            self.prices = TABLE.copy()
        self.at = int(self.np_random.integers(4000))
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        seen = self.prices[self.at]
        if self.kind == "written":
            seen = self.visits[self.at]
        return np.array([seen[0] if isinstance(seen, list) else seen])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.kind == "written":
            self.visits[self.at] += 1
        self.at += 1 - 2 * (self.steps % 2)
        self.steps += 1
        return self.observe(), 0.0, self.steps >= 50, False, {}


gym.register("Prices-v0", Prices)


def stored(state: Any) -> tuple[Any, int]:
    """As a checkpoint gives it back, and how many bytes that took."""
    file = io.BytesIO()
    torch.save(as_tensors(state), file)
    size = file.tell()
    file.seek(0)
    return as_arrays(torch.load(file, weights_only=True)), size


def settings(kind: str, backend: str = "sync") -> EnvSettings:
    return EnvSettings(id=f"{__name__}:Prices-v0", kwargs={"kind": kind}, count=4, backend=backend, workers=2)


def steps(envs: Any, count: int) -> list[Any]:
    return [envs.step(np.zeros(4, np.int64)).observations for _ in range(count)]


KINDS = {
    "shared": 20_000,
    "own": 20_000,
    "rows": 20_000,
    "in a dict": 20_000,
    "a view": 20_000,
    "read again": 20_000,
    "written": 4 * 160_000 + 20_000,
    "drawn": 4 * 400_000 + 20_000,
}
"""How many bytes the states of four environments take at most."""


@pytest.mark.parametrize(("kind", "backend"), [*((kind, "sync") for kind in KINDS), ("shared", "workers")])
def test_a_state_holds_what_changes_and_goes_on(kind: str, backend: str) -> None:
    envs = make_environments(settings(kind, backend), 0, 1)
    envs.reset(seed=1)
    steps(envs, 60)  # into the second episode
    state, size = stored(envs.local_state())
    assert size < KINDS[kind], size
    expected = steps(envs, 70)
    envs.close()
    other = make_environments(settings(kind, backend), 0, 1)
    begun = other.reset(seed=2)
    assert other.load_local_state(state, begun).all()
    np.testing.assert_array_equal(steps(other, 70), expected)
    again, size = stored(other.local_state())
    assert size < KINDS[kind], "the checkpoint of a resumed run is as small"
    other.close()


def test_another_table_than_a_reset_leaves_is_not_gone_on_with() -> None:
    envs = make_environments(settings("own"), 0, 1)
    envs.reset(seed=1)
    state, _ = stored(envs.local_state())
    other = make_environments(settings("own"), 0, 1)
    other.vector.envs[1].unwrapped.prices[7] += 1.0  # type: ignore[attr-defined]
    assert other.load_local_state(state, other.reset(seed=2)).tolist() == [True, False, True, True]
    for each in (envs, other):
        each.close()


def test_what_is_written_after_the_first_save_is_kept_from_then_on() -> None:
    env = Prices("own")
    snapshots = Snapshots()
    with snapshots.resetting([env]):
        env.reset(seed=1)
    assert stored(snapshots.take([env]))[1] < LARGE_BYTES
    env.prices[3] = 5.0
    state, size = stored(snapshots.take([env]))
    assert size > TABLE.nbytes
    other = Prices("own")
    other.reset(seed=1)
    assert put_back(other, state[0]) and other.prices[3] == 5.0 and TABLE[3] != 5.0


def test_a_file_that_is_mapped_is_not_read(tmp_path: Any) -> None:
    np.save(tmp_path / "prices.npy", TABLE)
    make: Callable[[], Prices] = lambda: Prices("own")  # noqa: E731
    envs = [make(), make()]
    for env in envs:
        env.prices = np.load(tmp_path / "prices.npy", mmap_mode="r")
    snapshots = Snapshots()
    with snapshots.resetting(envs):
        for env in envs:
            env.reset(seed=1)
    state, size = stored(snapshots.take(envs))
    assert size < LARGE_BYTES and put_back(envs[1], state[0])


def test_what_comes_to_much_is_counted() -> None:
    state = {"envs": [[{"holds": {"map": np.zeros(MUCH // 16), "rows": [1.0] * 100}}] for _ in range(2)]}
    assert MUCH <= bytes_in(state) < 1.1 * MUCH
