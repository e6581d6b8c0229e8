"""What a checkpoint costs while training goes on: `python -m tests.benchmarks.saving --json FILE`, alone or as ranks of
`mpirun` and `horovodrun`.

PPO with a network of 25 million parameters (a checkpoint of 300 MB with Adam's moments). The same number of iterations
with and without a save at their start, in turns: the seconds that a save adds to them, the stall of its copy among
them, as a share of the minute between two saves.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from harness.config import load_run_config
from harness.distributed.world import World
from harness.files import write_json
from harness.lifecycle.signals import StopRequests
from harness.run.attempt import Attempt
from harness.run.loop import Run
from tests.benchmarks.machine import Watch

WIDTH = 3535
SETTINGS = [
    *("run.steps=1_000_000_000", "compile.mode=off", "logging.tensorboard=false", "checkpoint.every_minutes=1e6"),
    *("env.count=8", "algorithm.rollout_steps=16", "algorithm.minibatch_size=64", "algorithm.epochs=1"),
    *("sync.check_every=1_000_000", "evaluation.count=1"),
]
MINUTE = 60.0
WANTED = 0.03
"""The share of throughput that a save a minute may cost."""


def timed(run: Run, iterations: int, save: bool) -> tuple[float, float]:
    """Seconds of so many iterations, until the save among them is on the disk; and those of its copy."""
    checkpointer = run.checkpointer
    assert checkpointer is not None
    run.communicator.barrier()
    began = time.perf_counter()
    stall = 0.0
    if save:
        checkpointer.iteration = None
        run.save()
        stall = time.perf_counter() - began
    for _ in range(iterations):
        run.account(run.iterate())
    run.communicator.barrier()
    seconds = time.perf_counter() - began
    if save and checkpointer.saver.busy:
        raise SystemExit("the save takes longer than the iterations: more --seconds")
    assert checkpointer.settle() is None
    return seconds, stall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of iterations, with or without a save")
    parser.add_argument("--repeats", "--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, help="taken, and of no meaning here")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the two hidden layers of policy and value")
    parser.add_argument("--folder", help="where the checkpoints are written; default: a temporary one")
    parser.add_argument("--json", help="where the figures go")
    arguments = parser.parse_args()
    given = ("--seconds", arguments.seconds, "--repeats", arguments.repeats, "--width", arguments.width)
    command = shlex.join(["python", "-m", "tests.benchmarks.saving", *map(str, given)])
    overrides = [*SETTINGS, f"network.hidden=[{arguments.width}, {arguments.width}]"]
    config = load_run_config("ppo-cartpole", overrides)
    world = World()
    communicator = world.start(config.sync.path)
    with StopRequests() as requests, tempfile.TemporaryDirectory(dir=arguments.folder, prefix="saving-") as own:
        folder = Path(communicator.broadcast_object(own))
        run = Run(Attempt(config, folder, "never", world, requests))
        run._open()
        timed(run, 1, save=False)
        one, _ = timed(run, 2, save=False)
        iterations = int(communicator.broadcast_object(max(2, round(2 * arguments.seconds / one))))
        timed(run, iterations, save=True)  # the first one's memory is new
        with Watch() as watch:
            rows = [(timed(run, iterations, False)[0], *timed(run, iterations, True)) for _ in range(arguments.repeats)]
        parameters = sum(parameter.numel() for parameter in run.algorithm.module.parameters())
        size = sum(path.stat().st_size for path in (folder / "checkpoints" / "latest").resolve().iterdir())
        run.metrics.close()
        run.progress.close()
        run.algorithm.close()
        communicator.barrier()
    if world.place.rank == 0:
        costs = [with_save - without for without, with_save, _ in rows]
        cost, stall = statistics.median(costs), statistics.median(stall for *_, stall in rows)
        shares = f"{100 * cost / MINUTE:.2f} % of a minute (wanted: under {100 * WANTED:.0f} %)"
        print(f"{parameters / 1e6:.1f} million parameters, {size / 1e6:.0f} MB, {world.place.size} rank(s):")
        print(
            f"a save costs {cost:.2f} s ({min(costs):.2f} … {max(costs):.2f}), {shares}; its copy stalls {stall:.2f} s"
        )
        figures = {
            "parameters": parameters,
            "bytes": size,
            "ranks": world.place.size,
            "iterations": iterations,
            "seconds_without": [without for without, *_ in rows],
            "seconds_with": [with_save for _, with_save, _ in rows],
            "seconds_of_copies": [stall for *_, stall in rows],
            "seconds_of_a_save": cost,
            "share_of_a_minute": cost / MINUTE,
            "passed": cost / MINUTE < WANTED,
            "birth": asdict(watch.birth(command)),
        }
        row = {
            "key": "saving",
            "title": f"A checkpoint of {parameters / 1e6:.0f} million parameters ({size / 1e6:.0f} MB) in training",
            "unit": "s",
            "note": "What a save adds to the same iterations, one after another with and without it, its copy and all "
            "that its threads take of the cores among it; allowed are 3 % of the minute between two saves.",
            "scores": [
                {"name": "a save", "command": command, "values": costs},
                {"name": "of it, training stands still", "command": "", "values": [stall for *_, stall in rows]},
                {"name": "allowed", "command": "", "values": [WANTED * MINUTE] * len(rows)},
            ],
            "claims": [{"of": "a save", "against": "allowed", "at_most": 1.0}],
        }
        figures["rows"] = [row]
        if arguments.json:
            write_json(Path(arguments.json), figures)
    world.stop()


if __name__ == "__main__":
    main()
