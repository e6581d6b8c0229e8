"""Compressors made as a run makes them, alone, and vectors for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from harness.compression_settings import COMPRESSION_KINDS, CompressionSettings
from harness.distributed.arena import Arena
from harness.distributed.compression import make_compressor
from harness.distributed.compression.base import Compressor
from harness.distributed.transports.base import Alone

KINDS = COMPRESSION_KINDS[1:]
ROWS, COLUMNS, REST = 40, 50, 24
NUMBERS = ROWS * COLUMNS + REST
ALONE = Alone()


SHAPES: tuple[tuple[int, ...], ...] = ((ROWS, COLUMNS), (REST,))


def make(kind: str, seed: int = 0, shapes: tuple[tuple[int, ...], ...] = SHAPES, **settings: Any) -> Compressor:
    """For the gradients of parameters of these shapes."""
    compressor = make_compressor(CompressionSettings(kind=kind, **settings), seed)
    assert isinstance(compressor, Compressor)
    compressor.attach(Arena(nn.ParameterList(torch.zeros(shape) for shape in shapes)), ALONE)
    return compressor


def normal(seed: int, numbers: int = NUMBERS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(numbers).astype(np.float32)


def sent(compressor: Compressor, gradient: np.ndarray) -> np.ndarray:
    """What comes of it, float64."""
    vector = torch.from_numpy(gradient.copy())
    compressor.all_reduce_(vector, ALONE)
    return vector.numpy().astype(np.float64)


def samples(compressor: Compressor, gradient: np.ndarray, count: int) -> np.ndarray:
    """float64 (count, n): what comes of the same gradient in so many updates."""
    return np.stack([sent(compressor, gradient) for _ in range(count)])


def square(vector: np.ndarray) -> float:
    """Its squared 2-norm."""
    return float(np.square(vector.astype(np.float64)).sum())
