"""k numbers at random places, the same on all ranks, so that they are summed on the wire (Stich et al. 2018, arXiv
1809.07599)."""

from __future__ import annotations

from typing import Any

import torch

from harness.distributed.compression.feedback import draws
from harness.distributed.compression.sparse import Sparsifier, poison
from harness.distributed.transports.base import Communicator


class RandomK(Sparsifier):
    """The vector is cut into k strips of about equal length, and one number of each is sent. With error feedback as it
    is, E |error|^2 = (1 - k / n) |v|^2; without, times the length of its strip: unbiased, with a variance of
    (n / k - 1) |v|^2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def prepare(self, vector: torch.Tensor, group: Communicator) -> None:
        super().prepare(vector, group)
        edges = torch.arange(self.k + 1, dtype=torch.int64, device=vector.device) * vector.numel() // self.k
        self.starts, self.lengths = edges[:-1], edges.diff()
        self.scales = self.lengths.float()
        self.message = torch.empty(self.k + 1, device=vector.device)
        """The numbers, and one that is not finite where any of the vector is not."""

    def sum_(self, vector: torch.Tensor, group: Communicator) -> None:
        total = self.accumulate(vector)
        # in float64, so that a place is never that of the next strip
        uniform = torch.from_numpy(draws(self.shared_key, self.updates).random(self.k)).to(vector.device)
        places = self.starts + (uniform * self.lengths).long()
        values = self.message[: self.k]
        torch.index_select(total, 0, places, out=values)
        self.message[self.k] = poison(total)
        self.leave_behind(places)
        if self.residual is None:
            values.mul_(self.scales)
        group.all_reduce_(self.message, "sum", "random_k")
        vector.zero_()
        vector.index_copy_(0, places, values)
        vector[0] += self.message[self.k]
        self.sent = self.message.nbytes
