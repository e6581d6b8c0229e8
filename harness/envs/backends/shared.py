"""Memory that a rank shares with its workers: actions in, what the environments answered out."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from gymnasium import spaces

from harness.envs.backends.sync import Arrays

ALIGNMENT = 64
"""Bytes; an array begins on a cache line of its own."""


class SharedArrays:
    """A row for each environment of a rank. The memory is that of a file without a name, so that nothing stays behind
    however its processes end."""

    def __init__(
        self, count: int, observation_space: spaces.Box, action_space: spaces.Space, fd: int = -1, metrics: int = 0
    ) -> None:
        """`fd`: of the memory that another process has made; -1 makes it. `metrics`: how many an info has."""
        self.fd = fd
        seen = (count, *observation_space.shape), observation_space.dtype
        flags = (count,), np.dtype(bool)
        kinds = {
            "actions": ((count, *(action_space.shape or ())), np.dtype(action_space.dtype)),
            "seeds": ((count,), np.dtype(np.uint32)),
            "observations": seen,
            "rewards": ((count,), np.dtype(np.float32)),
            "terminated": flags,
            "truncated": flags,
            "final_observations": seen,
            "lives_lost": flags,
            "info_metrics": ((count, metrics), np.dtype(np.float64)),
        }
        starts, size = {}, 0
        for name, (shape, dtype) in kinds.items():
            starts[name] = size
            size += -(-int(np.prod(shape)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        if fd < 0:
            self.fd = anonymous_file()
            os.ftruncate(self.fd, size)
        memory = mmap.mmap(self.fd, size)
        arrays = {
            name: np.frombuffer(memory, dtype, int(np.prod(shape)), starts[name]).reshape(shape)
            for name, (shape, dtype) in kinds.items()
        }
        self.actions, self.seeds = arrays.pop("actions"), arrays.pop("seeds")
        self.out = Arrays(**arrays)


def anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("environments")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
