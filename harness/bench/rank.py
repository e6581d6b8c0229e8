"""A rank of a bench: `python -m harness.bench.rank TASK`, started by `launch.py`, prints what it found."""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from harness.bench import reducing, running
from harness.bench.launch import MARK, Stopped
from harness.distributed.world import World
from harness.errors import BadInput
from harness.files import plain

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


def main(packed: str) -> int:
    try:
        found = run_task(*json.loads(base64.urlsafe_b64decode(packed)))
    except BadInput as error:
        print(f"harness: {error}", file=sys.stderr, flush=True)
        return 2
    if found is not None:
        print(f"\n{MARK}{json.dumps(plain(found), allow_nan=False)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
