"""Runs rows of the table and writes RESULTS.md: `python -m tests.benchmarks [--rows 2,3] [--output DIR]`.

Each row is written as soon as it is measured; rows that were not asked for stay as they are. `--rows 2` means all rows
whose key begins so: 2a and 2b. `--quote` puts the table into the README.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.benchmarks.contest import ROOT, Result, Row, Verdict
from tests.benchmarks.machine import Watch
from tests.benchmarks.results import load, quote, save, section
from tests.benchmarks.rows import rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help="which, by comma; all where it is empty")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs; each row has its own number")
    parser.add_argument("--seconds", type=float, help="how long a contestant measures; each has its own default")
    parser.add_argument("--quote", action="store_true", help="measure nothing: put the table into the README")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of RESULTS.md")
    args = parser.parse_args()
    if args.quote:
        quote(ROOT / "README.md", load(args.output))
        return 0
    wanted = [key.strip() for key in args.rows.split(",") if key.strip()]
    every = rows()
    for key in wanted:
        if not any(known.startswith(key) for known in every):
            print(f"make bench: there is no row {key}; ROWS may be some of {','.join(every)}", file=sys.stderr)
            return 2
    chosen = [row for key, row in every.items() if not wanted or key.startswith(tuple(wanted))]
    command = "make bench" + (f" ROWS={','.join(wanted)}" if wanted else "")
    for row in chosen:
        result = measure(row, command, args.rounds, args.seconds)
        save(args.output, {**load(args.output), row.key: result})
        print(f"\n{section(result)}", flush=True)
    return 0


def measure(row: Row, command: str, rounds: int | None = None, seconds: float | None = None) -> Result:
    with Watch() as watch:
        scores = row.run(rounds, seconds)
    verdicts = [Verdict.on(claim, scores) for claim in row.claims]
    return Result(row.key, row.title, row.unit, row.note, scores, verdicts, watch.birth(command))


if __name__ == "__main__":
    sys.exit(main())
