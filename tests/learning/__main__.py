"""Trains presets over seeds and writes RESULTS.md: `python -m tests.learning [--rows A,B] [--seeds N|A,B] [--jobs N]`.

A run that has finished, here or wherever the RESULTS.json that stands was made, is not made again while its preset
stays as it is; another --output and --runs start over. Runs are kept in a folder that git ignores. One that was
stopped, by a signal or by --minutes, resumes from its checkpoint next time. RESULTS.md is written after each run; rows
that were not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.distributed.world import available_cores
from tests.command import ROOT
from tests.learning.results import Standing, load, quote, quote_presets, save, table, write
from tests.learning.rows import LEAST_SEEDS, ROWS, SEEDS_FROM, seeds_of
from tests.learning.runs import Ledger, Record, StopRequest, merged, run_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.learning", description=__doc__)
    parser.add_argument("--rows", default="", help="which presets, by comma; all that there are where it is empty")
    seeds_help = f"how many, from {SEEDS_FROM} on, or which, by comma"
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of(str(LEAST_SEEDS)), help=seeds_help)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: one a core")
    parser.add_argument("--minutes", type=float, help="stop what runs after so many, to go on next time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learn", help="folder of the runs")
    quote_help = "run nothing: put what was reached into the presets and the docs"
    parser.add_argument("--quote", action="store_true", help=quote_help)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of RESULTS.md")
    args = parser.parse_args()
    if args.quote:
        say(f"changed: {', '.join(quote_presets(load(args.output))) or 'none'}")
        quote(ROOT, load(args.output))
        return 0
    asked = [key.strip() for key in args.rows.split(",") if key.strip()]
    for key in asked:
        if key not in ROWS or not ROWS[key].exists:
            known = ",".join(row.preset for row in ROWS.values() if row.exists)
            print(f"make learn: there is no row {key}; ROWS may be some of {known}", file=sys.stderr)
            return 2
    if args.jobs is not None and args.jobs < 1:
        print(f"make learn: --jobs must be at least 1, got {args.jobs}", file=sys.stderr)
        return 2
    rows = [ROWS[key] for key in asked or ROWS if ROWS[key].exists]
    ledger = Ledger(args.runs)
    standing = load(args.output)
    kept = {row.preset: merged(row, standing.get(row.preset, []), ledger.records(row)) for row in rows}
    finished = {preset: {record.seed for record in records} for preset, records in kept.items()}
    wanted = [(row, seed) for row in rows for seed in args.seeds if seed not in finished[row.preset]]
    say(f"{len(wanted)} runs of {len(rows)} rows to make, {sum(map(len, finished.values()))} there already")
    for row in rows:
        save(args.output, row, ledger.records(row))
    made = 0
    jobs = args.jobs or max(1, len(available_cores()) // max([row.ranks for row, _ in wanted], default=1))
    with StopRequest(args.minutes) as stop:
        for record in run_all(wanted, ledger, jobs, stop, say):
            made += 1
            save(args.output, ROWS[record.preset], ledger.records(ROWS[record.preset]))
            say(line(record))
    write(args.output, load(args.output))
    say("\n" + table([Standing(row, load(args.output).get(row.preset, [])) for row in rows]))
    return 0 if made == len(wanted) else 1


def line(record: Record) -> str:
    value = f"diverged ({record.reason})" if record.value is None else f"{record.value:.5g} ± {record.std:.3g}"
    cost = f"{record.wall_seconds / 60:.1f} minutes, {record.cpu_seconds / 60:.1f} of CPU"
    return f"{record.preset} seed {record.seed}: {value}, {record.env_steps:,} steps, {cost}"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
