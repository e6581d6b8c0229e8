"""A gradient without Python: traced once, run as TorchScript, equal to eager to the bit.

A small network's eager gradient is some two hundred calls from Python of a few microseconds each. Traced they take half
of the time. The trace of a run is kept on disk: it is what compiled code is made from, for the runs that follow.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.training.compile.function import GradientFunction

TRACE = "trace"
"""The kind of entry in a store."""


@contextmanager
def without_advice() -> Iterator[None]:
    """torch recommends its compiler in place of TorchScript, at each call; what is wanted here is to do without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def trace(function: GradientFunction, size: int, data: Sequence[torch.Tensor]) -> Any:
    """TorchScript for minibatches of `size` rows. Raises RuntimeError where it does not give what eager gives."""
    examples = function.examples(size, data)
    recording = function.trace(size, data)
    with torch.inference_mode(), without_advice():
        script = torch.jit.trace(recording, examples, check_trace=False)
    expected = function(*examples)
    found = runner(script)(*examples)
    if not all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(expected, found)):
        raise RuntimeError("the traced gradient differs from eager")
    return script


def save_script(script: Any) -> bytes:
    buffer = io.BytesIO()
    with without_advice():
        torch.jit.save(script, buffer)
    return buffer.getvalue()


def load_script(path: Path) -> Any:
    with without_advice():
        return torch.jit.load(str(path))


def runner(script: Any) -> Callable[..., Sequence[torch.Tensor]]:
    """Runs it as it was written: the interpreter's own optimisations would fuse operations, and round otherwise."""

    def run(*arguments: torch.Tensor) -> Sequence[torch.Tensor]:
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            return script(*arguments)

    return run
