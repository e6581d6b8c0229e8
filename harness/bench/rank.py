"""A rank of a bench: `python -m harness.bench.rank TASK`, started by `launch.py`, hands over what it found."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.bench import reducing, running
from harness.bench.launch import Stopped, hand_over, unpacked
from harness.distributed.world import World
from harness.errors import BadInput

TASKS: dict[str, Callable[..., Any]] = {
    "reduce": reducing.measure,
    "throughput": running.measure,
    "train": running.train,
}
"""Each is called by all ranks with its world, which it starts, and the task's arguments; rank 0's answer counts."""


def run_task(task: str, arguments: Mapping[str, Any]) -> Any:
    """What rank 0 found; None on the others. A rank that cannot go on ends them all: they may wait for it."""
    world = World()
    try:
        found = TASKS[task](world, **arguments)
    except Stopped:  # raised by all ranks alike
        world.stop()
        raise
    except BaseException as error:
        if world.place.size == 1:
            raise
        if isinstance(error, BadInput):
            print(f"harness: {error}", file=sys.stderr, flush=True)
            world.abort(2)
        traceback.print_exc()
        world.abort(1)
    world.stop()
    return found if world.place.rank == 0 else None


def main(word: str) -> int:
    task, arguments, answer = unpacked(word)
    try:
        found = run_task(task, arguments)
    except BadInput as error:
        print(f"harness: {error}", file=sys.stderr, flush=True)
        return 2
    if found is not None:
        hand_over(found, Path(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
