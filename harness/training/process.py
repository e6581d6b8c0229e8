"""What a run sets for its whole process: threads, denormal numbers, and how freed memory is kept."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits
from torch import nn

SMALLEST = 5e-324
"""A denormal number, above 0 unless such numbers are flushed."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
AT_MOST = 2**30
SMALL_NETWORK = 500_000
"""Parameters below which more than one thread a rank costs more than it brings."""


def keep_freed_memory() -> bool:
    """Has the C library keep up to 1 GiB of freed memory; whether it knows how to (glibc does).

    As it is by default it gives the large tensors of each step back to the system, and the next step pays for them page
    by page: of the Nature CNN's gradient on 176 images that is a fifth of the time, on 704 images two fifths.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(which, AT_MOST) for which in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))


def set_threads(count: int) -> None:
    """Threads of this process's arithmetic, torch's and numpy's: ranks whose threads outnumber the cores wait for each
    other, and numpy's BLAS would take all cores for each of them."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")


def settle_threads(module: nn.Module, cores: int) -> None:
    """As many threads as this network is worth, of this rank's `cores`."""
    small = sum(parameter.numel() for parameter in module.parameters()) < SMALL_NETWORK
    set_threads(1 if small else cores)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Whatever `set_threads` sets meanwhile, this process has as many threads afterwards as it had before."""
    threads = torch.get_num_threads()
    libraries = [
        (each, each.get_num_threads()) for each in ThreadpoolController().select(user_api="blas").lib_controllers
    ]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for library, count in libraries:
            library.set_num_threads(count)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as 0, in this thread alone.

    Adam's mean of a gradient that has become 0, as behind a relu that is never open, decays to such numbers and stays
    there, and a step on them takes twice as long.
    """
    before = not SMALLEST > 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
