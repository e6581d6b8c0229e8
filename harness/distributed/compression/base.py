"""What a compressor is: a sum over ranks of fewer bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Optional

import torch

from harness.compression_settings import CompressionSettings
from harness.distributed.arena import Arena
from harness.distributed.transports.base import Communicator


class Compressor(ABC):
    """Sums one arena's gradient over the ranks, from end to end; one for each arena, so that it may keep what it has
    left out."""

    @classmethod
    def from_settings(cls, settings: CompressionSettings, seed: int) -> Compressor:
        """A new one: of the user's own as `Class(**compression.kwargs)`. `seed`: the run's."""
        return cls(**settings.kwargs)

    def attach(self, arena: Arena, group: Communicator) -> None:
        """It is the gradients of `arena` that will be summed over `group`. BadInput, on all ranks alike, where that
        makes no sense."""

    @abstractmethod
    def all_reduce_(self, vector: torch.Tensor, group: Communicator) -> None:
        """`vector`, float32 (n,), becomes about the sum over `group`, bit-equal on all its ranks; collective."""

    @abstractmethod
    def bytes_on_the_wire(self) -> int:
        """Of the last reduce: what this rank had to say, in place of 4 bytes a number."""

    def rank_state(self) -> dict[str, Any]:
        """What this rank alone has to keep in a checkpoint."""
        return {}

    def load_rank_state(self, state: dict[str, Any] | None) -> str | None:
        """Resumes from `rank_state`; None: other ranks wrote the checkpoint. A line for the user where that loses
        something."""
        return None


MakeCompressor = Callable[[], Optional[Compressor]]
"""Makes one for an arena; None where gradients are summed as they are."""
