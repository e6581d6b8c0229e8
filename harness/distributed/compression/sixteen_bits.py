"""Words of 16 bits on the wire, and sums in float32: nothing overflows, however many ranks there are."""

from __future__ import annotations

from typing import Any

import torch

from harness.distributed.compression.codec import Codec, Field, Fields


class Bf16(Codec):
    """bfloat16: half of the bytes, the range of float32, a relative error of up to 2^-9."""

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.fields = (Field(torch.bfloat16),)

    def encode(self, numbers: torch.Tensor, fields: Fields, drawn: int) -> None:
        fields[0].copy_(numbers)

    def decode(self, fields: Fields, out: torch.Tensor) -> None:
        out.copy_(fields[0])


class Fp16(Codec):
    """IEEE half precision with a scale for each block, a power of two: half of the bytes, and a relative error of up to
    2^-11 for numbers down to 2^-29 of the block's largest. Gradients are small: without a scale many would be
    subnormal, and scaled losses would overflow."""

    options = ("block",)

    def __init__(self, block: int = 256, **common: Any) -> None:
        super().__init__(**common)
        self.block, self.fields = block, (Field(torch.float32, block), Field(torch.float16))

    def encode(self, numbers: torch.Tensor, fields: Fields, drawn: int) -> None:
        scales, words = fields
        blocks, work = numbers.view(-1, self.block), self.work[: numbers.numel()].view(-1, self.block)
        torch.amax(torch.abs(blocks, out=work), 1, out=scales)
        largest = scales.view(torch.int32)  # its exponent alone: the power of two below
        largest.bitwise_and_(EXPONENT).clamp_(min=LEAST)
        scales.mul_(2.0**-14)
        words.view(-1, self.block).copy_(torch.mul(blocks, scales.reciprocal()[:, None], out=work))  # exact

    def decode(self, fields: Fields, out: torch.Tensor) -> None:
        scales, words = fields
        out.copy_(words)
        out.view(-1, self.block).mul_(scales[:, None])


EXPONENT = 0x7F800000
LEAST = (127 - 100) << 23
"""2^-100, which scales a block of zeros."""
