"""Random numbers that follow from the seed and what they are for, so that nothing needs to remember a generator."""

from __future__ import annotations

import numpy as np

PURPOSES = {
    "actions": 1,
    "minibatches": 2,
    "shuffle": 3,
    "augmentation": 4,
    "dropout": 5,
    "updates": 6,
    "compression": 7,
}


def generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A stream of its own for each purpose and indices (iteration, epoch, …): the same on all ranks."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, PURPOSES[purpose], *indices])))
