"""What is large in an environment, such as a table of prices: told from all else by a fingerprint, so that what a reset
leaves as it was need not be stored."""

from __future__ import annotations

import hashlib
import marshal
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

LARGE_BYTES, LARGE_ITEMS = 2**16, 1_000
"""Arrays of so many bytes, and containers of so many items, are looked at whether they are ever changed."""


def fingerprints_in(value: Any, known: dict[int, tuple[Any, str | None]], depth: int = 3) -> Iterator[str]:
    of_it = fingerprint(value, known)
    if of_it is not None:
        yield of_it
    elif depth and type(value) in (list, tuple, dict) and len(value) < LARGE_ITEMS:
        for item in value.values() if isinstance(value, dict) else value:
            yield from fingerprints_in(item, known, depth - 1)


def fingerprint(value: Any, known: dict[int, tuple[Any, str | None]]) -> str | None:
    """What tells something large from all else, alike in every process; None of what is small or cannot be told so."""
    kind = type(value)
    if kind is np.memmap and not value.flags.writeable:  # a file that nobody writes: its numbers need not be read
        return f"{os.path.basename(str(value.filename))} {value.dtype.str} {value.shape} {value.offset}"
    if kind is np.ndarray or kind in (bytes, str):
        large = (value.nbytes if kind is np.ndarray else len(value)) >= LARGE_BYTES
    else:
        large = kind in (list, tuple, dict) and len(value) >= LARGE_ITEMS or kind.__module__.startswith("pandas.")
    if not large:
        return None
    if id(value) not in known:
        known[id(value)] = value, digest(value)
    return known[id(value)][1]


def digest(value: Any) -> str | None:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return None
        digest = hashlib.sha256(f"{value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).reshape(-1).data if value.ndim else value.tobytes())
        return digest.hexdigest()
    writers: tuple[Callable[..., bytes], ...] = (marshal.dumps, pickle.dumps)
    for write in writers:  # the former is the quicker, of plain values; its version 2 knows no sharing
        try:
            return hashlib.sha256(write(value, 2)).hexdigest()
        except Exception:  # whatever its items may raise
            pass
    return None
