"""How every contestant is timed: some iterations to warm up, then as many as fill the time, and what it measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

WARM_UP = 6
"""Iterations before the clock starts: a compiler, an allocator and the caches have done by then what they do once."""


def iterations_per_second(run: Callable[[int], object], seconds: float, agree: Callable[[int], int] = int) -> float:
    """`run(n)` does n iterations: how many it does a second, over about `seconds`, after the warm-up.

    `agree` makes a count rank 0's on every rank.
    """
    run(WARM_UP // 2)
    began = perf_counter()
    run(WARM_UP // 2)
    count = agree(max(1, round(seconds * (WARM_UP // 2) / (perf_counter() - began))))
    began = perf_counter()
    run(count)
    return count / (perf_counter() - began)


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all contestants take; sizes are those of one rank."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--env", default="CartPole-v1", help="gymnasium's name")
    parser.add_argument("--envs", type=int, default=4, help="environments of this rank")
    parser.add_argument("--steps", type=int, default=128, help="steps of each between updates")
    parser.add_argument("--minibatch", type=int, default=128, help="samples of a minibatch, of this rank")
    parser.add_argument("--epochs", type=int, default=4, help="passes over each rollout")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64], help="widths of the hidden layers")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where rank 0 writes its figures")
    return parser
