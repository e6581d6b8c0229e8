"""Action spaces of any bounds and dtypes: no action leaves its space. Observation spaces of any kind: what the policy
sees is what the environment gave."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.acting.actors import MLPActor, make_actor
from harness.algorithms import Context, algorithm_class
from harness.buffers import Rollout
from harness.config import resolve
from harness.distributed.transports.base import Alone
from harness.envs import EnvSettings, inspection, make_environment, make_environments
from harness.envs.inspection import inspect_environment
from harness.errors import BadInput
from harness.models.action_heads import Bounds, HeadOptions, make_action_head
from harness.models.actor_critic import make_actor_critic
from harness.models.spaces import check_bounds
from harness.reporting import PhaseTimer
from harness.schema import NetworkSettings

FLOATS, WHOLE = ["float16", "float32", "float64"], ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]
SHAPES = [(), (1,), (3,), (2, 2)]
quickly = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def given_environment() -> Iterator[None]:
    gym.register("Given-v0", "tests.harness.envs.oddities:Plain")
    yield
    inspection.close_spare()
    inspection.latest = None
    del gym.registry["Given-v0"]


@st.composite
def boxes(draw: Any, bounded: bool = False) -> spaces.Box:
    """Any bounds that a dtype has: extreme, equal, missing on one side or both."""
    dtype = np.dtype(draw(st.sampled_from([*FLOATS, *WHOLE, "bool"])))
    shape = draw(st.sampled_from(SHAPES))
    if dtype.kind == "f":
        width = dtype.itemsize * 8
        numbers: Any = st.floats(allow_nan=False, allow_infinity=not bounded, width=width)
    elif dtype.kind == "b":
        numbers = st.integers(0, 1)
    else:
        limits = np.iinfo(dtype)
        numbers = st.integers(max(limits.min, -(2**63)), min(limits.max, 2**63 - 2))
    size = int(np.prod(shape))
    pairs = [sorted((draw(numbers), draw(numbers))) for _ in range(size)]
    low, high = (np.array([pair[end] for pair in pairs], dtype).reshape(shape) for end in (0, 1))
    if dtype.kind == "f":  # a space of one infinity alone has no numbers in it
        low, high = np.where(low == np.inf, 0, low).astype(dtype), np.where(high == -np.inf, 0, high).astype(dtype)
        low = np.minimum(low, high)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spaces.Box(low, high, dtype=dtype.type)


@st.composite
def choices(draw: Any) -> spaces.Space:
    kind = draw(st.sampled_from(["discrete", "multidiscrete", "multibinary"]))
    if kind == "multibinary":
        return spaces.MultiBinary(draw(st.sampled_from([1, 3, (2, 2)])))
    dtype = np.dtype(draw(st.sampled_from(["int8", "int16", "int32", "int64"]))).type
    start = draw(st.integers(-100, 100))
    if kind == "discrete":
        return spaces.Discrete(draw(st.integers(1, 20)), start=start, dtype=dtype)
    nvec = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    if draw(st.booleans()):
        nvec = nvec[:, None]
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=np.full(nvec.shape, start))


def as_taken(space: spaces.Space) -> spaces.Space:
    """As the policy has it: numbers alone are vectors of one."""
    env = make_environment(EnvSettings(id="Given-v0", kwargs=of(action=space)))
    return env.action_space


def of(observation: spaces.Space | None = None, action: spaces.Space | None = None) -> dict[str, Any]:
    return {
        "observation_space": observation or spaces.Box(-1.0, 1.0, (3,), np.float32),
        "action_space": action or spaces.Discrete(2),
    }


def outputs(count: int, width: int, seed: int) -> torch.Tensor:
    """Of a network: small, large, and none at all."""
    draw = np.random.default_rng(seed)
    scale = draw.choice([1e-3, 1.0, 1e3, 1e30], (count, 1))
    values = (draw.standard_normal((count, width)) * scale).astype(np.float32)
    values[-1] = np.nan
    return torch.from_numpy(values)


def assert_contained(space: spaces.Space, actions: np.ndarray) -> None:
    for action in actions:
        assert space.contains(action), f"{action!r} {action.dtype} is outside {space}"


@quickly
@given(st.one_of(boxes(), choices()), st.integers(0, 1000), st.booleans(), st.booleans())
def test_no_head_leaves_the_space(space: spaces.Space, seed: int, squash: bool, gsde: bool) -> None:
    space = as_taken(space)
    options = HeadOptions(squash, gsde) if isinstance(space, spaces.Box) else HeadOptions()
    try:
        head = make_action_head(space, "Given-v0", options, features=4)
    except BadInput as error:
        assert options.squash and "without bounds" in str(error)
        return
    parameters = outputs(12, head.parameter_count, seed)
    torch.manual_seed(seed)
    draw = torch.rand if head.noise == "uniform" else torch.randn
    with torch.no_grad():
        for actions in (head.sample(parameters, draw(12, *head.noise_shape)), head.mode(parameters)):
            assert_contained(space, head.for_environment(actions.numpy()))


@quickly
@given(st.one_of(boxes(), choices()), st.integers(0, 1000), st.booleans())
def test_acting_in_numpy_leaves_it_no_more(space: spaces.Space, seed: int, squash: bool) -> None:
    space = as_taken(space)
    squash = squash and isinstance(space, spaces.Box) and bool(space.is_bounded())
    env, observations = EnvSettings(id="Given-v0"), np.random.default_rng(seed).normal(0, 1e3, (6, 3))
    made = NetworkSettings(hidden=[4]), spaces.Box(-1.0, 1.0, (3,), np.float32), space, env, None, HeadOptions(squash)
    module = make_actor_critic(*made)
    actor, head = make_actor(module, torch.device("cpu")), module.head
    assert isinstance(actor, MLPActor) == (not isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)))
    noise = np.random.default_rng(seed).random((2, 6, *head.noise_shape), dtype=np.float32)
    example = head.sample(torch.zeros(1, head.parameter_count), torch.zeros(1, *head.noise_shape))[0]
    rollout = Rollout(2, 6, (3,), np.dtype(np.float32), example.detach().numpy())
    actor.begin(rollout, noise * 100 if head.noise == "normal" else noise)
    for step in range(2):
        assert_contained(space, head.for_environment(actor.act(step, observations.astype(np.float32))))


@quickly
@given(boxes(bounded=True), st.integers(0, 1000))
def test_actions_of_off_policy_actors_stay_in_their_bounds(space: spaces.Box, seed: int) -> None:
    taken = as_taken(space)
    assert isinstance(taken, spaces.Box)
    draw = np.random.default_rng(seed).uniform(-1, 1, (20, int(np.prod(taken.shape)))).astype(np.float32)
    draw[0], draw[1], draw[2] = -1.0, 1.0, np.nan
    draw[3] = np.nextafter(np.float32(1.0), np.float32(0.0))
    scaled = Bounds(taken).scale(draw)
    assert_contained(taken, scaled)
    for reached, bound in ((scaled[0], taken.low), (scaled[1], taken.high)):
        near = 2e-3 * np.maximum(np.abs(taken.low.astype(float)), np.abs(taken.high.astype(float)))
        assert (np.abs(reached.astype(float) - bound.astype(float)) <= near).all(), "both bounds can be reached"


def test_scaled_actions_are_those_of_the_plain_formula() -> None:
    for low, high in [(-2.0, 2.0), (-0.1, 0.7), (0.0, 5.0)]:
        space = spaces.Box(low, high, (3,), np.float32)
        draw = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
        plain = space.low + 0.5 * (draw + 1.0) * (space.high - space.low)
        np.testing.assert_array_equal(Bounds(space).scale(draw), np.clip(plain, space.low, space.high))
    whole = Bounds(spaces.Box(0, 3, (1,), np.int32))
    assert whole.scale(np.linspace(-1, 1, 7)[:, None]).ravel().tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert whole.clip(np.array([[-7.0], [0.4], [1.6], [99.0]])).ravel().tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize("space", [spaces.Box(0.0, np.inf, (1,)), spaces.Box(-np.inf, 3, (2,), np.int32)])
def test_without_bounds_nothing_is_squashed_to_them(space: spaces.Box) -> None:
    with pytest.raises(BadInput, match="actions without bounds"):
        check_bounds(space, "Given-v0", "td3")


# -- through backends and algorithms -----------------------------------------------------------------------------------


@settings(quickly, max_examples=25)
@given(st.one_of(boxes(), choices()), st.integers(0, 1000))
def test_an_environment_is_given_actions_of_its_own_space(space: spaces.Space, seed: int) -> None:
    """It refuses all else."""
    own = EnvSettings(id="Given-v0", kwargs=of(action=space), count=3, backend="sync")
    envs = make_environments(own, 0, 1)
    envs.reset(seed=seed)
    head = make_action_head(envs.action_space, "Given-v0")
    for step in range(6):
        parameters = outputs(3, head.parameter_count, seed + step)
        envs.step(head.for_environment(head.mode(parameters).detach().numpy()))
    envs.close()


ODD_ACTIONS: dict[str, spaces.Space] = {
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "whole numbers": spaces.Box(-3, 2, (2,), np.int64),
    "one number": spaces.Box(-0.1, 0.7, (), np.float32),
    "uneven bounds": spaces.Box(np.array([-0.1, 0.2], np.float32), np.array([0.7, 0.2], np.float32)),
    "float64": spaces.Box(-3.0, 0.2, (2, 2), np.float64),
    "float16": spaces.Box(-0.1, 0.7, (2,), np.float16),
    "as wide as can be": spaces.Box(-3e38, 3e38, (2,), np.float32),
    "half of the numbers": spaces.Box(0.0, np.inf, (2,), np.float32),
    "binary": spaces.MultiBinary(3),
    "binary in rows": spaces.MultiBinary((2, 2)),
    "choices": spaces.MultiDiscrete([2, 3], start=[4, -1], dtype=np.int32),
    "a choice": spaces.Discrete(3, start=-1),
}
BOUNDED = [name for name, space in ODD_ACTIONS.items() if isinstance(space, spaces.Box) and space.is_bounded()]
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"rollout_steps": 16, "minibatch_size": 16, "epochs": 1},
    "a2c": {"rollout_steps": 8},
    "td3": {"learning_starts": 16, "batch_size": 8, "train_freq": 4, "gradient_steps": 1, "buffer_size": 100},
    "sac": {"learning_starts": 16, "batch_size": 8, "train_freq": 4, "gradient_steps": 1, "buffer_size": 100},
    "dqn": {"learning_starts": 16, "batch_size": 8, "train_freq": 4, "gradient_steps": 1, "buffer_size": 100},
}
CASES = [
    *(("ppo", name) for name in ODD_ACTIONS),
    *(("a2c", name) for name in ("bytes", "binary", "one number")),
    *((algorithm, name) for algorithm in ("td3", "sac") for name in BOUNDED),
    ("dqn", "a choice"),
]


@pytest.mark.parametrize(("name", "space"), CASES)
def test_no_algorithm_leaves_the_space(name: str, space: str, tmp_path: Path) -> None:
    """The environment refuses what is outside: while it explores, and as the policy acts in the end."""
    table = {
        "run": {"steps": 512},
        "env": {"id": "Given-v0", "kwargs": of(action=ODD_ACTIONS[space]), "count": 2, "backend": "sync"},
        "algorithm": {"name": name, **SMALL[name]},
        "network": {"hidden": [8]},
        "compile": {"mode": "off"},
    }
    config = resolve(table)
    assert config.env is not None
    found = inspect_environment(config.env)
    config.algorithm.check_spaces(config, found.observation_space, found.action_space)
    envs = make_environments(config.env, 0, 1)
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    algorithm = algorithm_class(name)(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))
    algorithm.iterate(0)
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    assert_contained(envs.action_space, algorithm.act_deterministic(seen))
    algorithm.close()


@pytest.mark.parametrize("space", ["bytes", "one number", "binary in rows", "choices"])
def test_actions_come_through_workers_as_they_are(space: str) -> None:
    own = EnvSettings(id="Given-v0", kwargs=of(action=ODD_ACTIONS[space]), count=2, backend="workers", workers=1)
    envs = make_environments(own, 0, 1)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(6):
        envs.step(np.stack([envs.action_space.sample() for _ in range(2)]))
    envs.close()


# -- observations ------------------------------------------------------------------------------------------------------


@settings(quickly, max_examples=40)
@given(st.data())
def test_what_is_seen_is_what_was_given(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from([*FLOATS, *WHOLE, "bool"])))
    shape = data.draw(st.sampled_from([*SHAPES, (5, 4, 3)]))
    space = spaces.Box(0, 1 if dtype.kind == "b" else 100, shape, dtype.type)
    own = EnvSettings(id="Given-v0", kwargs=of(observation=space), count=2, backend="sync")
    found = inspect_environment(own)
    assert found.observation_space.shape == (shape or (1,))
    assert [line for line in found.notices if "no time limit" not in line] == []
    envs = make_environments(own, 0, 1)
    observations = envs.reset(seed=3)
    assert observations.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert observations.shape == (2, *(shape or (1,)))
    seeds = np.random.SeedSequence([3, 0xE27, 0]).generate_state(2, np.uint32)
    for row, seed in enumerate(seeds.tolist()):
        space.seed(seed)
        assert np.array_equal(observations[row].reshape(shape), space.sample().astype(observations.dtype))
        break  # both environments draw from one and the same space
    envs.close()


@settings(quickly, max_examples=30)
@given(st.data())
def test_what_is_not_what_the_space_says_is_refused(data: st.DataObject) -> None:
    """An environment that gives what another space says. One number in a vector of one is taken for that number."""
    kinds = st.tuples(st.sampled_from([*FLOATS, *WHOLE]), st.sampled_from(SHAPES))
    (said, shape), (given_dtype, given_shape) = data.draw(kinds), data.draw(kinds)
    says, gives = (spaces.Box(0, 100, s, np.dtype(d).type) for d, s in ((said, shape), (given_dtype, given_shape)))
    gym.register("Lies-v0", lambda: Lies(says, gives))
    try:
        inspect_environment(EnvSettings(id="Lies-v0", kwargs={}))
        refused = False
    except BadInput as error:
        refused = True
        assert "Lies-v0" in str(error) and "observation_space says" in str(error) and "\n" not in str(error)
    finally:
        del gym.registry["Lies-v0"]
        inspection.close_spare()
        inspection.latest = None
    loses = np.dtype(given_dtype).kind == "f" and np.dtype(said).kind != "f"
    few = np.dtype(said).kind == "u" or said in ("int8", "int16")
    loses |= few and not np.can_cast(given_dtype, said)
    other_shape = shape != given_shape and (shape, given_shape) != ((), (1,))
    assert refused == (other_shape or loses)


class Lies(gym.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, says: spaces.Box, gives: spaces.Box) -> None:
        self.observation_space, self.gives = says, gives

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.gives.sample(), {}

    def step(self, action: Any) -> Any:
        return self.gives.sample(), 0.0, False, False, {}
