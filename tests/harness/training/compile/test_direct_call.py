"""Compiled functions that are called past the compiler's way in, and a network's outputs block by block."""

from __future__ import annotations

import gc
import shutil
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from harness.distributed.transports.base import Alone
from harness.schema import PrecisionSettings
from harness.training.compile.blocks import InBlocks
from harness.training.compile.direct_call import DirectCall
from harness.training.compile.gradient import compile_in_turn
from harness.training.precision import Precision
from tests.conftest import need

CPU = torch.device("cpu")


class Scaled:
    """Writes `inputs` times a factor, plus what lies in a container."""

    def __init__(self, factor: float, beside: torch.Tensor) -> None:
        self.factor, self.beside = factor, {"beside": beside}
        self.direct = DirectCall(self.write, {})

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


def test_each_has_its_own_code() -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    both = Scaled(2.0, torch.ones(3)), Scaled(3.0, torch.zeros(3))
    for _ in range(2):
        for scaled, expected in zip(both, (5.0, 6.0)):
            outputs = torch.zeros(3)
            scaled.direct(torch.full((3,), 2.0), torch.zeros(1), outputs)
            assert outputs.tolist() == [expected] * 3


@pytest.mark.parametrize("compiled", ["", "torch", "onednn"])
@pytest.mark.parametrize(("most", "rows"), [(7, 3), (7, 7), (4800, 1601), (4800, 4800)])
def test_a_network_in_blocks_gives_what_it_gives_at_once(most: int, rows: int, compiled: str) -> None:
    network = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).requires_grad_(False)
    inputs, outputs = torch.randn(most, 4), torch.full((most, 3), torch.nan)
    blocks = InBlocks(network, inputs, outputs, Precision(PrecisionSettings(), CPU))
    assert blocks.block == {7: 7, 4800: 1600}[most]
    if compiled:
        need(shutil.which("g++"), "a C++ compiler, g++")
        blocks.compile(compiled)
        outputs.fill_(torch.nan)
    for factor in (1.0, 2.0):  # as a target network that is updated in place
        network[2].weight.mul_(factor)
        blocks(rows)
        torch.testing.assert_close(outputs[:rows], network(inputs[:rows]), rtol=1e-5, atol=1e-6)


def test_large_observations_come_in_smaller_blocks() -> None:
    images = torch.zeros(64, 4, 84, 84, dtype=torch.uint8)
    given = nn.Flatten(), images, torch.zeros(64, 4 * 84 * 84), Precision(PrecisionSettings(), CPU)
    assert InBlocks(*given).block == 32  # of 37 that are a megabyte
    assert InBlocks(*given, least=40).block == 32 and InBlocks(*given, least=64).block == 64


def test_all_ranks_make_the_blocks_alike_or_none_compiles_them() -> None:
    class Unlike(Alone):
        """Another rank, whose compiler fails."""

        def gather_objects(self, obj: Any) -> list[Any]:
            return [obj, "no compiler"] if isinstance(obj, str) else [obj, obj]

    class Gradient:
        def compile(self) -> None: ...

    need(shutil.which("g++"), "a C++ compiler, g++")
    network = nn.Linear(4, 3).requires_grad_(False)
    blocks = InBlocks(network, torch.randn(7, 4), torch.zeros(7, 3), Precision(PrecisionSettings(), CPU))
    eager = blocks.function
    make: Any = lambda products: Gradient()  # noqa: E731
    made = compile_in_turn(make, Unlike(), "torch", blocks)
    assert made == (None, "compiling failed: no compiler") and blocks.function == eager


def test_what_a_compiled_method_reaches_is_given_back_with_it() -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    scaled = Scaled(2.0, torch.ones(3))
    for _ in range(2):
        scaled.direct(torch.ones(3), torch.zeros(1), torch.zeros(3))
    alive = weakref.ref(scaled), weakref.ref(scaled.beside["beside"])
    del scaled
    gc.collect()
    assert [each() for each in alive] == [None, None]
