"""This project on one of its presets, by the same measurements as `harness bench`: environment steps a second of all
ranks, or the floor under them, or the seconds until an evaluation reaches a return."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.bench import running
from harness.bench.throughput import Throughput
from harness.config import load_run_config
from harness.distributed.world import World
from harness.files import write_json
from harness.schema import RunConfig


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", help="a preset, or a file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--floor", action="store_true", help="the floor's steps a second, rather than the run's")
    parser.add_argument("--until", type=float, help="mean return of an evaluation to train for")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure throughput")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where rank 0 writes its figures")
    return parser


def config_of(args: argparse.Namespace) -> RunConfig:
    added = []
    if args.until is not None:
        added = [f"evaluation.stop_at={args.until}", "evaluation.final_episodes=1"]
    return load_run_config(args.preset, [*added, *args.overrides, f"seed={args.seed}"])


def main() -> None:
    args = parser().parse_args()
    world, config = World(), config_of(args)
    if args.until is not None:
        figures = time_to_return(world, config, args.until)
    else:
        figures = throughput(world, config, args.seconds, args.floor)
    if world.place.rank == 0:
        write_json(args.json, figures)
    world.stop()


def throughput(world: World, config: RunConfig, seconds: float, floor: bool) -> dict[str, Any]:
    measured = Throughput.of(running.measure(world, config.to_table(), 1, seconds, with_floor=floor))
    speed = measured.env_steps_per_second.median
    if floor:
        assert measured.floor is not None
        return {"env_steps_per_second": speed * measured.floor.ratio.median}
    shares = {part.phase: part.share.median for part in measured.phases}
    return {"env_steps_per_second": speed, "told": measured.line, "shares": shares}


def time_to_return(world: World, config: RunConfig, wanted: float) -> dict[str, Any]:
    """Raises RuntimeError where the budget ends before."""
    result = running.train(world, config.to_table())
    if result["best_return_mean"] is None or result["best_return_mean"] < wanted:
        raise RuntimeError(f"{wanted:g} was not reached: {result}")
    told = f"{result['env_steps']:,} steps at {result['env_steps_per_second']:,.0f} steps/s, sync {result['sync_path']}"
    return {"seconds": result["wall_seconds"], "told": told}


if __name__ == "__main__":
    main()
