"""A function of tensors on a GPU, captured once and launched whole."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

WARM_UPS = 3
"""Calls before a capture: libraries load and choose their kernels, and the allocator finds its sizes."""


class Captured:
    """`function`, which works on tensors that stay where they are, as one CUDA graph; call it to launch that.

    The function is called a few times before, in earnest: it must bear that.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        if device.type != "cuda":
            raise RuntimeError(f"{device.type} has no graphs")
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()
        aside.wait_stream(current)
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()  # what it frees may not be freed during a capture
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    function()
            current.wait_stream(aside)
            # Horovod's thread makes CUDA calls of its own meanwhile: they must not break the capture
            with torch.cuda.graph(self.graph, stream=aside, capture_error_mode="thread_local"):
                function()
        finally:
            torch.cuda.set_stream(current)  # a capture that fails leaves its own stream behind
            if collecting:
                gc.enable()

    def __call__(self) -> None:
        self.graph.replay()


def first_line_of(error: BaseException) -> str:
    """Of the first error where others followed from it: what breaks a capture shows again at the capture's end."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
