"""This project on one of its presets, in the world as `harness train` leaves it: environment steps a second of all
ranks, or the seconds until the mean return of the last 100 episodes reaches a value."""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from pathlib import Path
from time import perf_counter

from harness.config import RunConfig, load_run_config
from harness.distributed.world import World
from harness.files import write_json
from harness.lifecycle.signals import StopRequests
from harness.run import Run
from tests.benchmarks.timing import iterations_per_second

ENDLESS = 1_000_000_000
"""Steps of a run that is only timed: long enough to be worth compiling."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", help="a preset, or a file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--until", type=float, help="mean return to reach; without it, throughput is measured")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure throughput")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where rank 0 writes its figures")
    return parser


def config_of(args: argparse.Namespace) -> RunConfig:
    steps = [] if args.until is not None else [f"run.steps={ENDLESS}"]
    return load_run_config(args.preset, [*steps, *args.overrides, f"seed={args.seed}"])


def main() -> None:
    args = parser().parse_args()
    config = config_of(args)
    world = World()
    collectives = world.start(config.sync.path)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder), world, collectives, StopRequests())
        figures = throughput(run, args.seconds) if args.until is None else time_to_return(run, args.until)
        if collectives.rank == 0:
            write_json(args.json, {**figures, "path": collectives.path, "shares": dict(run.phases.shares())})
        run.algorithm.close()
    world.stop()


def throughput(run: Run, seconds: float) -> dict[str, float]:
    def iterate(times: int) -> None:
        run.phases.seconds.clear()  # the shares are those of what is measured, which comes last
        for _ in range(times):
            run.iterate()

    speed = iterations_per_second(iterate, seconds, run.collectives.broadcast_object)
    return {"env_steps_per_second": speed * run.algorithm.env_steps_per_iteration}


def time_to_return(run: Run, wanted: float) -> dict[str, float]:
    """Seconds and steps until the mean return of the last 100 episodes (or of the last iteration's, if they are more)
    is at least `wanted`; what compiling takes is in them. Raises RuntimeError where the budget ends before."""
    recent: deque[tuple[float, float]] = deque()  # (episodes, sum of their returns) of an iteration
    began = perf_counter()
    while run.counters.env_steps < run.total_steps:
        metrics = run.iterate()
        episodes = metrics.get("episodes", 0.0)
        recent.append((episodes, episodes * metrics.get("return_mean", 0.0)))
        while sum(count for count, _ in recent) - recent[0][0] >= 100:
            recent.popleft()
        count, returns = (sum(column) for column in zip(*recent))
        if count >= 100 and returns / count >= wanted:
            seconds, steps = perf_counter() - began, run.counters.env_steps
            return {"seconds": seconds, "env_steps": steps, "env_steps_per_second": steps / seconds}
    raise RuntimeError(f"a mean return of {wanted:g} was not reached within {run.total_steps:,} steps")


if __name__ == "__main__":
    main()
