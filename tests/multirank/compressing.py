"""A rank that sums gradients by every compressor, by every exchange of messages, and gives what came of it."""

from __future__ import annotations

import math
import zlib
from typing import Any
from unittest import mock

import torch
from torch import nn

from harness.compression_settings import COMPRESSION_KINDS, CompressionSettings
from harness.distributed.arena import Arena
from harness.distributed.compression import codec, make_compressor
from harness.distributed.compression.base import Compressor
from harness.distributed.transports.base import Communicator
from tests.multirank.launch import give, join

KINDS = COMPRESSION_KINDS[1:]
SHAPES = (130, 257), (257,), (64, 33)
UPDATES, AFTER = 4, 2


def make(kind: str, arena: Arena, group: Communicator, error_feedback: bool) -> Compressor:
    settings = CompressionSettings(kind=kind, error_feedback=error_feedback, fraction=0.05)
    compressor = make_compressor(settings, seed=5)
    assert compressor is not None
    compressor.attach(arena, group)
    return compressor


def gradient(arena: Arena, rank: int, update: int) -> torch.Tensor:
    return torch.randn(arena.size, generator=torch.Generator().manual_seed(100 * update + rank))


def summed(compressor: Compressor, vector: torch.Tensor, group: Communicator) -> tuple[torch.Tensor, bool]:
    """The sum, and whether it is the same to the bit on all ranks."""
    compressor.all_reduce_(vector, group)
    return vector, len(set(group.gather_objects(zlib.crc32(vector.numpy())))) == 1


def scenario(kind: str, group: Communicator, error_feedback: bool) -> dict[str, Any]:
    arena = Arena(nn.ParameterList(torch.zeros(shape) for shape in SHAPES))
    compressor = make(kind, arena, group, error_feedback)
    given, received, errors, equal = torch.zeros(arena.size), torch.zeros(arena.size), [], []
    for update in range(UPDATES):
        exact = sum(gradient(arena, rank, update) for rank in range(group.size))
        found, same = summed(compressor, gradient(arena, group.rank, update), group)
        given, received = given + exact, received + found
        errors.append(float((found - exact).norm() / exact.norm()))
        equal.append(same)
    left = compressor.rank_state().get("residual", torch.zeros(arena.size)).clone()
    group.all_reduce_(left, name="left")
    resumed = make(kind, arena, group, error_feedback)
    resumed.load_rank_state({name: torch.as_tensor(kept).clone() for name, kept in compressor.rank_state().items()})
    resumes = []
    for update in range(UPDATES, UPDATES + AFTER):
        one, _ = summed(compressor, gradient(arena, group.rank, update), group)
        other, _ = summed(resumed, gradient(arena, group.rank, update), group)
        resumes.append(torch.equal(one, other))
    bad = gradient(arena, group.rank, 0)
    if group.rank == group.size - 1:
        bad[7] = math.nan
    poisoned, _ = summed(make(kind, arena, group, error_feedback), bad, group)
    large, _ = summed(make(kind, arena, group, error_feedback), torch.full((arena.size,), 6e4), group)
    return {
        "equal": equal,
        "errors": errors,
        "lost": float((received + left - given).norm() / given.norm()),
        "resumes": resumes,
        "poisoned": bool(torch.isfinite(poisoned).all()),
        "largest": float(large.max()),
        "bytes": compressor.bytes_on_the_wire() / (4 * arena.size),
    }


def low_rank_in_sum(group: Communicator) -> float:
    """The error of PowerSGD where the sum has its rank, and no rank's part has."""
    arena = Arena(nn.ParameterList([torch.zeros(SHAPES[0])]))
    parts = torch.stack([gradient(arena, rank, 0) for rank in range(group.size)])
    rows, columns = SHAPES[0]
    random = torch.Generator().manual_seed(1)
    exact = torch.randn(rows, 4, generator=random) @ torch.randn(4, columns, generator=random)
    vector = (parts - parts.mean(0))[group.rank] + exact.reshape(-1) / group.size
    found, _ = summed(make("powersgd", arena, group, False), vector, group)
    return float((found - exact.reshape(-1)).norm() / exact.norm())


if __name__ == "__main__":
    world, communicator = join()
    found = {}
    ways = {"whole": math.inf, "parts": 0}
    if communicator.size == 2:
        del ways["parts"]  # which two ranks never exchange
    for exchange, gathered in ways.items():
        with mock.patch.object(codec, "GATHERED", gathered):
            for kind in KINDS:
                for error_feedback in (True,) if communicator.transport == "horovod" else (False, True):
                    found[exchange, kind, error_feedback] = scenario(kind, communicator, error_feedback)
    give((found, low_rank_in_sum(communicator)))
    world.stop()
