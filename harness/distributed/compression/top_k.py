"""Each rank's k largest numbers, with their places (Lin et al. 2018, "Deep Gradient Compression", arXiv 1712.01887)."""

from __future__ import annotations

import math

import numpy as np
import torch

from harness.distributed.compression.codec import CHUNK
from harness.distributed.compression.sparse import Sparsifier, poison
from harness.distributed.transports.base import Communicator

SAMPLE = 64 * 1024
"""Numbers that a threshold is taken from; smaller vectors are searched whole."""
LEAST = 2.0**-126
"""Smaller numbers count as zero."""


class TopK(Sparsifier):
    """Biased: |error|^2 <= (1 - k / n) |v|^2. The ranks' places differ, so that messages are gathered: N k pairs of 8
    bytes, where an all-reduce moves about 8 n bytes at each rank; `CompressionSettings.check_ranks` refuses more."""

    def prepare(self, vector: torch.Tensor, group: Communicator) -> None:
        super().prepare(vector, group)
        k, device = self.k, vector.device
        self.own = torch.zeros(2 * k, dtype=torch.int32, device=device)
        """Places, and the bits of the numbers."""
        self.received = torch.zeros(group.size, 2 * k, dtype=torch.int32, device=device)
        self.places, self.values = self.own[:k], self.own[k:].view(torch.float32)
        self.received_places = self.received[:, :k]
        self.received_values = self.received.view(torch.float32)[:, k:]
        self.spare = torch.empty(min(CHUNK, vector.numel()), device=device)

    def sum_(self, vector: torch.Tensor, group: Communicator) -> None:
        total = self.accumulate(vector)
        chosen = largest(total, self.k, self.spare)
        count = len(chosen)
        if count < self.k:  # others are zero
            self.own.zero_()
        self.places[:count].copy_(chosen)
        torch.index_select(total, 0, chosen, out=self.values[:count])
        if (bad := poison(total)) != 0.0:
            self.values.fill_(bad)
        self.leave_behind(chosen)
        group.all_gather_(self.received.view(torch.uint8), self.own.view(torch.uint8))
        vector.zero_()
        for places, values in zip(self.received_places, self.received_values):
            vector.index_add_(0, places, values)
        self.sent = self.own.nbytes


def largest(vector: torch.Tensor, k: int, spare: torch.Tensor) -> torch.Tensor:
    """int64 (k,): the places of the k numbers of largest magnitude, each once; less where less are not zero.

    Of a long vector a sample gives a threshold that a little more than k numbers reach, and these are searched. Where
    less reach it, it is lowered: the result is that of a search of all.
    """
    numbers = vector.numel()
    if numbers <= SAMPLE:
        return torch.topk(vector.abs(), k, sorted=False).indices
    sample = vector[:: numbers // SAMPLE].abs()
    wanted = len(sample) * k / numbers
    while True:
        wanted = 1.1 * wanted + 3 * math.sqrt(wanted) + 1
        rank = min(len(sample), math.ceil(wanted))
        threshold = float(torch.topk(sample, rank, sorted=False).values.min())
        if not threshold > 0 or rank == len(sample):
            threshold = LEAST
        found = at_least(vector, threshold, spare)
        if len(found) >= k or threshold == LEAST:
            break
    if len(found) <= k:
        return found
    return found[torch.topk(vector[found].abs(), k, sorted=False).indices]


def at_least(vector: torch.Tensor, threshold: float, spare: torch.Tensor) -> torch.Tensor:
    """int64: the places of numbers whose magnitude is at least that."""
    if vector.device.type != "cpu":
        return (vector.abs() >= threshold).nonzero()[:, 0]
    parts = []
    for start in range(0, vector.numel(), len(spare)):
        part = vector[start : start + len(spare)]
        reached = torch.abs(part, out=spare[: len(part)]) >= threshold
        parts.append(np.flatnonzero(reached.numpy()) + start)
    return torch.from_numpy(np.concatenate(parts))
