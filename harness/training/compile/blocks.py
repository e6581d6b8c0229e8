"""A fixed network's outputs for more rows than a minibatch has: products of more rows are quicker for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from harness.training.compile.direct_call import DirectCall
from harness.training.compile.matmul import products_pass
from harness.training.precision import Precision

MOST_ROWS, MOST_BYTES = 2048, 2**20
"""Of a block's inputs: what is made of them stays in a cache."""


class InBlocks:
    """`module` from the rows of `inputs` (most, …) to those of `outputs` (most, …), float32. The module's parameters,
    which have no gradient, and both tensors stay where they are."""

    def __init__(
        self, module: nn.Module, inputs: torch.Tensor, outputs: torch.Tensor, precision: Precision, least: int = 1
    ) -> None:
        """`least`: rows that a block may have however large they are, those of a minibatch."""
        self.module, self.inputs, self.outputs, self.precision = module, inputs, outputs, precision
        most = max(min(MOST_ROWS, MOST_BYTES // (inputs[0].numel() * inputs.element_size())), least)
        self.block = math.ceil(len(inputs) / math.ceil(len(inputs) / most))
        self.function: Callable[[torch.Tensor, torch.Tensor], None] = self._write

    def compile(self, products: str) -> None:
        """By a call whose result is thrown away."""
        compiled = DirectCall(self._write, {"post_grad_custom_post_pass": products_pass(products)})
        with torch.no_grad():
            compiled(self.inputs[: self.block], self.outputs[: self.block])
        self.function = compiled

    def forget(self) -> None:
        self.function = self._write

    def _write(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        with self.precision.autocast():
            outputs.copy_(self.module(inputs))

    @torch.no_grad()
    def __call__(self, count: int) -> None:
        """For the first `count` rows, and some after them."""
        last = len(self.inputs) - self.block
        for first in range(0, count, self.block):
            rows = slice(min(first, last), min(first, last) + self.block)
            self.function(self.inputs[rows], self.outputs[rows])
