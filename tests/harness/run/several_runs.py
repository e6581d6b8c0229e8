"""Trains in one process, one run after another: `python -m tests.harness.run.several_runs FOLDER NAME…` those of RUNS;
with `--often N M` tiny runs, M after the first N, and says what they have left behind."""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import torch
from threadpoolctl import threadpool_info

from harness.config import load_run_config
from harness.lifecycle.signals import STOP_SIGNALS
from harness.run.train import train

SHORT = [
    "run.steps=2560",
    "evaluation.count=5",
    "evaluation.episodes=4",
    "evaluation.final_episodes=6",
    "run.threads=2",
]
REPLAY = ["algorithm.learning_starts=100", "algorithm.buffer_size=2000"]
RUNS: dict[str, list[str]] = {
    "ppo": ["ppo-cartpole", *SHORT, "seed=3", "env.normalize_observations=true"],
    "dqn": ["dqn-cartpole", *SHORT, *REPLAY, "seed=5"],
    "again": ["ppo-cartpole", *SHORT, "seed=7", "env.backend=sync", "evaluation.environments=training"],
    "sac": ["sac-pendulum", *SHORT, *REPLAY, "seed=2", "env.normalize_rewards=false"],
    "supervised": ["supervised-digits", "algorithm.epochs=3", "seed=4"],
    "compiled": ["ppo-cartpole", *SHORT, "seed=6", "compile.mode=on"],
}
TINY = ["run.steps=512", "evaluation.count=1", "evaluation.episodes=2", "evaluation.final_episodes=2"]
LARGE = ["network.hidden=[512, 512]", "logging.every_seconds=3600"]


def run(name: str, settings: list[str], folder: Path) -> None:
    result = train(load_run_config(settings[0], settings[1:]), folder / name)
    assert result.status == "done", result.reason


def in_use() -> dict[str, Any]:
    """What a run could leave in its process, beside memory."""
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": psutil.Process().num_fds(),
        "children": len(psutil.Process().children()),
        "signals": [str(signal.getsignal(number)) for number in STOP_SIGNALS],
        "torch threads": torch.get_num_threads(),
        "blas threads": [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"],
        "hook": sys.excepthook.__module__,
        "tensors": sum(each.nbytes for each in gc.get_objects() if isinstance(each, torch.Tensor)),
    }


def memory() -> int:
    """Bytes that are resident once what nobody needs is given back."""
    gc.collect()
    return psutil.Process().memory_info().rss


def train_often(folder: Path, first: int, more: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in range(first + more):
        if number == first:
            found = {"memory": [memory()], "in use": [in_use()]}
        preset = ("ppo-cartpole", "dqn-cartpole")[number % 2]
        replay = REPLAY if preset.startswith("dqn") else []
        run(str(number), [preset, *TINY, *LARGE, *replay, f"seed={number}"], folder)
    found["memory"].append(memory())
    found["in use"].append(in_use())
    return found


if __name__ == "__main__":
    where, *words = sys.argv[1:]
    if words[0] == "--often":
        left = train_often(Path(where), *map(int, words[1:]))
        (Path(where) / "left.json").write_text(json.dumps(left))
    else:
        for each in words:
            run(each, RUNS[each], Path(where))
