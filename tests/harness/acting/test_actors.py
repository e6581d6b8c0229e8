"""Every way to act gives the same actions, log-probabilities and values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from harness.acting.actors import MLPActor, ModuleActor, make_actor
from harness.acting.device_actor import DeviceActor
from harness.buffers import Rollout
from harness.models.action_heads import HeadOptions
from harness.models.actor_critic import ActorCritic, make_actor_critic
from harness.schema import NetworkSettings, PrecisionSettings
from harness.training.precision import Precision

CPU = torch.device("cpu")
STEPS, ENVS = 6, 5
SPACES: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(4, start=1),
    "box": spaces.Box(-1, 1, (3,)),
    "several": spaces.MultiDiscrete([2, 3]),
    "squashed": spaces.Box(-1, 1, (3,)),
    "gsde": spaces.Box(-1, 1, (3,)),
    "squashed gsde": spaces.Box(-1, 1, (3,)),
}


def network(space: str, hidden: list[int], activation: Any, shape: tuple[int, ...] = (4,)) -> ActorCritic:
    torch.manual_seed(1)
    settings = NetworkSettings(hidden=hidden, activation=activation)
    env: Any = SimpleNamespace(id="test", normalize_observations=False)
    options = HeadOptions(squash="squashed" in space, gsde="gsde" in space, log_std_init=-1.0)
    module = make_actor_critic(settings, spaces.Box(-1, 1, shape), SPACES[space], env, None, options)
    with torch.no_grad():  # a policy that is far from uniform
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


def rollout_of(actor: Any, module: ActorCritic, shape: tuple[int, ...], groups: list[slice]) -> Rollout:
    draw = np.random.default_rng(0)
    example = module.head.sample(torch.zeros(1, module.head.parameter_count), torch.zeros(1, *module.head.noise_shape))
    rollout = Rollout(STEPS, ENVS, shape, np.dtype(np.float32), example[0].detach().numpy())
    noise_shape = (STEPS, ENVS, *module.head.noise_shape)
    uniform, normal = draw.random(noise_shape, np.float32), draw.standard_normal(noise_shape, np.float32)
    actor.begin(rollout, uniform if module.head.noise == "uniform" else normal)
    for step in range(STEPS):
        rollout.observations[step] = draw.standard_normal((ENVS, *shape))
        for group in groups:
            returned = actor.act(step, rollout.observations[step, group], group)
            np.testing.assert_array_equal(returned, rollout.actions[step, group])
    actor.finish()
    return rollout


@pytest.mark.parametrize("space", ["discrete", "box", "squashed", "gsde", "squashed gsde"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [[], [16], [64, 32]])
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
@pytest.mark.parametrize("groups", [[slice(None)], [slice(0, 2), slice(2, 5)]])
def test_numpy_acts_as_the_module_does(
    space: str, activation: str, hidden: list[int], shape: tuple[int, ...], groups: list[slice]
) -> None:
    if "gsde" in space:
        hidden = hidden or [8]  # features are the last hidden layer
    module = network(space, hidden, activation, shape)
    assert isinstance(make_actor(module, CPU), MLPActor)
    ours = rollout_of(MLPActor(module), module, shape, groups)
    reference = rollout_of(ModuleActor(module, CPU), module, shape, [slice(None)])
    assert len(np.unique(reference.actions)) > 1
    for name in ("actions", "log_probs", "values"):
        np.testing.assert_allclose(getattr(ours, name), getattr(reference, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_was_learned_since_is_acted_on() -> None:
    module = network("discrete", [8], "tanh")
    actor = MLPActor(module)
    before = rollout_of(actor, module, (4,), [slice(None)])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-1.0)
    after = rollout_of(actor, module, (4,), [slice(None)])
    assert not np.allclose(before.log_probs, after.log_probs)
    reference = rollout_of(ModuleActor(module, CPU), module, (4,), [slice(None)])
    np.testing.assert_allclose(after.log_probs, reference.log_probs, rtol=1e-4, atol=1e-5)


def test_a_choice_of_almost_no_probability_is_not_drawn_past_the_end() -> None:
    """Noise next to 1 and rounding must not choose an action that does not exist."""
    module = network("discrete", [8], "tanh")
    for actor in (MLPActor(module), ModuleActor(module, CPU)):
        rollout = Rollout(1, ENVS, (4,), np.dtype(np.float32), np.zeros(1, np.int64))
        actor.begin(rollout, np.full((1, ENVS, 1), np.nextafter(np.float32(1), np.float32(0)), np.float32))
        assert (actor.act(0, np.ones((ENVS, 4), np.float32)) == 3).all()


@pytest.mark.parametrize(("space", "activation"), [("several", "tanh"), ("discrete", "silu")])
def test_other_heads_and_activations_act_by_the_module(space: str, activation: str) -> None:
    assert isinstance(make_actor(network(space, [8], activation), CPU), ModuleActor)


def device_actor(
    module: ActorCritic, groups: list[slice], kind: Any, capture: bool, device: str = "cpu"
) -> DeviceActor:
    example = module.head.sample(torch.zeros(1, module.head.parameter_count), torch.zeros(1, *module.head.noise_shape))
    like = Rollout(STEPS, ENVS, (4,), np.dtype(np.float32), example[0].detach().numpy())
    where = torch.device(device)
    precision = Precision(PrecisionSettings(kind=kind), where)
    return DeviceActor(module.to(where), where, precision, like, groups, capture)


@pytest.mark.parametrize("space", [*SPACES])
@pytest.mark.parametrize("groups", [[slice(0, 5)], [slice(0, 2), slice(2, 5)]])
def test_what_acts_on_a_device_acts_as_the_module_does(space: str, groups: list[slice]) -> None:
    """Here it is the CPU, which has no graphs; that is told."""
    module = network(space, [16], "tanh")
    actor = device_actor(module, groups, "fp32", capture=True)
    assert actor.notice == "acting launched kernel by kernel (RuntimeError: cpu has no graphs)"
    reference = rollout_of(ModuleActor(module, CPU), module, (4,), [slice(None)])
    for _ in range(2):
        ours = rollout_of(actor, module, (4,), groups)
        for name in ("actions", "log_probs", "values"):
            np.testing.assert_allclose(
                getattr(ours, name), getattr(reference, name), rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_on_a_device_it_acts_in_the_arithmetic_that_it_learns_in() -> None:
    """Else the probability ratio of the first minibatch would not be 1."""
    module = network("box", [16], "tanh")
    ours = rollout_of(device_actor(module, [slice(0, 5)], "bf16", capture=False), module, (4,), [slice(0, 5)])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        parameters, values = module(torch.from_numpy(ours.observations).flatten(0, 1))
        log_probs = module.head.log_prob(parameters, torch.from_numpy(ours.actions).flatten(0, 1))
    np.testing.assert_allclose(ours.log_probs.ravel(), log_probs.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.values.ravel(), values.numpy(), rtol=1e-4, atol=1e-4)
    exactly = rollout_of(ModuleActor(module, CPU), module, (4,), [slice(None)])
    assert not np.allclose(ours.values, exactly.values, rtol=1e-4, atol=1e-4), "bf16 is coarser than that"
