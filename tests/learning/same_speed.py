"""Do two ranks learn as fast as one? `python -m tests.learning.same_speed [--presets A,B] [--seeds N|A,B] [--jobs N]`.

Trains each preset over seeds with one rank and with two until an evaluation of 10 episodes reaches 475, and compares
the environment steps that it took. Resumable as `make learn` is; writes SAME_SPEED.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.distributed.world import available_cores
from harness.files import read_json, write_json, write_text
from tests.command import ROOT
from tests.learning.figures import bootstrap
from tests.learning.results import origin, without_curve
from tests.learning.rows import FULL_EACH, ROWS, SEEDS_FROM, Row, seeds_of
from tests.learning.runs import Ledger, Record, StopRequest, merged, run_all

PRESETS = ("ppo-cartpole", "dqn-cartpole")
SEEDS = 20
SIDES = "one", "two"
Runs = tuple[list[Record], ...]
"""A preset's runs with one rank, and with two."""
WIDTH = 0.25
"""The interval of the ratio has to be narrower than so much to either side."""
OVERRIDES = (
    f"evaluation.stop_at={FULL_EACH:g}",
    "evaluation.count=100",
    "evaluation.episodes=10",
    "evaluation.final_episodes=10",
)
HEAD = f"""# Two ranks, the same experiment: do they learn as fast?

Environment steps, of all ranks together, until an evaluation of 10 episodes (100 in a run's budget) reached
{FULL_EACH:g}, with one rank and with two of the same global batch. A run that never did counts with its whole budget.
The ratio is that of the means over the seeds, two ranks over one, with the 95 % interval of 10,000 bootstrap resamples
of the seeds, each with its runs of one rank and of two. It holds where the interval contains 1 and is narrower than
±{WIDTH:.0%}. Made by `python -m tests.learning.same_speed`.

"""


@dataclass(frozen=True)
class Compared:
    """A preset's runs on one rank and on two, of the same seeds in the same order."""

    one: Sequence[Record]
    two: Sequence[Record]

    @classmethod
    def of(cls, one: Sequence[Record], two: Sequence[Record]) -> Compared:
        """Of the seeds that both have."""
        both = {record.seed for record in one} & {record.seed for record in two}
        return cls([each for each in one if each.seed in both], [each for each in two if each.seed in both])

    @property
    def steps(self) -> np.ndarray:
        """int64 (seeds, 2)"""
        return np.array([[record.env_steps for record in records] for records in (self.one, self.two)]).T

    def interval(self) -> tuple[float, float, float]:
        """The ratio, and the ends of its interval."""
        return (float(ratio(self.steps)), *bootstrap(self.steps, ratio))

    @property
    def holds(self) -> bool:
        _, low, high = self.interval()
        return low <= 1.0 <= high and high - low < 2 * WIDTH and len(self.one) >= SEEDS


def ratio(steps: np.ndarray) -> np.ndarray:
    """Of the means over the seeds: (…, seeds, 2) to (…)."""
    one, two = np.moveaxis(steps.mean(-2), -1, 0)
    return two / one


def rows(preset: str) -> tuple[Row, Row]:
    """With one rank and with two."""
    one = replace(ROWS[preset], overrides=OVERRIDES)
    return one, replace(one, ranks=2)


def table(kept: dict[str, Compared]) -> str:
    lines = ["| preset | seeds | one rank | two ranks | never | ratio | interval | holds |", "|" + "---|" * 8]
    for preset, each in kept.items():
        found, low, high = each.interval()
        mean, deviation = each.steps.mean(0), each.steps.std(0, ddof=1)
        spreads = [f"{mean[side]:,.0f} ± {deviation[side]:,.0f}" for side in (0, 1)]
        never = " and ".join(str(sum(r.reason is None for r in records)) for records in (each.one, each.two))
        interval = f"{low:.3f} … {high:.3f}"
        cells = [preset, str(len(each.one)), *spreads, never, f"{found:.3f}", interval]
        lines.append(f"| {' | '.join(cells)} | {'yes' if each.holds else '**no**'} |")
    return "\n".join([*lines, "", ""])


def section(preset: str, each: Compared) -> str:
    seeds = "; ".join(f"{one.seed}: {one.env_steps:,}, {two.env_steps:,}" for one, two in zip(each.one, each.two))
    commands = [f"`python -m harness {' '.join(row.command('SEED'))}`" for row in rows(preset)]
    lines = [f"## {preset}", "", f"Each seed, with one rank and with two: {seeds}.", ""]
    return "\n".join([*lines, f"{' and '.join(commands)}, {origin([*each.one, *each.two])}.", "", ""])


def load(folder: Path) -> dict[str, Runs]:
    kept = read_json(folder / "SAME_SPEED.json") or {}
    return {preset: tuple([Record.of(each) for each in pair[side]] for side in SIDES) for preset, pair in kept.items()}


def together(folder: Path, preset: str, ledger: Ledger) -> Runs:
    """What stands of the preset as it is now, and what the ledger has."""
    standing = load(folder).get(preset, ([], []))
    return tuple(merged(row, there, ledger.records(row)) for row, there in zip(rows(preset), standing))


def save(folder: Path, presets: Sequence[str], ledger: Ledger) -> dict[str, Compared]:
    """Writes the presets anew, beside what stands of others; what can be compared of them all."""
    every = load(folder)
    every |= {preset: runs for preset in presets if any(runs := together(folder, preset, ledger))}
    kept = {preset: dict(zip(SIDES, ([*map(without_curve, side)] for side in every[preset]))) for preset in every}
    write_json(folder / "SAME_SPEED.json", kept)
    compared = {preset: Compared.of(*every[preset]) for preset in sorted(every)}
    compared = {preset: each for preset, each in compared.items() if len(each.one) > 1}
    sections = "".join(map(section, compared, compared.values()))
    write_text(folder / "SAME_SPEED.md", HEAD + table(compared) + sections)
    return compared


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.learning.same_speed", description=__doc__)
    parser.add_argument("--presets", default=",".join(PRESETS), help="which, by comma")
    seeds_help = f"how many, from {SEEDS_FROM} on, or which, by comma"
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of(str(SEEDS)), help=seeds_help)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: one for two cores")
    parser.add_argument("--minutes", type=float, help="stop what runs after so many, to go on next time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learn", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of SAME_SPEED.md")
    args = parser.parse_args()
    presets, ledger = args.presets.split(","), Ledger(args.runs)
    unknown = [preset for preset in presets if preset not in ROWS]
    if unknown:
        print(f"same_speed: --presets may be some of {','.join(ROWS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    finished = {
        row: {record.seed for record in runs}
        for preset in presets
        for row, runs in zip(rows(preset), together(args.output, preset, ledger))
    }
    wanted = [
        (row, seed) for preset in presets for seed in args.seeds for row in rows(preset) if seed not in finished[row]
    ]
    made, jobs = 0, args.jobs or max(1, len(available_cores()) // 2)
    with StopRequest(args.minutes) as stop:
        for record in run_all(wanted, ledger, jobs, stop, lambda text: print(text, flush=True)):
            made += 1
            print(f"{record.preset} on {record.ranks}, seed {record.seed}: {record.env_steps:,} steps", flush=True)
    print(f"\n{table(save(args.output, presets, ledger))}")
    return 0 if made == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
