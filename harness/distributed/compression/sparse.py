"""What sparsifiers share: k of n numbers are sent, the others stay behind."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.distributed.compression.feedback import FeedbackCompressor
from harness.distributed.transports.base import Communicator


class Sparsifier(FeedbackCompressor):
    options = ("fraction", "momentum_correction")

    def __init__(
        self, fraction: float = 0.01, momentum_correction: float = 0.0, error_feedback: bool = True, **common: Any
    ) -> None:
        """`momentum_correction`: the momentum m of Lin et al. 2018 (arXiv 1712.01887, section 3.1 and equation 6): each
        rank adds up its velocity u = m u + gradient rather than its gradient, and velocity, too, is zeroed where it was
        sent."""
        super().__init__(error_feedback=error_feedback, **common)
        self.fraction, self.momentum = fraction, momentum_correction

    def count(self, numbers: int) -> int:
        """How many of so many numbers are sent: k."""
        return min(numbers, math.ceil(self.fraction * numbers))

    def prepare(self, vector: torch.Tensor, group: Communicator) -> None:
        self.k = self.count(vector.numel())
        self.residual = self.velocity = None
        if self.error_feedback:
            self.residual = self.keep("residual", torch.zeros_like(vector))
            if self.momentum:
                self.velocity = self.keep("velocity", torch.zeros_like(vector))

    def accumulate(self, vector: torch.Tensor) -> torch.Tensor:
        """The gradient with what was left behind: what is chosen from."""
        if self.residual is None:
            return vector
        if self.velocity is not None:
            vector = self.velocity.mul_(self.momentum).add_(vector)
        return self.residual.add_(vector)

    def leave_behind(self, sent: torch.Tensor) -> None:
        """All but the numbers at `sent`, int64 (k,)."""
        if self.residual is not None:
            self.residual.index_fill_(0, sent, 0.0)
        if self.velocity is not None:
            self.velocity.index_fill_(0, sent, 0.0)


def poison(vector: torch.Tensor) -> float:
    """0, or a NaN where a number of `vector` is not finite: it may not be among those that are sent."""
    return 0.0 if math.isfinite(float(torch.linalg.vector_norm(vector))) else math.nan
