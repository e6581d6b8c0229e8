"""Large models: finished parts of the gradient are reduced while the rest of the backward pass runs.

As in Li et al. 2020, "PyTorch Distributed", section 3.2.3. A backward pass finishes the last parameters first. The
arena's gradients are cut into buckets, and a bucket goes on its way when the last of its gradients lies in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from harness.cluster.place import host_name
from harness.distributed.arena import Arena, bring_home
from harness.distributed.transports.base import Capability, Communicator, Work

BUCKET = 1024 * 1024
"""Gradients (4 MB) that a bucket holds at least: at 1 Gbit/s 2, 4 and 8 MB hid the same, and 1 MB a fifth less, since
the wire rests between buckets."""
SMALLEST = 2 * BUCKET
"""Gradients from which an arena is reduced in buckets. The bucket that is finished last can hide behind nothing, and in
a smaller arena it would be most of it."""


class Overlap:
    """Reduces `arena.wire` in buckets: `begin` before a backward pass, `finish` after it.

    Buckets are reduced in the same order on all ranks, whatever order their gradients come in, and those that are not
    complete by the end (a parameter that nothing reached, a rank without samples, which need not even begin) are then
    reduced as they are. The order is that in which the first backward pass completed them; the first step is reduced
    after it, in the same buckets, so that a run that resumes sums in the same order as one that goes on.

    A parameter whose gradient comes in several parts in one backward pass (some kinds of checkpointing) cannot be sent
    at the first of them: where the first step finds one, on any rank, all buckets wait for the end from then on.
    """

    def __init__(self, arena: Arena, communicator: Communicator, bucket: int = BUCKET) -> None:
        """`bucket`: numbers that a bucket holds at least; a parameter is never cut."""
        self.arena, self.communicator = arena, communicator
        self.under_way: list[Work] = []
        self.buckets, self.bucket_of = cut(arena, bucket)
        self.expected = [self.bucket_of.count(number) for number in range(len(self.buckets))]
        self.order: Sequence[int] | None = None
        """Of the buckets, once it is known."""
        self.early = True
        """Whether buckets are reduced before the end of the backward pass."""
        self.listening = False
        self.sent = 0
        """How many buckets of `order` are on their way."""
        self.missing: list[int] = []
        """Gradients that have not come yet, of each bucket."""
        self.arrived: list[bool] = []
        self.completed: list[int] = []
        self.repeated = False
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(functools.partial(self._on_gradient, index))
            for index, parameter in enumerate(arena.members)
        ]

    def begin(self) -> None:
        """What follows is the backward pass whose gradients, as they come, are this rank's part of the sum."""
        if not self.early:
            return
        self.missing = list(self.expected)
        self.arrived = [False] * len(self.bucket_of)
        self.listening = True

    def _on_gradient(self, index: int, parameter: torch.Tensor) -> None:
        if not self.listening:
            return
        bucket = self.bucket_of[index]
        if self.arrived[index]:
            self.repeated = True
            if self.order is not None and bucket in self.order[: self.sent]:
                raise RuntimeError(
                    f"the gradient of a parameter of shape {tuple(parameter.shape)} came in several parts in one "
                    "backward pass, and in the first step it did not: it had been sent to the other ranks already"
                )
            return
        self.arrived[index] = True
        if parameter.grad is not self.arena.homes[index]:
            bring_home(parameter, self.arena.homes[index])
        self.missing[bucket] -= 1
        if self.missing[bucket]:
            return
        if self.order is None:
            self.completed.append(bucket)
            return
        while self.sent < len(self.order) and not self.missing[self.order[self.sent]]:
            self._send(self.order[self.sent])

    def _send(self, bucket: int) -> None:
        self.sent += 1
        self.under_way.append(self.communicator.start_all_reduce(self.buckets[bucket], bucket))

    def finish(self) -> None:
        """Reduces what is left, and waits for all of it: `arena.wire` is then the sum over the ranks."""
        self.listening = False
        for bucket in (self.order or range(len(self.buckets)))[self.sent :]:
            self._send(bucket)
        behind = self.arena.wire[self.arena.size :]
        if behind.numel():
            self.under_way.append(self.communicator.start_all_reduce(behind, len(self.buckets)))
        self.sent = 0
        for work in self.under_way:
            work.wait()
        self.under_way.clear()
        if self.order is None:
            self._learn()

    def _learn(self) -> None:
        """From the first step; the same on all ranks."""
        seen = self.communicator.gather_objects((self.repeated, self.completed))
        self.early = not any(repeated for repeated, _ in seen)
        longest = max((completed for _, completed in seen), key=len)
        self.order = [*longest, *(bucket for bucket in range(len(self.buckets)) if bucket not in longest)]

    def close(self) -> None:
        """The arena is no longer reduced in this way, on any rank."""
        for hook in self.hooks:
            hook.remove()


def cut(arena: Arena, bucket: int) -> tuple[list[torch.Tensor], list[int]]:
    """Parts of `arena.gradients`, from its end to its beginning, and for each parameter the number of its part."""
    buckets: list[torch.Tensor] = []
    bucket_of: list[int] = []
    end = start = arena.size
    for home in reversed(arena.homes):
        start -= home.numel()
        bucket_of.append(len(buckets))
        if end - start >= bucket or start == 0:
            buckets.append(arena.gradients[start:end])
            end = start
    return buckets, bucket_of[::-1]


def overlap_where_it_pays(arena: Arena, communicator: Communicator) -> Overlap | None:
    """None, on all ranks alike, where the arena is reduced at once.

    That is where it is small, and where all ranks are on one host: the reduce is then work for the same cores as the
    backward pass, and there is no wire to wait for. On GPUs it has not been tried.
    """
    if communicator.size == 1 or arena.size < SMALLEST or arena.wire.device.type != "cpu":
        return None
    able = Capability.CONCURRENT in communicator.can
    seen = communicator.gather_objects((host_name(), able))
    if len({host for host, _ in seen}) == 1 or not all(able for _, able in seen):
        return None
    return Overlap(arena, communicator)
