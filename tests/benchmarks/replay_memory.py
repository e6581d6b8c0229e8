"""What a replay of a million transitions of 84x84x4 takes: filled to its end, and measured as the process's memory."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

import numpy as np
import psutil

from harness.buffers.replay import Replay
from harness.envs.backends.base import StepResult
from harness.files import write_json

TRANSITIONS, ENVS, SHAPE, STACK = 1_000_000, 8, (4, 84, 84), 4
EPISODE = 500
"""Steps of an episode, at whose end every environment is truncated: one frame more and a new stack, each time."""
ALLOWED = 8.0


def gigabytes(ranks: int, transitions: int) -> float:
    """Of all ranks together, each with its share of the environments; every place is written at least once."""
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    replays = [replay_of(transitions, ENVS // ranks) for _ in range(ranks)]
    for replay in replays:
        fill(replay)
    return (process.memory_info().rss - before) / 1e9


def replay_of(transitions: int, envs: int) -> Replay:
    return Replay(transitions // ENVS, envs, SHAPE, np.dtype(np.uint8), np.zeros((), np.int64), stack=STACK)


def fill(replay: Replay) -> None:
    envs = replay.envs
    random = np.random.default_rng(0)
    pool = random.integers(0, 256, (16, envs, *SHAPE), dtype=np.uint8)
    replay.begin(pool[0])
    actions, rewards = np.zeros(envs, np.int64), np.zeros(envs, np.float32)
    on, over = np.zeros(envs, bool), np.ones(envs, bool)
    for step in range(replay.slots + 1):
        ends = step % EPISODE == EPISODE - 1
        seen = pool[step % len(pool)]
        replay.add(actions, StepResult(seen, rewards, rewards, on, over if ends else on, seen if ends else None))
    assert (replay.written >= replay.slots).all() and (replay.count >= replay.capacity).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="taken, and of no meaning here")
    parser.add_argument("--transitions", type=int, default=TRANSITIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    args = parser.parse_args()
    command = "python -m tests.benchmarks.replay_memory"
    names = {1: "1 rank", 2: "2 ranks together"}
    found = {name: [gigabytes(ranks, args.transitions) for _ in range(args.rounds)] for ranks, name in names.items()}
    row = {
        "key": "replay",
        "title": f"Replay of {args.transitions:,} transitions of 84x84x4 bytes, full",
        "unit": "GB",
        "note": "What the process takes more than before (RSS), once every place was written; episodes of "
        f"{EPISODE} steps are cut by a limit, and each such end takes 4 more frames.",
        "scores": [
            *({"name": name, "command": command, "values": values} for name, values in found.items()),
            {"name": "allowed", "command": "", "values": [ALLOWED] * args.rounds},
        ],
        "claims": [{"of": name, "against": "allowed", "at_most": 1.0} for name in found],
    }
    write_json(args.json, {"rows": [row]})


if __name__ == "__main__":
    main()
