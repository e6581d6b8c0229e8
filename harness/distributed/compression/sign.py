"""One bit a number: scaled signs (Karimireddy et al. 2019, arXiv 1901.09847; Zheng et al. 2019, in blocks)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from harness.distributed.compression.codec import Codec, Field, Fields


class Sign(Codec):
    """A block v of n numbers becomes |v|_1 / n * sign(v), with 0 as positive. Biased: error feedback makes up for it,
    without which it may not converge."""

    options = ("block",)

    def __init__(self, block: int = 256, error_feedback: bool = True, **common: Any) -> None:
        super().__init__(error_feedback=error_feedback, **common)
        self.block, self.fields = block, (Field(torch.float32, block), Field(torch.uint8, 8))

    def encode(self, numbers: torch.Tensor, fields: Fields, drawn: int) -> None:
        scales, signs = fields
        work = torch.abs(numbers, out=self.work[: numbers.numel()])
        torch.sum(work.view(-1, self.block), 1, out=scales).div_(self.block)
        if numbers.device.type == "cpu":
            positive = work.numpy().view(np.bool_)[: len(numbers)]
            signs.numpy()[:] = np.packbits(np.greater_equal(numbers.numpy(), 0, out=positive))
        else:
            torch.sum((numbers >= 0).view(-1, 8) * BITS.to(numbers.device), 1, dtype=torch.uint8, out=signs)

    def decode(self, fields: Fields, out: torch.Tensor) -> None:
        scales, signs = fields
        if out.device.type == "cpu":
            np.take(signs_of_bytes(out.device).numpy(), signs.numpy(), axis=0, out=out.view(-1, 8).numpy(), mode="clip")
        else:
            torch.index_select(signs_of_bytes(out.device), 0, signs.int(), out=out.view(-1, 8))
        out.view(-1, self.block).mul_(scales[:, None])


BITS = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8)


@functools.cache
def signs_of_bytes(device: torch.device) -> torch.Tensor:
    """float32 (256, 8): 1 for a bit that is set, -1 for one that is not, the highest bit first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1).to(device)
