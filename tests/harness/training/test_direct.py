"""Compiled functions that are called past the compiler's way in, and a network's outputs block by block."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from harness.training.blocks import InBlocks
from harness.training.direct import Direct
from harness.training.precision import Precision, PrecisionSettings
from tests.conftest import need

CPU = torch.device("cpu")


class Scaled:
    """Writes `inputs` times a factor, plus what lies in a container."""

    def __init__(self, factor: float, beside: torch.Tensor) -> None:
        self.factor, self.beside = factor, {"beside": beside}
        self.direct = Direct(self.write, {"cpp_wrapper": True})

    def write(self, inputs: torch.Tensor, unused: torch.Tensor, outputs: torch.Tensor) -> None:
        outputs.copy_(self.factor * inputs + self.beside["beside"])


def test_arguments_may_be_others_and_the_rest_is_read_where_it_lies() -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    beside, unused = torch.ones(3), torch.zeros(1)
    scaled = Scaled(2.0, beside)
    for number in range(3):
        inputs, outputs = torch.full((3,), float(number)), torch.zeros(3)
        beside.fill_(10.0 * number)
        scaled.direct(inputs, unused, outputs)
        assert outputs.tolist() == [12.0 * number] * 3
        scaled.direct.compiled = None  # type: ignore[assignment]  # it is not needed any more


def test_each_has_its_own_code() -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    both = Scaled(2.0, torch.ones(3)), Scaled(3.0, torch.zeros(3))
    for _ in range(2):
        for scaled, expected in zip(both, (5.0, 6.0)):
            outputs = torch.zeros(3)
            scaled.direct(torch.full((3,), 2.0), torch.zeros(1), outputs)
            assert outputs.tolist() == [expected] * 3


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("most", "rows"), [(7, 3), (7, 7), (1200, 513), (1200, 1200)])
def test_a_network_in_blocks_gives_what_it_gives_at_once(most: int, rows: int, compiled: bool) -> None:
    network = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).requires_grad_(False)
    inputs, outputs = torch.randn(most, 4), torch.full((most, 3), torch.nan)
    blocks = InBlocks(network, inputs, outputs, Precision(PrecisionSettings(), CPU))
    assert blocks.block == min(512, most)
    if compiled:
        need(shutil.which("g++"), "a C++ compiler, g++")
        blocks.compile("torch")
        outputs.fill_(torch.nan)
    for factor in (1.0, 2.0):  # as a target network that is updated in place
        network[2].weight.mul_(factor)
        blocks(rows)
        torch.testing.assert_close(outputs[:rows], network(inputs[:rows]), rtol=1e-5, atol=1e-6)


def test_large_observations_come_in_smaller_blocks() -> None:
    images = torch.zeros(64, 4, 84, 84, dtype=torch.uint8)
    blocks = InBlocks(nn.Flatten(), images, torch.zeros(64, 4 * 84 * 84), Precision(PrecisionSettings(), CPU))
    assert blocks.block == 37
