"""BatchNorm over ranks against torch's own on the whole batch.

A second rank is stood in for by a communicator that doubles every sum: what another rank with the same samples would
bring about, so that the whole batch is the local one twice. Real ranks with unlike shares: tests/multirank.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from harness.distributed.transports.base import Alone
from harness.training.batchnorm import GlobalBatchNorm


class WithATwin(Alone):
    size = 2

    def all_reduce_(self, tensor, op="sum", name="value"):
        return tensor.mul_(2)


class WithoutSamples(Alone):
    """This rank's samples do not count; the other rank's sums are these."""

    size = 2

    def __init__(self, sums):
        self.sums = list(sums)

    def all_reduce_(self, tensor, op="sum", name="value"):
        return tensor.add_(self.sums.pop(0))


LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "1d with length": (lambda: nn.BatchNorm1d(3), (5, 3, 4)),
    "2d": (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),
    "3d": (lambda: nn.BatchNorm3d(3), (2, 3, 2, 2, 2)),
    "without weights": (lambda: nn.BatchNorm2d(3, affine=False), (2, 3, 4, 4)),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (2, 3, 4, 4)),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_gradients_and_statistics_are_those_of_the_whole_batch(name):
    make, shape = LAYERS[name]
    torch.manual_seed(3)
    ours = make()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs = copy.deepcopy(ours)
    weighting = torch.randn(shape)
    for _ in range(3):
        x = torch.randn(shape) * 2 + 1
        here, whole = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
        with GlobalBatchNorm(ours, WithATwin()):
            outputs = ours(here)
            (outputs * weighting).sum().backward()
        expected = theirs(whole)
        (expected * torch.cat([weighting, weighting])).sum().backward()
        torch.testing.assert_close(outputs, expected[: len(x)])
        torch.testing.assert_close(here.grad, whole.grad[: len(x)], rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(2 * mine.grad, other.grad, rtol=1e-4, atol=1e-5)  # the step adds the twin's part
    for mine, other in zip(ours.buffers(), theirs.buffers()):
        torch.testing.assert_close(mine, other)


def test_a_small_variance_beside_a_large_mean_is_not_lost():
    x = torch.randn(64, 2, dtype=torch.float64) * 0.01 + 1000.0
    layer = nn.BatchNorm1d(2, affine=False)
    exact = nn.BatchNorm1d(2, affine=False).double()(x)
    with GlobalBatchNorm(layer, WithATwin()):
        found = layer(x.float())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.02)  # float32 holds 1000 to 6e-5, of 0.01


def test_evaluation_uses_the_running_statistics_without_a_collective():
    layer = nn.BatchNorm1d(3).eval()
    layer.running_mean.fill_(2.0)
    x = torch.randn(4, 3)
    with GlobalBatchNorm(layer, WithoutSamples([])) as norm:
        assert norm.layers == []
        torch.testing.assert_close(layer(x), (x - 2.0) / (1.0 + 1e-5) ** 0.5)


def test_stand_ins_are_normalised_by_the_others_and_change_nothing():
    others = torch.tensor([4.0, 4 * 1.0, 4 * 5.0], dtype=torch.float64)  # 4 samples, mean 1, mean of squares 5
    layer = nn.BatchNorm1d(1)
    x = torch.tensor([[3.0]], requires_grad=True)
    with GlobalBatchNorm(layer, WithoutSamples([others, torch.tensor([[1.0], [1.0]])])) as norm:
        norm.counted = False
        outputs = layer(x)
        (outputs * float("nan")).sum().backward()
    assert float(outputs.detach()) == pytest.approx((3 - 1) / (4 + 1e-5) ** 0.5)
    assert float(x.grad) == 0.0
    assert (float(layer.weight.grad), float(layer.bias.grad)) == (0.0, 0.0)
    assert float(layer.running_var) == pytest.approx(0.9 + 0.1 * 4 * 4 / 3)


def test_one_value_per_channel_over_all_ranks_is_refused_as_torch_does():
    layer = nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="more than one value per channel"):
        with GlobalBatchNorm(layer, WithoutSamples([torch.zeros(5)])):
            layer(torch.randn(1, 2))


def test_the_model_is_as_before_afterwards_even_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    forward = model[1].forward
    with pytest.raises(RuntimeError):
        with GlobalBatchNorm(model, WithATwin()):
            assert model[1].forward != forward
            model(torch.zeros(3, 7))
    assert model[1].forward == forward
    pickle.loads(pickle.dumps(model))


def test_a_layer_with_a_forward_of_its_own_and_one_rank_are_left_alone():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return x

    with GlobalBatchNorm(Own(2), WithATwin()) as norm:
        assert norm.layers == []
    with GlobalBatchNorm(nn.BatchNorm1d(2), Alone()) as norm:
        assert norm.layers == []
