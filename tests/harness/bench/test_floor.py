"""The floor's parts, against independent counts and loops."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.floor import Product, median_of_blocks, products_of, seconds_of_products, step_all
from harness.envs import make_environments
from harness.envs.backends.selection import backend_of
from harness.envs.settings import EnvSettings

NETWORKS = {
    "linear": (nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2)), (4,)),
    "convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10)),
        (3, 16, 16),
    ),
    "one layer twice": (nn.Sequential(*[nn.Linear(16, 16)] * 2), (16,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_products_are_the_operations_that_torch_counts(name):
    module, shape = NETWORKS[name]
    inputs = torch.zeros(32, *shape)
    products = products_of(module, inputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(inputs)
    assert sum(2 * each.rows * each.inputs * each.outputs for each in products) == counter.get_total_flops() > 0


def test_a_module_that_is_not_called_with_a_batch_has_no_products_that_are_known():
    assert products_of(nn.ModuleDict({"actor": nn.Linear(4, 1)}), torch.zeros(8, 4)) == []
    assert products_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 1)), torch.zeros(8, 4)) == []


def test_looking_at_a_network_changes_nothing_in_it():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    products_of(module, torch.randn(8, 4))
    assert module.training and not module[0]._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_more_arithmetic_takes_longer():
    torch.set_num_threads(1)
    small, large = ([Product(256, width, width)] for width in (64, 512))
    seconds = [seconds_of_products(each, torch.device("cpu"), torch.float32, 0.05) for each in (small, large)]
    assert seconds[1] > 4 * seconds[0] > 0  # it is 64 times the arithmetic


def test_a_loop_is_timed_by_call():
    assert median_of_blocks(lambda: time.sleep(0.002), 0.05) == pytest.approx(0.0021, rel=0.5)


@pytest.mark.parametrize(
    "env_id, backend", [("CartPole-v1", "native"), ("Acrobot-v1", "sync"), ("Acrobot-v1", "workers")]
)
def test_a_bare_vector_steps_as_many_environments_as_a_rank_does(env_id, backend):
    settings = EnvSettings(id=env_id, backend=backend, count=3)
    library = backend_of(settings.backend).library_vector(settings, 3, cores=1)
    own = make_environments(settings, 0, 1).vector
    try:
        library.reset()
        own.reset([0, 1, 2])
        actions = library.action_space.sample()
        observations = library.step(actions)[0]
        assert observations.shape == (3, *own.observation_space.shape)
        step_all(own, actions)
    finally:
        library.close()
        own.close()
