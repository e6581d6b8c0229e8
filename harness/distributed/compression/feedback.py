"""What the compressors of this package share: warm-up, error feedback, random draws, and what a checkpoint keeps.

Error feedback (Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2): what a message leaves out of gradient +
residual is the next residual. What has been sent and all residuals then add up to the gradients: nothing is lost.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from harness.compression_settings import CompressionSettings
from harness.distributed.compression.base import Compressor
from harness.distributed.transports.base import Communicator
from harness.randomness import generator


class FeedbackCompressor(Compressor):
    """`sum_` is the method; a subclass keeps in `memory` what an update leaves to the next."""

    options: ClassVar[tuple[str, ...]] = ()
    """The settings, beside those that all have, that its constructor takes."""

    def __init__(self, error_feedback: bool = False, warmup_updates: int = 0, seed: int = 0) -> None:
        """`warmup_updates`: updates that are summed as they are, before compression begins."""
        self.error_feedback, self.warmup_updates, self.seed = error_feedback, warmup_updates, seed
        self.updates = 0
        """Updates that were summed; equal on all ranks."""
        self.sent = 0
        self.memory: dict[str, torch.Tensor] = {}
        self.loaded: dict[str, torch.Tensor] = {}
        """Memory that a checkpoint held, to be taken by `prepare`."""
        self.prepared = False

    @classmethod
    def from_settings(cls, settings: CompressionSettings, seed: int) -> FeedbackCompressor:
        options = {name: getattr(settings, name) for name in cls.options}
        return cls(
            error_feedback=settings.feeds_back, warmup_updates=settings.warmup_updates, seed=seed, **options
        )  # fmt: skip

    def all_reduce_(self, vector: torch.Tensor, group: Communicator) -> None:
        if not self.prepared:
            self._begin(vector, group)
        self.updates += 1
        if self.updates > self.warmup_updates:
            self.sum_(vector, group)
        else:
            group.all_reduce_(vector, "sum", "gradients")
            self.sent = vector.nbytes

    def bytes_on_the_wire(self) -> int:
        return self.sent

    @abstractmethod
    def prepare(self, vector: torch.Tensor, group: Communicator) -> None:
        """Before the first update, and after a checkpoint was loaded: allocates what `sum_` needs."""

    @abstractmethod
    def sum_(self, vector: torch.Tensor, group: Communicator) -> None:
        """`vector` becomes about the sum; not finite on any rank where it was not on one."""

    def _begin(self, vector: torch.Tensor, group: Communicator) -> None:
        size = vector.numel()
        self.own_key = draw_key(self.seed, size, group.rank + 1)
        self.shared_key = draw_key(self.seed, size, 0)
        # ranks that resume beside new ones must count, and draw, as they do
        self.updates = int(group.agree({"updates": self.updates}, "max")["updates"])
        self.memory.clear()
        self.prepare(vector, group)
        self.loaded = {}
        self.prepared = True

    def keep(self, name: str, fresh: torch.Tensor, numbers: int | None = None) -> torch.Tensor:
        """`fresh`, which is kept over updates and in checkpoints under `name`, with what a checkpoint held of it.
        `numbers`: the checkpoint is to hold its first ones alone."""
        part = fresh[:numbers]
        if name in self.loaded and self.loaded[name].shape == part.shape:
            part.copy_(self.loaded[name])
        self.memory[name] = part
        return fresh

    def rank_state(self) -> dict[str, Any]:
        """The memory itself, not a copy of it."""
        return {"updates": self.updates, **(self.memory if self.prepared else self.loaded)}

    def load_rank_state(self, state: dict[str, Any] | None) -> str | None:
        self.prepared = False
        self.updates = 0 if state is None else int(state["updates"])
        self.loaded = {} if state is None else {name: kept for name, kept in state.items() if name != "updates"}
        if state is not None or not self.error_feedback:
            return None
        return "compression: other ranks wrote the checkpoint, and what theirs had left out of their sums is dropped"


def draw_key(seed: int, *indices: int) -> np.ndarray:
    """Of the random numbers of all updates: the run's seed, and what else they depend on."""
    return generator(seed, "compression", *indices).integers(0, 2**64, 2, dtype=np.uint64)


def draws(key: np.ndarray, update: int) -> np.random.Generator:
    """Random numbers of one update: the counter of Philox is the update's number, so that nothing is to be kept."""
    return np.random.Generator(np.random.Philox(key=key, counter=update << 128))
