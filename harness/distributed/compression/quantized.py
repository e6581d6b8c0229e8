"""int8 with stochastic rounding and a scale for each block: QSGD (Alistarh et al. 2017, arXiv 1610.02132)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from harness.distributed.compression.codec import CHUNK_ON_DEVICE, Codec, Field, Fields

LEVELS = 127
"""The paper's s: steps from 0 to a block's largest number."""
NOISE = 64 * 1024


class Int8(Codec):
    """A number v of a block becomes the step below or above v * s / max|v|, each as likely as it is near: unbiased,
    with a variance of at most min(n / s^2, sqrt(n) / s) |v|^2 (lemma 3.1; there |v| is the scale, here max|v|, which is
    less). A quarter of the bytes, and 4 more for each block."""

    options = ("block",)
    noise = NOISE

    def __init__(self, block: int = 256, **common: Any) -> None:
        super().__init__(**common)
        self.block, self.fields = block, (Field(torch.float32, block), Field(torch.int8))

    def encode(self, numbers: torch.Tensor, fields: Fields, drawn: int) -> None:
        scales, steps = fields
        work = self.work[: numbers.numel()]
        blocks, of_work = numbers.view(-1, self.block), work.view(-1, self.block)
        torch.amax(torch.abs(blocks, out=of_work), 1, out=scales)
        scales.mul_(TO_STEP)  # a block of zeros has a scale of zero, one of what is not finite a scale that is not
        torch.mul(blocks, scales.clamp(min=LEAST).reciprocal_()[:, None], out=of_work)
        steps.copy_(work.add_(uniform(work.numel(), work.device, drawn)).floor_())

    def decode(self, fields: Fields, out: torch.Tensor) -> None:
        scales, steps = fields
        out.copy_(steps)
        out.view(-1, self.block).mul_(scales[:, None])


TO_STEP = (1 + 2.0**-20) / LEVELS
"""A little more than a step, so that rounding never reaches 128."""
LEAST = 1e-37


@functools.cache
def table(device: torch.device) -> torch.Tensor:
    """float32 (NOISE + the longest chunk,): (i + 0.5) / NOISE in random order, over and over. From wherever a chunk
    begins in it, each of its numbers is uniform, so that rounding by it is unbiased, for the price of an addition."""
    order = np.random.Generator(np.random.Philox(key=1)).permutation(NOISE)
    once = torch.from_numpy(((order + 0.5) / NOISE).astype(np.float32)).to(device)
    return once.repeat(2 if device.type == "cpu" else 1 + CHUNK_ON_DEVICE // NOISE)


def uniform(numbers: int, device: torch.device, drawn: int) -> torch.Tensor:
    return table(device)[drawn : drawn + numbers]
