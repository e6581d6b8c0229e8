"""A rank's side of `harness bench throughput` and `scaling`: a run as `harness train` makes it, timed."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from harness.algorithms import algorithm_class
from harness.bench.floor import Floor
from harness.bench.launch import Stopped
from harness.config import resolve
from harness.distributed.world import World
from harness.lifecycle.signals import StopRequests
from harness.reporting import Progress, open_metrics
from harness.run.attempt import Attempt
from harness.run.checks import check
from harness.run.loop import Run
from harness.run.stopping import StopReason
from harness.run.summary import first_line, resolved

LEAST_WARM_UP = 3
"""Iterations at least; compilation is part of them."""
FLOOR_SECONDS = 0.3
"""What each part of the floor is measured for, each time."""


def measure(
    world: World, config: dict[str, Any], repeats: int, seconds: float, with_floor: bool = True
) -> dict[str, Any]:
    """Runs the config's iterations without its evaluations and checkpoints: a warm-up of at least `seconds`, then
    `repeats` times as many iterations as take about `seconds`, and after each the floor, on all ranks at once.

    Seconds are those of the slowest rank, those of phases and floor the means over the ranks.
    """
    settings = resolve(config)
    check(settings, world.place.size)
    communicator = world.start(settings.sync.path)
    algorithm_class(settings.algorithm.name).check_ranks(settings, communicator)
    with StopRequests() as requests, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = Run(Attempt(settings, Path(folder), "never", world, requests))
        run.progress = Progress()
        run.metrics = open_metrics(run.run_dir, run.rank, settings.logging.tensorboard)
        try:
            iterations, inputs = warm_up(run, seconds)
            floor = Floor(run, inputs, min(seconds, FLOOR_SECONDS)) if with_floor else None
            found = []
            for _ in range(repeats):
                repeat = time_iterations(run, iterations)
                if floor is not None:
                    communicator.barrier()
                    repeat["floor"] = mean(communicator.gather_objects(floor.measure()))
                found.append(repeat)
            return {
                "line": first_line(run),
                "notices": run.algorithm.notices(),
                "config": resolved(run).to_table(),
                "ranks": communicator.size,
                "environments": None if run.environments is None else run.environments.share.total,
                "iterations": iterations,
                "products": None if floor is None else len(floor.products),
                "repeats": found,
            }
        finally:
            run.metrics.close()
            run.algorithm.close()


def iterate(run: Run) -> None:
    """One iteration and all that follows it in a run, but evaluations; the budget starts over where it ends."""
    if run.counters.iteration == run.algorithm.iterations:
        run.counters.iteration = 0
    if run.account(run.iterate()) != StopReason.GO_ON:  # agreed by all ranks
        raise Stopped("stopped on request: nothing was measured")


def warm_up(run: Run, seconds: float) -> tuple[int, tuple[int, ...] | None]:
    """How many iterations take about `seconds` once they are as fast as they will be, as rank 0 finds; and the shape
    of what the network takes, without the batch, where it can be seen. An algorithm that first only collects (a replay
    memory) does so before this begins to count."""
    shapes = [] if run.environments is None else [run.environments.observation_space.shape]
    seen = run.algorithm.module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[1:])))
    if shapes:  # a hook would be in the way of compilers
        seen.remove()
    while run.counters.gradient_steps == 0 and run.counters.iteration < run.algorithm.iterations:
        iterate(run)
    seen.remove()
    times: list[float] = []
    begun = perf_counter()
    while True:
        since = perf_counter()
        iterate(run)
        times.append(perf_counter() - since)
        enough = len(times) >= LEAST_WARM_UP and perf_counter() - begun >= seconds
        iterations = max(1, round(seconds / statistics.median(times)))
        enough, iterations = run.communicator.broadcast_object((enough, iterations))
        if enough:
            return iterations, shapes[0] if shapes else None


def time_iterations(run: Run, iterations: int) -> dict[str, Any]:
    """`seconds`, `env_steps`, `gradient_steps` of so many iterations, and `phases`: the seconds of each."""
    run.phases.stop()
    run.phases.seconds.clear()
    steps, gradients = run.counters.env_steps, run.counters.gradient_steps
    run.communicator.barrier()
    begun = perf_counter()
    for _ in range(iterations):
        iterate(run)
    if run.world.device.type == "cuda":
        torch.cuda.synchronize(run.world.device)
    run.phases.stop()
    seconds = run.communicator.gather_objects(perf_counter() - begun)
    phases = run.communicator.gather_objects(run.phases.seconds)
    names = sorted({name for spent in phases for name in spent})
    return {
        "seconds": max(seconds),
        "env_steps": run.counters.env_steps - steps,
        "gradient_steps": run.counters.gradient_steps - gradients,
        "phases": mean([{name: spent.get(name, 0.0) for name in names} for spent in phases]),
    }


def mean(found: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Over the ranks; None where a rank has none."""
    return {
        name: None if value is None else statistics.fmean(each[name] or 0.0 for each in found)
        for name, value in found[0].items()
    }


def train(world: World, config: dict[str, Any]) -> dict[str, Any]:
    """A whole run of the config with its evaluations and checkpoints, in a folder that is gone afterwards; its
    result.json."""
    settings = resolve(config)
    check(settings, world.place.size)
    communicator = world.start(settings.sync.path)
    algorithm_class(settings.algorithm.name).check_ranks(settings, communicator)
    with StopRequests() as requests, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return asdict(Run(Attempt(settings, Path(folder), "never", world, requests)).go())
